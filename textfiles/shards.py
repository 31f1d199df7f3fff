"""Work that is cut into shards: dealt to processes, each file whole or absent, none made twice.

Which rows a shard holds depends on the settings alone, so the files do not depend on how many processes or machines
made them, and a run that was interrupted makes the missing shards when it is rerun.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from .atomic import read_json, write_json
from .checksums import sha256_of

_FILES, _CHECKSUM = "files", "sha256"

Job = TypeVar("Job")


@dataclasses.dataclass(frozen=True)
class ShardFiles:
    """The numbered files of one data set: `DIRECTORY/STEM-00003-of-00010SUFFIX`, counted from 0.

    Attributes:
        directory: where they are.
        stem: beginning of their names.
        count: how many there are when all are made.
        suffix: end of their names.
    """

    directory: Path
    stem: str
    count: int
    suffix: str

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.directory / f"{self.stem}-{shard:05}-of-{self.count:05}{self.suffix}"

    def receipt(self, shard: int) -> Path:
        """Where the receipt of a shard goes, if it has one; see `write_receipt`."""
        return dataclasses.replace(self, suffix=".json").path(shard)

    def is_finished(self, shard: int) -> bool:
        """Whether a shard has a receipt, and its files are those that it describes."""
        return read_receipt(self.receipt(shard)) is not None

    def paths(self) -> list[Path]:
        """The files of all shards, in order."""
        return [self.path(shard) for shard in range(self.count)]


def deal(jobs: Sequence[Job], rank: int, num_ranks: int) -> Sequence[Job]:
    """The jobs of one rank. All must list the same jobs, the finished ones too: what is finished changes meanwhile."""
    return jobs[rank::num_ranks]


def write_receipt(receipt: Path, files: Iterable[Path], facts: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Record that a shard is finished: facts about it, and size and SHA-256 of each of its files. Write it last.

    Args:
        receipt: a JSON file.
        files: what was written for the shard.
        facts: JSON values.
    """
    described = {os.path.relpath(file, receipt.parent): _describe(file) for file in files}
    content = json.loads(json.dumps({**facts, _FILES: described}))  # as it is read again
    write_json(receipt, {**content, _CHECKSUM: _checksum(content)})


def describe_directory(receipt: Path) -> None:
    """Write a receipt of all other files in its directory and below; see `write_receipt`."""
    write_receipt(receipt, [file for file in sorted(receipt.parent.rglob("*")) if file.is_file() and file != receipt])


def read_receipt(receipt: Path) -> dict[str, Any] | None:
    """The facts about a finished shard; None if there is no receipt, or a file is missing or differs from it.

    Raises:
        ValueError: the receipt is damaged; the message names it.
    """
    if not receipt.is_file():
        return None
    facts, files = _read(receipt, "Remove it to make the shard again.")
    return None if any(_describe(receipt.parent / name, known) != known for name, known in files.items()) else facts


def changed_files(receipt: Path, remedy: str) -> list[Path]:
    """The files of a receipt that are missing or differ from it.

    Raises:
        ValueError: the receipt is damaged; the message names it.
    """
    _, files = _read(receipt, remedy)
    return [receipt.parent / name for name, known in files.items() if _describe(receipt.parent / name, known) != known]


def require_unchanged_files(receipt: Path, remedy: str) -> None:
    """Refuse files that are missing or differ from their receipt.

    Raises:
        ValueError: names the first of them, or the receipt, if that is damaged.
    """
    if changed := changed_files(receipt, remedy):
        more = f" (and {len(changed) - 1} more files)" if len(changed) > 1 else ""
        raise ValueError(f"{changed[0]} was changed after it was written, or is missing{more}. {remedy}")


def _read(receipt: Path, remedy: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    facts = read_json(receipt, remedy)
    if not isinstance(facts.get(_FILES), dict) or facts.pop(_CHECKSUM, None) != _checksum(facts):
        raise ValueError(f"{receipt} is not a receipt, or was changed after it was written. {remedy}")
    return facts, facts.pop(_FILES)


def _describe(file: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Size and SHA-256 of a file; None if it is missing, or of another size than is known."""
    if not file.is_file():
        return None
    found = file.stat()
    if known is not None and found.st_size != known.get("size"):
        return None
    return {"size": found.st_size, "sha256": _hash(file, found.st_ino, found.st_size, found.st_ctime_ns)}


@functools.cache
def _hash(file: Path, *_: int) -> str:
    """Of a file's content, which is read again when it is another file, or was changed."""
    return sha256_of(file)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
