"""Checksums of files."""

import hashlib
from pathlib import Path


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
