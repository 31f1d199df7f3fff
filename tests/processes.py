"""Programs in processes of their own, forked from a server that has imported torch and the like already.

A new Python imports them for five seconds; a fork has them at once. Everything else is as it is in a new process: the
command line, the environment, standard output, signals, the exit status and what runs at the end.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEAVY = [
    __name__,
    "torch",
    "transformers",
    "datasets",
    "sentence_transformers",
    "accelerate",
    "recipes.steps.stage1",
    "recipes.shared.contrastive",
]
_SERVER = multiprocessing.get_context("forkserver")
_TIME_LIMIT = 240  # seconds

Program = Path | str | Callable[..., Any]
_STARTED: list["Forked"] = []


@atexit.register
def _kill_what_runs() -> None:
    """What a failed test left behind: multiprocessing, whose own function comes after this one, would wait for it."""
    for process in _STARTED:
        if not process.has_ended:
            process.kill()


class Forked:
    """A program that runs in a process and a session of its own.

    Args:
        program: path of a script, dotted name of a module to run, or a function that is called with the arguments.
        arguments: words of the command line.
        environment: variables that are set for it.
        directory: where it runs; None: the root of the repository.
    """

    def __init__(
        self,
        program: Program,
        arguments: Sequence[Any] = (),
        environment: Mapping[str, Any] | None = None,
        directory: Path | None = None,
    ) -> None:
        descriptor, self._log = tempfile.mkstemp()
        os.close(descriptor)
        settings = {"PYTHONPATH": str(ROOT), **(environment or {})}
        words = [str(word) for word in arguments]
        self._process = _SERVER.Process(
            target=_run,
            args=(program, words, {key: str(value) for key, value in settings.items()}, directory or ROOT, self._log),
        )
        _SERVER.set_forkserver_preload(HEAVY)
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]
        _STARTED.append(self)

    @property
    def printed(self) -> str:
        """What it has printed, to standard output and standard error."""
        return Path(self._log).read_text(errors="replace")

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return not self._process.is_alive()

    def wait(self, limit: float = _TIME_LIMIT) -> int:
        """Wait for its end; its exit status, which is the negative number of the signal that ended it."""
        self._process.join(limit)
        if self._process.is_alive():
            self.kill()
            raise AssertionError(f"no end after {limit} s: {self.printed[-3000:]}")
        assert self._process.exitcode is not None
        return self._process.exitcode

    def wait_until(self, condition: Callable[[], Any], limit: float = _TIME_LIMIT) -> None:
        """Wait until a condition holds while it runs."""
        deadline = time.monotonic() + limit
        while not condition():
            assert not self.has_ended and time.monotonic() < deadline, self.printed[-3000:]
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it with all that it started, and wait for its end."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def run_ranks(count: int, program: Program, arguments: Sequence[Any], directory: Path | None = None) -> str:
    """Run a program on several ranks, as `torchrun` starts them; what they printed.

    Raises:
        AssertionError: a rank failed; with what it printed.
    """
    ranks = [Forked(program, arguments, environment, directory) for environment in rank_environments(count)]
    for rank in ranks:
        status = rank.wait()
        assert status == 0, f"exit status {status}: {rank.printed[-3000:]}"
    return "".join(rank.printed for rank in ranks)


def rank_environments(count: int) -> list[dict[str, str]]:
    """What `torchrun` sets for each of several ranks of this machine."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _run(program: Program, arguments: list[str], environment: dict[str, str], directory: Path, log: str) -> None:
    """In the forked process: become what a new Python that was started with the program would be."""
    os.setsid()
    gc.freeze()  # a collection need not go through all that was imported
    os.environ.update(environment)
    os.chdir(directory)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv = [str(program), *arguments]
    try:
        if callable(program):
            program(*arguments)
        elif isinstance(program, Path) or program.endswith(".py"):
            runpy.run_path(str(program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:  # as at the end of any program; multiprocessing leaves them out
        threading._shutdown()
        atexit._run_exitfuncs()
