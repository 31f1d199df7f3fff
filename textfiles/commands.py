"""How every command ends: Ctrl-C and what the user can mend are one line each, not a traceback."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 128 + signal.SIGINT  # what a shell reports of a process that Ctrl-C ended


def run_command(main: Callable[[list[str]], object], remedy: str = "Rerun the command to resume.") -> None:
    """Run a command on the words of the command line; Ctrl-C ends it with one line and exit code 130.

    Call it with a `main` that imports what is heavy itself, so that Ctrl-C during the imports ends the same way. Of
    several ranks, only the first prints the line.

    Args:
        main: takes the command line without the program's name.
        remedy: what to do after an interruption.
    """
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process without waiting for cleanup
        if os.environ.get("RANK", "0") == "0":
            print(f"\nInterrupted. {remedy}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error that the user can mend, of a value or of a file, into one line and exit code 1.

    Raises:
        SystemExit: in place of ValueError and OSError, with their message.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
