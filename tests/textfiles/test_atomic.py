import json
import os
import signal
import subprocess
import sys

import pytest

from textfiles import atomic
from textfiles.atomic import atomic_directory, atomic_file, read_json, remove_leftovers, write_json

# Writes "new" over the directory argv[1] and is killed when os.replace is called for the argv[2]-th time.
KILLED_WRITER = """
import os, signal, sys
from textfiles.atomic import atomic_directory
replace, calls = os.replace, []
def dies(*args):
    calls.append(args)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
os.replace = dies
with atomic_directory(sys.argv[1]) as written:
    (written / "content").write_text("new")
"""


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "result.json"
    write_json(path, {"score": 0.5, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"score": 0.5, "name": "é"}
    with pytest.raises(RuntimeError), atomic_file(path) as partial:
        partial.write_text("half")
        assert json.loads(path.read_text(encoding="utf-8")) == {"score": 0.5, "name": "é"}
        raise RuntimeError
    assert names(path.parent) == ["result.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 0.5


@pytest.mark.parametrize("write", ["file", "directory"])
def test_content_is_on_the_disk_before_its_name_and_the_name_after(tmp_path, monkeypatch, write):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source, target):
        events.append(("rename", os.fspath(target)))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", synced)
    monkeypatch.setattr(atomic.os, "replace", renamed)
    target = tmp_path / "made"
    if write == "file":
        with atomic_file(target) as partial:
            partial.write_text("text")
        content = [str(partial)]
    else:
        with atomic_directory(target) as written:
            (written / "inner").mkdir()
            (written / "inner" / "file").write_text("text")
        content = [str(written), str(written / "inner"), str(written / "inner" / "file")]
    place = events.index(("rename", str(target)))
    assert {path for kind, path in events[:place] if kind == "sync"} >= set(content)
    assert ("sync", str(tmp_path)) in events[place:]


@pytest.mark.parametrize("rename", [1, 2])
def test_a_writer_killed_at_either_rename_loses_nothing(tmp_path, repository, rename):
    target = tmp_path / "model[1]"
    with atomic_directory(target) as written:
        (written / "content").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(target), str(rename)], cwd=repository)
    assert killed.returncode == -signal.SIGKILL
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model[1]"]
    assert (target / "content").read_text() == ("old" if rename == 1 else "new")


def test_an_interrupt_between_the_renames_puts_the_old_directory_back(tmp_path, monkeypatch):
    target = tmp_path / "model"
    with atomic_directory(target) as written:
        (written / "content").write_text("old")
    replace, calls = os.replace, []

    def interrupted(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, destination)

    monkeypatch.setattr(atomic.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_directory(target) as written:
        (written / "content").write_text("new")
    assert names(tmp_path) == ["model"] and (target / "content").read_text() == "old"


def test_a_link_to_a_directory_stays_and_the_directory_is_replaced(tmp_path):
    """As where a small disk has a link to a large one."""
    (tmp_path / "large").mkdir()
    (tmp_path / "small").mkdir()
    link, target = tmp_path / "small" / "model", tmp_path / "large" / "model"
    link.symlink_to(target)
    for content in ("first", "second"):
        with atomic_directory(link) as written:
            (written / "content").write_text(content)
        assert link.is_symlink() and (target / "content").read_text() == content
    assert names(tmp_path / "small") == names(tmp_path / "large") == ["model"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write read-only files")
def test_a_read_only_file_is_synced(tmp_path):
    with atomic_directory(tmp_path / "model") as written:
        (written / "copied").write_text("from an installation")
        (written / "copied").chmod(0o444)
    assert names(tmp_path) == ["model"]


def test_leftovers_are_removed_but_not_those_of_living_writers(tmp_path):
    (tmp_path / "deep").mkdir()
    dead = tmp_path / "deep" / ".partial-0123456789abcdef-shard.jsonl"
    dead.write_text("half")
    (tmp_path / ".writing-of-nobody").mkdir()
    (tmp_path / ".writing-unnamed").mkdir()  # of another program: no name follows the token
    with atomic_file(tmp_path / "alive.json") as partial, atomic_directory(tmp_path / "living") as written:
        partial.write_text("{}")
        remove_leftovers(tmp_path)
        assert not dead.exists() and partial.exists() and written.exists()
    assert names(tmp_path) == [".writing-unnamed", "alive.json", "deep", "living"]


def test_what_is_not_json_is_named_with_the_remedy(tmp_path):
    for content in ('{"score": 0.', "[" * 100_000):
        (tmp_path / "cut.json").write_text(content)
        with pytest.raises(ValueError, match=r"cut\.json is not valid JSON .*\. Remove it\."):
            read_json(tmp_path / "cut.json", "Remove it.")


@pytest.mark.parametrize(("kind", "name"), [(dict, "object"), (list, "list")])
def test_json_of_another_kind_is_named_with_the_remedy(tmp_path, kind, name):
    file = tmp_path / "facts.json"
    for content in ([], {}, None, 3, "text", True):
        file.write_text(json.dumps(content))
        if isinstance(content, kind):
            assert read_json(file, "", kind) == content
        else:
            with pytest.raises(ValueError, match=rf"facts\.json is not a JSON {name}\. Make it again\."):
                read_json(file, "Make it again.", kind)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic_file(tmp_path / "a") as late:
        late.write_text("late")
        with atomic_file(tmp_path / "a") as early:  # the same process number, as in another machine's container
            early.write_text("early")
        assert (tmp_path / "a").read_text() == "early"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "late")]
