"""Files that several processes write: whole or not at all, and each piece of work by one process."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give the name of a file to write, which takes the name `path` once it is complete.

    If writing fails, what is at `path` stays as it was and the incomplete file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The leading dot keeps it from being read as a result; the suffix says to matplotlib which format to write.
    partial = path.with_name(f".partial-{secrets.token_hex(8)}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
