"""What several processes share: files of results, and each piece of work done by one process."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROTOCOL_FILE = "protocol.json"  # beside results of mteb: how the model was asked


def read_json(path: str | os.PathLike, remedy: str) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not JSON, being cut off for example; names the file, and the remedy that is given.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}). {remedy}") from error


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Wait until no other process holds the lock on the file at `path`, and hold it; see `claim`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def claim(path: str | os.PathLike) -> Iterator[bool]:
    """Try to be the one process that does a piece of work; says whether this process is.

    The claim is a lock on the file at `path`, which the system releases when the process ends, in whatever way: nothing
    stale is left behind. Processes of several machines need a file system with locks (NFS has them).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
