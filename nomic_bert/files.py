"""Files and directories that appear whole or not at all, whatever interrupts the one that writes them."""

import json
import os
import secrets
import tempfile
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
    # Keeps two writers apart, of two machines too; readers of a directory pass over names with a leading dot.
    partial = path.with_name(f".partial-{secrets.token_hex(8)}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """Give a new directory to fill, which takes the name `directory`, and the place of what is there, when filled.

    If filling fails or is interrupted, `directory` stays as it was.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        written = Path(scratch, "new")
        written.mkdir()
        yield written
        if directory.exists():
            os.replace(directory, Path(scratch, "old"))
        os.replace(written, directory)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON for people to read, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
