"""Work that is cut into shards: dealt to processes, each file whole or absent, none made twice.

Which rows a shard holds depends on the settings alone, so the files do not depend on how many processes or machines
made them, and a run that was interrupted makes the missing shards when it is rerun.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from .atomic import read_json, write_json

_FILES = "files"

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
        """Whether a shard has a receipt, and its files have their sizes."""
        return read_receipt(self.receipt(shard)) is not None

    def paths(self) -> list[Path]:
        """The files of all shards, in order."""
        return [self.path(shard) for shard in range(self.count)]


def deal(jobs: Sequence[Job], rank: int, num_ranks: int) -> Sequence[Job]:
    """The jobs of one rank. All must list the same jobs, the finished ones too: what is finished changes meanwhile."""
    return jobs[rank::num_ranks]


def write_receipt(receipt: Path, files: Iterable[Path], facts: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Record that a shard is finished: facts about it, and the names and sizes of its files. Write it last.

    Args:
        receipt: a JSON file.
        files: what was written for the shard.
        facts: JSON values.
    """
    sizes = {os.path.relpath(file, receipt.parent): file.stat().st_size for file in files}
    write_json(receipt, {**facts, _FILES: sizes})


def read_receipt(receipt: Path) -> dict[str, Any] | None:
    """The facts about a finished shard; None if there is no receipt, or a file is missing or has another size.

    Raises:
        ValueError: the receipt is damaged; the message names it.
    """
    if not receipt.is_file():
        return None
    remedy = "Remove it to make the shard again."
    facts = read_json(receipt, remedy)
    if not isinstance(facts, dict) or not isinstance(facts.get(_FILES), dict):
        raise ValueError(f"{receipt} is not the receipt of a shard. {remedy}")
    for name, size in facts.pop(_FILES).items():
        file = receipt.parent / name
        if not file.is_file() or file.stat().st_size != size:
            return None
    return facts
