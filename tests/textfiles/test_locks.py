import errno
import subprocess
import sys
import time

import pytest

from textfiles import locks
from textfiles.atomic import atomic_directory, atomic_file, remove_leftovers
from textfiles.begun import begin_directory, use_alone
from textfiles.locks import locked, try_lock

HOLDER = """
import sys, time
from textfiles import locks
from textfiles.atomic import atomic_directory, atomic_file, remove_leftovers
from textfiles.begun import begin_directory, use_alone
from textfiles.locks import locked, try_lock
with try_lock(sys.argv[1]) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_lock_excludes_other_processes_and_ends_with_the_one_that_holds_it(tmp_path, repository):
    def other():
        return subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "work.lock")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=repository,
        )

    with try_lock(tmp_path / "work.lock") as mine:
        assert mine
        second = other()
        assert second.stdout.readline() == "False\n"
        second.kill()
    holder = other()
    assert holder.stdout.readline() == "True\n"
    with try_lock(tmp_path / "work.lock") as mine:
        assert not mine
    holder.kill()  # SIGKILL: nothing of it can clean up
    holder.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with try_lock(tmp_path / "work.lock") as mine:
            if mine:
                return
    pytest.fail("the lock of a dead process is still held")


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_works(tmp_path, monkeypatch, error):
    """It must not look like a lock that another process holds, for which a command would wait for ever."""

    def no_locks(*_):
        raise OSError(error, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=f"file system of {tmp_path} has no locks"), try_lock(tmp_path / "a") as mine:
        assert mine
    with pytest.warns(UserWarning, match="has no locks"), locked(tmp_path / "a"):
        pass
    with pytest.warns(UserWarning, match="has no locks"):
        begin_directory(tmp_path / "begun", {"seed": 1})
    with pytest.warns(UserWarning, match="has no locks"):
        use_alone(tmp_path / "alone")
    with atomic_file(tmp_path / "file") as partial, atomic_directory(tmp_path / "directory") as written:
        partial.write_text("text")
        remove_leftovers(tmp_path)  # which cannot know whether their writers live
        assert partial.exists() and written.exists()
    assert (tmp_path / "file").read_text() == "text" and (tmp_path / "directory").is_dir()
