"""A list of the files that a directory was written with, so that only these are ever replaced."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from textfiles.atomic import write_json

MANIFEST = ".nomic-embed-files.json"  # hidden: it is not uploaded


def write_manifest(directory: Path) -> None:
    """List all files of a finished directory with their hashes, in the directory."""
    write_json(directory / MANIFEST, dict(_hashes(directory)))


def require_replaceable(directory: Path) -> None:
    """Refuse a directory with anything in it that the manifest does not list, or lists with another content.

    Raises:
        FileExistsError: names what would be lost.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        listed = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FileExistsError(
            f"{directory} exists and was not written by this command; choose another --output_dir or remove it."
        ) from None
    lost = sorted(name for name, digest in _hashes(directory) if listed.get(name) != digest)
    if lost:
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise FileExistsError(
            f"{directory} has files that were added or changed since it was written: {named}. Move them, or choose "
            "another --output_dir."
        )


def _hashes(directory: Path) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of every file but the manifest. What is not a plain file, a link for example, has no hash."""
    for folder, subfolders, files in os.walk(directory):
        for path in (Path(folder, name) for name in sorted(files + subfolders)):
            name = path.relative_to(directory).as_posix()
            if name == MANIFEST or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink() or not path.is_file():
                yield name, ""
                continue
            with path.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()
