import subprocess
import sys
import time

import pytest

from textfiles.locks import try_lock

HOLDER = """
import sys, time
from textfiles.locks import try_lock
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
