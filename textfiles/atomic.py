"""Files and directories that appear whole or not at all, even after a crash or a power cut.

What is written is synced to the disk before it gets its name, and the name is synced after. A writer that was killed
leaves a hidden file or directory behind, which `remove_leftovers` recognizes: living writers hold a lock on theirs.
"""

import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .locks import hold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How extensions (Rust, Arrow, torch, NumPy) report full disks, quotas and size limits, without naming the file.
_DISK_FULL = re.compile(
    r"os error (27|28|122)\b|errno (27|28|122)\b|No space left|quota exceeded|File too large"
    r"|PytorchStreamWriter failed|unexpected pos \d+ vs|file write failed|\d+ requested and \d+ written"
)
_PARTIAL, _WRITING = ".partial-", ".writing-"


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the name of a file to write, which becomes `path` once it is complete and on the disk.

    If writing fails, what is at `path` stays as it was and the incomplete file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The token keeps two writers apart. Readers of a directory skip names with a leading dot.
    partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(8)}-{path.name}")
    try:
        with open(partial, "xb") as lock, naming_full_disks(path):
            hold(lock.fileno())
            yield partial
            sync_file(partial)
            os.replace(partial, path)
        sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """Yield a new directory to fill, which replaces `directory` once it is complete and on the disk.

    If filling fails or is interrupted, `directory` stays as it was. The old directory is removed only after the new
    one has taken its place: whoever is killed between the two renames leaves both, and the next call with the same
    name puts the new one in place. Where `directory` is a link, the directory that it leads to is replaced.
    """
    directory = Path(os.path.realpath(directory))
    directory.parent.mkdir(parents=True, exist_ok=True)
    _finish_replacements(directory)
    scratch = directory.with_name(f"{_WRITING}{secrets.token_hex(8)}-{directory.name}")
    scratch.mkdir()
    with _held(scratch):
        try:
            written = scratch / "new"
            written.mkdir()
            with naming_full_disks(directory):
                yield written
                sync_tree(written)
            _replace(directory, scratch)
        finally:
            if directory.exists() or not (scratch / "old").exists():
                shutil.rmtree(scratch, ignore_errors=True)


class DiskFullError(OSError):
    """A disk or a quota is full, or a size limit is reached; names what could not be written, and the remedy."""


@contextmanager
def naming_full_disks(path: str | os.PathLike) -> Iterator[None]:
    """Name the file that could not be written where an error inside comes from a full disk, a quota or a size limit.

    Raises:
        DiskFullError: in place of such an error, of whatever kind.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not _DISK_FULL.search(str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise DiskFullError(
            f"{path} could not be written ({reason}). Free space on its disk and start again."
        ) from error


def _replace(directory: Path, scratch: Path) -> None:
    old = scratch / "old"
    try:
        if directory.exists():
            os.replace(directory, old)
        os.replace(scratch / "new", directory)
    except BaseException:
        if old.exists() and not directory.exists():
            os.replace(old, directory)
        raise
    sync_directory(directory.parent)


def _finish_replacements(directory: Path) -> None:
    """Clean up after killed writers of `directory`; the new one takes its place where the old was moved away."""
    for scratch in directory.parent.glob(f"{_WRITING}*-{glob.escape(directory.name)}"):
        with _held(scratch) as abandoned:
            if not abandoned:
                continue
            if not directory.exists() and (scratch / "old").exists():  # so the new one is complete
                os.replace(scratch / "new", directory)
                sync_directory(directory.parent)
            shutil.rmtree(scratch, ignore_errors=True)


def remove_leftovers(directory: str | os.PathLike) -> None:
    """Remove the incomplete files and directories that killed writers left anywhere below `directory`."""
    for path in sorted(Path(directory).rglob(".*")):
        if path.name.startswith(_WRITING) and path.is_dir():
            if name := path.name.removeprefix(_WRITING).partition("-")[2]:
                _finish_replacements(path.with_name(name))
        elif path.name.startswith(_PARTIAL) and path.is_file():
            with _held(path) as abandoned:
                if abandoned:
                    path.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock on a file or directory that exists."""
    if os.name == "nt":  # directories have no locks there
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield hold(descriptor) is True
    finally:
        os.close(descriptor)


def sync_file(path: str | os.PathLike) -> None:
    """Wait until the content of a file is on the disk."""
    # a copy of a read-only file is read-only; Windows flushes only what may be written
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: str | os.PathLike) -> None:
    """Wait until the names in a directory are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: str | os.PathLike) -> None:
    """Wait until all files of a directory and of its subdirectories, and their names, are on the disk."""
    for folder, _, files in os.walk(os.fspath(directory)):
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                sync_file(path)
        sync_directory(folder)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON for people to read, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_figure(path: str | os.PathLike, figure: "Figure") -> None:
    """Write a picture, whole or not at all; the suffix chooses the format."""
    with atomic_file(path) as partial:
        # with matplotlib's version in it, a .png file would change without its picture
        figure.savefig(partial, dpi=150, metadata={"Software": None} if partial.suffix == ".png" else None)


def read_json(path: str | os.PathLike, remedy: str, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: what to do if it cannot be read, as a sentence for the error.
        kind: `dict` or `list`, of what it holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the content is not JSON, because it was cut short for example, or of another kind.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). {remedy}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} is not a JSON {'object' if kind is dict else 'list'}. {remedy}")
    return content
