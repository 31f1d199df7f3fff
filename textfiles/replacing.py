"""Directories that are replaced as long as they hold what was written to them and nothing else.

A list of the files with their hashes lies in the directory. What a person added or changed is never deleted, and what
was damaged is not taken.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from .atomic import atomic_directory, read_json, write_json
from .checksums import sha256_of

WRITTEN_FILES = ".nomic-embed-files.json"  # hidden: it is not uploaded
_EMPTY = "empty directory"


@contextmanager
def replaceable_directory(directory: Path) -> Iterator[Path]:
    """Yield a new directory to fill, which replaces `directory` as `textfiles.atomic.atomic_directory` does.

    Raises:
        FileExistsError: as `require_replaceable`, before and after the new directory is filled.
    """
    require_replaceable(directory)
    with atomic_directory(directory) as written:
        yield written
        write_json(written / WRITTEN_FILES, dict(_hashes(written)))
        require_replaceable(directory)  # minutes later


def require_replaceable(directory: Path) -> None:
    """Refuse a directory with anything in it that was added or changed since it was written.

    Raises:
        FileExistsError: names what would be lost.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not directory.is_dir():
        raise FileExistsError(f"{directory} is a file, not a directory. Choose another directory.")
    try:
        listed = read_json(directory / WRITTEN_FILES, "")
    except (OSError, ValueError):
        raise FileExistsError(
            f"{directory} holds other files, such as {min(directory.iterdir()).name}, which would be deleted. Choose "
            "another directory, or remove it."
        ) from None
    folders = {str(folder) for name in listed for folder in PurePosixPath(name).parents}
    found = [(name, digest) for name, digest in _hashes(directory) if digest != _EMPTY or name not in folders]
    lost = sorted(name for name, digest in found if listed.get(name) != digest)
    if lost:
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise FileExistsError(
            f"{directory} has files that were added or changed since it was written: {named}. Move them, or choose "
            "another directory."
        )


def refuse_changed(directory: Path, pattern: str) -> None:
    """Refuse files that differ from those that were written: a disk or a copy may have damaged them.

    Args:
        directory: of `replaceable_directory`; any other is accepted.
        pattern: of the names of the files that are compared.

    Raises:
        ValueError: names the file, and the remedy.
    """
    path = directory / WRITTEN_FILES
    if not path.is_file():
        return
    remedy = f"Copy or make {directory} again. If you changed it on purpose, remove {path}."
    listed = read_json(path, remedy)
    for file in directory.rglob(pattern):
        digest = listed.get(file.relative_to(directory).as_posix())
        if file.is_file() and digest not in (None, sha256_of(file)):
            raise ValueError(f"{file} is not what was written there: it was damaged or changed since. {remedy}")


def _hashes(directory: Path) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of every file but the list. What is not a plain file, a link for example, has no hash."""
    for folder, subfolders, files in os.walk(directory):
        if not files and not subfolders:
            yield Path(folder).relative_to(directory).as_posix(), _EMPTY
        for path in (Path(folder, name) for name in sorted(files + subfolders)):
            name = path.relative_to(directory).as_posix()
            if name == WRITTEN_FILES or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink() or not path.is_file():
                yield name, ""
                continue
            yield name, sha256_of(path)
