import subprocess
import sys
import time

import pytest

from evaluation.files import claim, read_json

HOLDER = """
import sys, time
from evaluation.files import claim
with claim(sys.argv[1]) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_what_is_no_json_is_named_with_the_remedy(tmp_path):
    (tmp_path / "cut.json").write_text('{"score": 0.')
    with pytest.raises(ValueError, match=r"cut\.json cannot be read .*\. Remove it\."):
        read_json(tmp_path / "cut.json", "Remove it.")


def test_a_claim_excludes_other_processes_and_ends_with_the_one_that_holds_it(tmp_path, repository):
    def other():
        return subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path / "work.lock")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=repository,
        )

    with claim(tmp_path / "work.lock") as mine:
        assert mine
        second = other()
        assert second.stdout.readline() == "False\n"
        second.kill()
    holder = other()
    assert holder.stdout.readline() == "True\n"
    with claim(tmp_path / "work.lock") as mine:
        assert not mine
    holder.kill()  # SIGKILL: nothing of it can clean up
    holder.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with claim(tmp_path / "work.lock") as mine:
            if mine:
                return
    pytest.fail("the claim of a dead process is still held")
