"""Locks between processes. The system releases them when their process ends, for whatever reason: none is ever stale.

Where the file system has no locks, a warning says so once, and the work goes on without them: files are whole all the
same, for they are written atomically, but nothing keeps two processes from doing the same work.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where the package is used but no work is shared
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Wait until no other process holds the lock on the file at `path`, and hold it. The file is made if absent.

    Processes on several machines need a file system with locks (NFS has them).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        wait(lock.fileno(), path)
        yield


@contextmanager
def try_lock(path: str | os.PathLike) -> Iterator[bool]:
    """Try to hold the lock on the file at `path` without waiting; yields whether this process may go on.

    Use it to let exactly one process do a piece of work. The file is made if absent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        held = hold(lock.fileno())
        if held is None:
            _warn(path)
        yield held is not False


def hold(descriptor: int) -> bool | None:
    """Take the lock of an open file or directory without waiting.

    Returns:
        Whether it is held now; False: another process has it; None: there are no locks here.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def wait(descriptor: int, path: Path, *, shared: bool = False) -> None:
    """Wait for the lock of an open file, and hold it.

    Args:
        descriptor: of the file.
        path: its path, for the warning where there are no locks.
        shared: whether others may hold it at the same time, if they ask for the same.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError:
        _warn(path)


def _warn(path: Path) -> None:
    if fcntl is not None:
        warnings.warn(
            f"The file system of {path.parent} has no locks (flock). Let one process at a time write there, or mount "
            "it with locks.",
            stacklevel=3,
        )
