"""Locks between processes. The system releases them when their process ends, in whatever way: none is ever stale."""

import os
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
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def try_lock(path: str | os.PathLike) -> Iterator[bool]:
    """Try to hold the lock on the file at `path` without waiting; yields whether this process holds it.

    Use it to let exactly one process do a piece of work. The file is made if absent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        yield hold(lock.fileno())


def hold(descriptor: int) -> bool:
    """Take the lock of an open file or directory without waiting; returns whether it is held now."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True
