"""How every command ends: in one line after Ctrl-C or a mistake of the user, and with the processes it started."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .paths import plain_message

_TIME_TO_SAVE = 60.0  # seconds that a child has after SIGTERM
INTERRUPTED = 128 + signal.SIGINT  # what a shell reports of a process that Ctrl-C ended
_READER_GONE = 128 + 13  # likewise of one that SIGPIPE ended, which Windows does not have
_OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# What the extras `train` and `evaluation` bring and commands import as they start.
_OF_EXTRAS = (
    "accelerate",
    "bm25s",
    "datasets",
    "evaluate",
    "matplotlib",
    "mteb",
    "pyarrow",
    "scipy",
    "sklearn",
    "yaml",
)


def run_command(main: Callable[[list[str]], object], remedy: str = "Rerun the command to resume.") -> None:
    """Run a command on the words of the command line; Ctrl-C ends it with one line and exit code 130.

    It ends silently when the reader of its output does, as in `COMMAND | head`. A character that its output cannot show
    is written as an escape. A path that may not be read or written ends it with one line, wherever that is noticed.
    Call it with a `main` that imports what is heavy itself, so that Ctrl-C during the imports ends the same way, and a
    missing package with one line that says how to install it. Of several ranks, only the first prints the line after
    Ctrl-C.

    Args:
        main: takes the command line without the program's name.
        remedy: what to do after an interruption.
    """
    _prepare_streams()
    try:
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        sys.exit(_READER_GONE)
    except OSError as error:  # of a package as it is imported, for example, which makes a cache in the home directory
        if error.errno not in _OF_THE_DISK or error.filename is None:
            raise
        raise SystemExit(f"error: {plain_message(error)}") from error
    except ModuleNotFoundError as error:
        if error.name == "peft":  # which only adapters need
            raise SystemExit(f"error: {error}") from error
        if error.name not in _OF_EXTRAS:
            raise
        raise SystemExit(
            f"error: the package {error.name} is not installed; in the checkout, with its environment active: "
            "pip install -e '.[train,evaluation]'"
        ) from error
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process without waiting for cleanup
        if os.environ.get("RANK", "0") == "0":
            print(f"\nInterrupted. {remedy}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


def _prepare_streams() -> None:
    """Let no work fail over its messages: neither where a stream is closed (`>&-`) nor where it lacks a character."""
    for name in ("stdin", "stdout", "stderr"):  # a file opens with the lowest free number, that of the closed stream
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output; what is left for it is dropped then, or Python's end would write it."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error that the user can mend, in a value or a file, into one line and exit code 1.

    Raises:
        SystemExit: in place of ValueError and OSError, with their message (see `textfiles.paths.plain_message`).
        BrokenPipeError: as it is, for `run_command`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {plain_message(error)}") from error


def run_child(command: Sequence[str]) -> int:
    """Run a program to its end and return its exit code; if this process is ended meanwhile, so is the program.

    After Ctrl-C, SIGTERM or a closed terminal, the program gets SIGTERM, so that it may save, and is killed after a
    minute. Ctrl-C at the terminal reaches this process alone.

    Args:
        command: the program and its arguments.
    """
    end_at_sigterm()
    with _held_signals() as release:

        def begin() -> None:
            ignore_ctrl_c()
            release()

        child = subprocess.Popen(command, preexec_fn=begin if os.name == "posix" else None)
        try:
            release()
            return child.wait()
        finally:
            end_child(child)


@contextmanager
def _held_signals() -> Iterator[Callable[[], object]]:
    """Let signals that end this process wait, so that none comes between a child's start and the name it is known by.

    Yields:
        What lets them through: at once, and in a child that inherits that they wait.
    """
    if os.name != "posix":
        yield lambda: None
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_sigterm() -> None:
    """Make SIGTERM, and SIGHUP unless it is ignored (nohup), end this process as `sys.exit` does.

    So it can end what it started. Python lets the main thread alone say so; in another, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


def ignore_ctrl_c() -> None:
    """For a child that its parent ends: let Ctrl-C at the terminal reach the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_with_parent() -> None:
    """For a worker process: end as soon as the process that started it has ended, for whatever reason."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_child(child: subprocess.Popen) -> None:
    """End a child that still runs: with SIGTERM, and with SIGKILL after a minute or a second Ctrl-C."""
    child.terminate()
    try:
        child.wait(timeout=_TIME_TO_SAVE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()
