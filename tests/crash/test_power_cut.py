"""A power cut: what the kernel had not yet written to the device is gone. Needs root and loop devices."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.crash.harness import Trials, spread
from tests.crash.test_stages import stage2

# Metadata is committed only when asked or after minutes, and a file's data only when it is synced: the worst that an
# ordinary ext4 may do to a program that forgets to sync.
OPTIONS = "loop,commit=300,noauto_da_alloc"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True)


class Disk:
    """A file system in a file, mounted at a directory."""

    def __init__(self, image, mounted):
        self.image, self.mounted = image, mounted

    def mount(self):
        self.mounted.mkdir(exist_ok=True)
        run("mount", "-o", OPTIONS, str(self.image), str(self.mounted))

    def unmount(self):
        subprocess.run(["umount", str(self.mounted)], check=False, capture_output=True)

    def cut_the_power(self):
        """Keep what is on the device by now; what is only in memory is lost."""
        copy = self.image.with_suffix(".cut")
        shutil.copyfile(self.image, copy)
        self.unmount()
        os.replace(copy, self.image)
        self.mount()


@pytest.fixture
def disk(tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("a power cut needs root and mkfs.ext4")
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(256 * 2**20)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", str(image))
    disk = Disk(image, tmp_path / "disk")
    try:
        disk.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"loop devices cannot be mounted here: {error.stderr.strip()}")
    yield disk
    disk.unmount()


@pytest.mark.crash
def test_the_disk_does_lose_what_is_not_synced(disk):
    """Otherwise the other test proves nothing."""
    Path(disk.mounted, "not-synced").write_text("content")
    with open(disk.mounted / "synced", "w") as file:
        file.write("content")
        file.flush()
        os.fsync(file.fileno())
    unsynced = Path(disk.mounted, "late")
    unsynced.write_text("content")
    disk.cut_the_power()
    assert (disk.mounted / "synced").read_text() == "content"
    assert not unsynced.exists() or unsynced.read_text() == ""


@pytest.mark.crash
def test_a_stage_loses_no_checkpoint_and_no_finished_model_in_a_power_cut(disk):
    """Cut at twelve events of the run, from its first save to its end; started again, it leaves the same files."""
    case = stage2("inverse_sqrt")
    scratch = disk.mounted / "scratch"
    scratch.mkdir()
    trials = Trials(case, scratch)
    for event in [*spread(trials.events, 12), 0]:
        trials.reset()
        run("sync", "-f", str(disk.mounted))
        trials.run(kill_at=event)  # 0: to its end
        disk.cut_the_power()
        finished = (trials.work / "outputs" / "final").exists()
        if event == 0:
            assert finished
        if not finished:
            trials.finish()
        found = trials.files()
        assert {path: content for path, content in found.items() if path.startswith("outputs/final")} == {
            path: content for path, content in trials.expected.items() if path.startswith("outputs/final")
        }, f"power cut before event {event} of {trials.events}"
