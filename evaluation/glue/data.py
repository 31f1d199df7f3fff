"""GLUE's rows, from local files or the hub: checked, and told apart by a hash."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from pyarrow import ArrowException

from evaluation.glue.tasks import GLUE, GlueTask
from textfiles.rows import read_rows
from textfiles.texts import id_of, number_of, text_of

HUB_DATASET = "nyu-mll/glue"
_SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
_ENDINGS = tuple(suffix + zipped for suffix in _SUFFIXES for zipped in ("", ".gz") if suffix + zipped != ".parquet.gz")
_HIGHEST_SCORE = 5.0
_HUB_SPLITS = {"train": "train", "dev": "validation"}
_HUB_MNLI = {"train": "train", "dev": "validation_matched", "dev_mismatched": "validation_mismatched"}


@dataclass(frozen=True)
class Split:
    """Rows of a training or dev set.

    Attributes:
        name: of the file, or of data set and split on the hub.
        texts: for each of the task's text columns, (rows,) texts.
        targets: (rows,) class numbers, or numbers from 0 to 5.
    """

    name: str
    texts: tuple[list[str], ...]
    targets: list[int] | list[float]

    def identity(self) -> dict[str, Any]:
        """Name, number of rows, and sixteen digits of a hash of the rows, which no compression changes."""
        digest = hashlib.sha256()
        for row in zip(*self.texts, self.targets, strict=True):
            digest.update(json.dumps(row).encode())
        return {"name": self.name, "rows": len(self.targets), "sha256": digest.hexdigest()[:16]}


class GlueData:
    """Where the splits of some tasks are; nothing is read before `read`.

    Args:
        tasks: GLUE tasks.
        directory: holds {task}_train and {task}_dev as .tsv, .csv, .jsonl (plain or .gz) or .parquet, and
            mnli_dev_mismatched where there is one. None: the hub's `nyu-mll/glue`.
        files: split, such as "stsb_train" -> file, in place of those.

    Raises:
        ValueError: a key of `files` is not a split of GLUE.
        FileNotFoundError: files are missing; lists all of them and says what can be done.
    """

    def __init__(
        self, tasks: Iterable[str], directory: Path | None = None, files: Mapping[str, Path] | None = None
    ) -> None:
        files = dict(files or {})
        known = [f"{task}_{split}" for task in GLUE for split in _hub_splits(task)]
        if unknown := [key for key in files if key not in known]:
            raise ValueError(f"--file {unknown[0]}=...: not a split of GLUE; the splits are {', '.join(known)}.")
        self._files: dict[str, Path | None] = {}
        missing = []
        for key in (f"{task}_{split}" for task in tasks for split in _hub_splits(task)):
            path = files.get(key) or (directory and _find(directory, key))
            if path is None and directory is not None and key == "mnli_dev_mismatched":
                continue  # kept beside the matched score where it is there
            if path is None and directory is not None:
                missing.append(f"{key} in {directory}")
            elif path is not None and not path.is_file():
                missing.append(f"{key} at {path}")
            self._files[key] = path
        if missing:
            raise FileNotFoundError(
                f"missing data: {'; '.join(missing)}. Put the files there (any of {', '.join(_ENDINGS)}), name them "
                "with --file SPLIT=PATH, or choose other --tasks."
            )

    def splits(self, task: str) -> list[str]:
        """Names of the splits of a task: "train", "dev" and perhaps "dev_mismatched"."""
        return [split for split in _hub_splits(task) if f"{task}_{split}" in self._files]

    def read(self, task: str, split: str) -> Split:
        """The rows of a split.

        Raises:
            ValueError: a blank text, an unknown label or a missing column, with file, line and column.
            FileNotFoundError: the hub cannot be reached.
        """
        path = self._files[f"{task}_{split}"]
        return _read_hub(task, split) if path is None else read_file(path, GLUE[task])


def read_file(path: Path, task: GlueTask) -> Split:
    """A split from a local file; raises as `GlueData.read` does."""
    target = _target_column(path, task)
    texts: tuple[list[str], ...] = tuple([] for _ in task.columns)
    targets: list[Any] = []
    for where, row in read_rows(path, (*task.columns, target)):
        for column, values in zip(task.columns, texts, strict=True):
            values.append(text_of(row, column, where))
        targets.append(_target(row, target, task, where))
    if not targets:
        raise ValueError(f"{path}: there are no rows.")
    return Split(path.name, texts, targets)


def _target_column(path: Path, task: GlueTask) -> str:
    """The first name of the target that the file has; the last where it has none, for the error."""
    for column in task.targets[:-1]:
        try:
            next(read_rows(path, (column,)), None)
            return column
        except ValueError:
            continue
    return task.targets[-1]


def _target(row: Mapping[str, Any], column: str, task: GlueTask, where: str) -> int | float:
    """The number of a class that is given by name or number; a number from 0 to 5 for a score."""
    if task.labels:
        name = id_of(row, column, where).strip()
        if name in task.labels:
            return task.labels.index(name)
        if name.isdecimal() and int(name) < len(task.labels):
            return int(name)
        expected = f"{', '.join(task.labels)} or 0 to {len(task.labels) - 1}"
    else:
        number = number_of(row, column, where)
        if 0 <= number <= _HIGHEST_SCORE:
            return number
        expected = f"a number from 0 to {_HIGHEST_SCORE:g}"
    raise ValueError(f"{where}, column {column!r}: must be {expected}, not {row[column]!r}.")


def _hub_splits(task: str) -> dict[str, str]:
    return _HUB_MNLI if task == "mnli" else _HUB_SPLITS


def _find(directory: Path, key: str) -> Path | None:
    if not directory.is_dir():
        raise FileNotFoundError(f"--data_dir {directory} is not a directory.")
    found = [path for ending in _ENDINGS if (path := directory / f"{key}{ending}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"{directory} holds {names}; say which is meant: --file {key}=PATH.")
    return found[0] if found else None


def _read_hub(task: str, split: str) -> Split:
    name = _hub_splits(task)[split]
    try:
        rows = datasets.load_dataset(HUB_DATASET, task, split=name)
    except (OSError, ValueError, DatasetsError, ArrowException) as error:  # offline, absent, or damaged in the cache
        raise FileNotFoundError(
            f"{HUB_DATASET} {task} could not be read from the hub ({error}); give the files with --data_dir."
        ) from error
    texts = tuple(list(rows[column]) for column in GLUE[task].columns)
    where = f"{HUB_DATASET} {task} {name}"
    return Split(where, texts, [_target({"label": value}, "label", GLUE[task], where) for value in rows["label"]])
