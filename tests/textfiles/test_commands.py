"""Ctrl-C and errors that a user can mend end a command with one line."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from textfiles.commands import one_line_errors, run_command

COMMAND = """
import sys, time
from textfiles.commands import run_command
def main(argv):
    print(*argv, flush=True)
    time.sleep(60)
run_command(main)
"""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_interruption_is_one_line_of_the_first_rank_and_exit_code_130(rank):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "ready"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RANK": rank},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 130
    assert printed.strip().splitlines() == (["Interrupted. Rerun the command to resume."] if rank == "0" else [])


@pytest.mark.parametrize("error", [ValueError("bad value"), FileNotFoundError(2, "No such file", "x.yaml")])
def test_what_a_user_can_mend_is_one_line(error):
    with pytest.raises(SystemExit, match="^error: .*(bad value|x.yaml)"), one_line_errors():
        raise error


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(TypeError), one_line_errors():
        raise TypeError


def test_messages_do_not_fail_over_a_character_that_the_output_lacks():
    program = "from textfiles.commands import *\nrun_command(lambda argv: print('gäbe → 5'))"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, b"g\xe4be \\u2192 5\n"), done.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_no_fault_and_no_file_of_the_work_takes_its_number(tmp_path, closed):
    file = tmp_path / "file"
    body = (
        f"[tqdm([1]).close(), print('said'), open({str(file)!r}, 'w').write(''), os.write(1, b'x'), os.write(2, b'y')]"
    )
    program = f"import os\nfrom tqdm import tqdm\nfrom textfiles.commands import *\nrun_command(lambda argv: {body})"
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program], capture_output=True)
    assert (done.returncode, file.read_bytes()) == (0, b""), done.stderr


WRITERS = {
    "one word at its end": "print('one')",
    "more than a pipe holds": "[print('line') for _ in range(100_000)]",
    "below a handler of errors": "one_line_errors()(lambda: [print('line') for _ in range(100_000)])()",
}


@pytest.mark.parametrize("body", WRITERS.values(), ids=WRITERS)
def test_a_command_ends_silently_when_nobody_reads_its_output(body):
    program = f"from textfiles.commands import *\nrun_command(lambda argv: {body})"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 128 + signal.SIGPIPE


def test_another_broken_pipe_is_not_taken_for_a_reader_that_is_gone():
    program = "from textfiles.commands import *\ndef main(argv): raise BrokenPipeError\nrun_command(main)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" in run.stderr


PARENT = """
import sys
from textfiles.commands import run_child, run_command
child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
run_command(lambda argv: run_child([sys.executable, "-c", child]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to_group", [False, True], ids=["one process", "a terminal"])
def test_a_command_ends_with_its_child_in_at_most_one_line(sent, to_group):
    if signal.getsignal(sent) == signal.SIG_IGN:
        pytest.skip("the tests were told to ignore this signal (nohup), and what they start inherits that")
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    (os.killpg if to_group else os.kill)(process.pid, sent)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 128 + sent
    assert len(printed.strip().splitlines()) == (sent == signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


ENDED_AT_THE_START = """
import os, signal, subprocess, sys
from textfiles.commands import run_child, run_command
class EndedAtTheStart(subprocess.Popen):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, stdout=subprocess.PIPE, text=True, **settings)
        print(self.stdout.readline(), end="", flush=True)
        os.kill(os.getpid(), int(sys.argv[1]))
        sum(range(1000))  # where a handler runs
subprocess.Popen = EndedAtTheStart
child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
run_command(lambda argv: run_child([sys.executable, "-c", child]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_ended_while_it_starts_its_child_leaves_none(sent):
    command = [sys.executable, "-c", ENDED_AT_THE_START, str(int(sent))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 128 + sent
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)


WORKERS = """
import multiprocessing, os, sys, time
from textfiles.commands import end_with_parent
def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())  # one write: print's line and its end may come apart
    time.sleep(60)
with multiprocessing.get_context("fork").Pool(2, end_with_parent) as pool:
    pool.map(work, range(2))
"""


def test_workers_end_with_a_parent_that_was_killed(repository):
    parent = subprocess.Popen([sys.executable, "-c", WORKERS], stdout=subprocess.PIPE, text=True, cwd=repository)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while alive := [worker for worker in workers if is_running(worker)]:
        assert time.monotonic() < deadline, f"{alive} go on without their parent"
        time.sleep(0.1)


def is_running(process):
    """A zombie, which a container without an init process keeps, does not run."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_missing_package_of_an_extra_is_named_with_the_command_that_installs_it():
    def needs(name):
        def main(argv):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return main

    with pytest.raises(SystemExit, match=r"error: the package datasets is not installed.*pip install -e '\.\[train"):
        run_command(needs("datasets"))
    with pytest.raises(ModuleNotFoundError, match="curation"):  # a fault of ours keeps its traceback
        run_command(needs("curation.nowhere"))


def test_a_directory_that_may_not_be_written_is_named_wherever_that_was_noticed():
    def noticing(error):
        def main(argv):
            raise error

        return main

    with pytest.raises(SystemExit, match=r"^error: /home/\.cache: permission denied; allow it"):
        run_command(noticing(PermissionError(errno.EACCES, "Permission denied", "/home/.cache")))
    with pytest.raises(SystemExit, match=r"^error: /home: no space left on its disk"):
        run_command(noticing(OSError(errno.ENOSPC, "No space left on device", "/home")))
    with pytest.raises(FileNotFoundError):  # may be a fault of ours, which keeps its traceback
        run_command(noticing(FileNotFoundError(errno.ENOENT, "No such file or directory", "page.css")))
