"""Work that is cut into shards: dealt to processes, each file whole or absent, none made twice.

Which rows a shard holds depends on the settings alone, so the files do not depend on how many processes or machines
made them, and a run that was stopped goes on with the shards that are missing.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from textfiles.atomic import write_json

SETTINGS = "settings.json"

Job = TypeVar("Job")


@dataclasses.dataclass(frozen=True)
class ShardFiles:
    """The numbered files of one data set: `DIRECTORY/STEM-00003-of-00010SUFFIX`, counted from 0.

    Attributes:
        directory: Where they are.
        stem: Beginning of their names.
        count: How many there are when all are made.
        suffix: End of their names.
    """

    directory: Path
    stem: str
    count: int
    suffix: str

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.directory / f"{self.stem}-{shard:05}-of-{self.count:05}{self.suffix}"

    def paths(self) -> list[Path]:
        """The files of all shards, in order."""
        return [self.path(shard) for shard in range(self.count)]


def deal(jobs: Sequence[Job], rank: int, num_ranks: int) -> Sequence[Job]:
    """The jobs of one rank. All must list the same jobs, the finished ones too: what is finished changes meanwhile."""
    return jobs[rank::num_ranks]


def claim(directory: Path, settings: Mapping[str, Any], settings_file: Path | None = None) -> None:
    """Write down what the files of a directory are made from, or check that it is the same as before.

    Args:
        directory: Where the files are going to be; made if it is not there.
        settings: JSON values that decide what the files hold.
        settings_file: Where they are written; None: `settings.json` in the directory.

    Raises:
        ValueError: The directory was begun with other settings, or holds something else.
    """
    path = settings_file or directory / SETTINGS
    settings = json.loads(json.dumps(settings))  # as they are read again: tuples become lists
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := sorted(key for key in settings | before if settings.get(key) != before.get(key)):
            raise ValueError(
                f"{directory} was begun with other settings ({', '.join(changed)} changed). Remove it, or choose "
                "another output_dir."
            )
    elif directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} exists and does not say what it was made from. Choose another output_dir.")
    else:
        write_json(path, settings)
