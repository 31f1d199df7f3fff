"""Own files as tasks, listed in a YAML file such as the one that follows.

- {name: scifact_train, type: Retrieval, path: scifact}              # directory in the BEIR layout
- {name: pairs, type: Retrieval, path: pairs.jsonl}                  # rows: each document is searched
- {name: stsb_dev, type: STS, path: stsb_dev.tsv.gz}
- {name: news, type: Clustering, path: news.jsonl.gz, columns: [text, label]}
- {name: sst2, type: Classification, path: dev.tsv, train: train.tsv, columns: [sentence, label]}
- {name: mrpc, type: PairClassification, path: dev.tsv, columns: [sentence1, sentence2, label]}
"""

import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata, TaskType
from mteb.types import PromptType

from evaluation.rows import read_rows
from evaluation.tasks.lists import mteb_task_names
from evaluation.tasks.local_data import LOCAL_KINDS, LocalData, LocalKind
from evaluation.tasks.loco import LOCO_TASKS

_KEYS = ("name", "type", "path", "columns", "queries", "qrels", "train")
_BEIR_FILES = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": "qrels.tsv"}
# Names of mteb's prompts, which a task of that name would be given; files that lie beside those of results.
_RESERVED = {*get_args(TaskType), *(side.value for side in PromptType), "model_meta", "protocol"}


@dataclass(frozen=True)
class _Entry:
    """One entry of the list, read but not checked; `where` says which it is."""

    file: Path
    number: int
    values: dict[str, Any]

    @property
    def where(self) -> str:
        name = self.values.get("name")
        return f"{self.file}, entry {self.number}" + (f" ({name})" if isinstance(name, str) else "")

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError(f"{self.where}: {key} must be a text, not {value!r}.")
        return value

    def required(self, key: str) -> str:
        if (value := self.text(key)) is None:
            raise ValueError(f"{self.where}: {key} is missing; an entry has name, type and path.")
        return value

    def refuse(self, keys: tuple[str, ...], reason: str) -> None:
        for key in keys:
            if key in self.values:
                raise ValueError(f"{self.where}: {key} is for {reason}; remove it.")


def read_local_tasks(file: Path) -> list[AbsTask]:
    """Tasks on own files, one for each entry of a YAML list; their results carry a hash of the files.

    Keys of an entry:
        name: as it stands in results; letters, digits, `_`, `-` and `.`, and no name that mteb has.
        type: Retrieval, STS, Clustering, Classification or PairClassification; prompts and rules go by it.
        path: a .jsonl, .tsv, .csv (perhaps .gz) or .parquet file, or for Retrieval a directory in the BEIR layout
            (corpus.jsonl, queries.jsonl, qrels.tsv; perhaps .gz). Relative to the YAML file.
        columns: in the order of these, which are taken if none are given: query, document (Retrieval); sentence1,
            sentence2, score (STS); sentence1, sentence2, label (PairClassification); text, label (the others).
        queries, qrels: files in a BEIR directory that stand for queries.jsonl and qrels.tsv.
        train: rows for Classification to train on, a file like `path`.

    The first row of each file is read now, the others when the task is evaluated.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An entry cannot be meant; the message names the YAML file, the entry and the key or column.
    """
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not readable as YAML ({error}).") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{file}: must be a list of entries such as - {{name: ..., type: STS, path: ...}}.")
    taken = {**dict.fromkeys(mteb_task_names(), "mteb"), **dict.fromkeys(LOCO_TASKS, "LoCo")}
    tasks = []
    for number, values in enumerate(entries, start=1):
        entry = _Entry(file, number, values)
        data = _checked(entry)
        if data.name in taken:
            raise ValueError(f"{entry.where}: {taken[data.name]} has a task of that name; choose another.")
        taken[data.name] = f"entry {number}"
        tasks.append(_task(data))
    return tasks


def _checked(entry: _Entry) -> LocalData:
    """What an entry says, if it can be meant and its files are there."""
    for key in entry.values:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(_KEYS)}."
            raise ValueError(f"{entry.where}: unknown key {key!r}; {hint}")
    name, task_type, path = entry.required("name"), entry.required("type"), entry.required("path")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII) or name in _RESERVED:
        raise ValueError(f"{entry.where}: {name!r} is no name for a task; use letters, digits, _, - and . in another.")
    if task_type not in LOCAL_KINDS:
        raise ValueError(f"{entry.where}: unknown type {task_type!r}; use one of {', '.join(LOCAL_KINDS)}.")
    place = entry.file.parent / path
    if task_type == "Retrieval" and place.is_dir():
        entry.refuse(("columns", "train"), "files of rows, and the path is a directory")
        columns: tuple[str, ...] = ()
        files = _beir_files(entry, place)
    else:
        entry.refuse(("queries", "qrels"), "directories in the BEIR layout, and the path is none")
        columns = _columns(entry, LOCAL_KINDS[task_type])
        files = {"test": place}
        if task_type == "Classification":
            files["train"] = entry.file.parent / entry.required("train")
        else:
            entry.refuse(("train",), "Classification")
    data = LocalData(name, task_type, entry.where, files, columns)
    _read_first_rows(data)
    return data


def _beir_files(entry: _Entry, directory: Path) -> dict[str, Path]:
    files = {}
    for part, default in _BEIR_FILES.items():
        name = entry.text(part) if part != "corpus" else None
        chosen = directory / (name or default)
        files[part] = chosen if name or chosen.is_file() else chosen.with_name(f"{chosen.name}.gz")
        if not files[part].is_file():
            wanted = f"{name} is" if name else f"neither {default} nor {default}.gz is"
            raise FileNotFoundError(f"{entry.where}: {wanted} in {directory}; see BEIR for the layout.")
    return files


def _columns(entry: _Entry, kind: LocalKind) -> tuple[str, ...]:
    columns = entry.values.get("columns", list(kind.columns))
    if not isinstance(columns, list) or len(columns) != len(kind.columns) or not all(columns):
        raise ValueError(f"{entry.where}: columns must name {len(kind.columns)} ({', '.join(kind.columns)}).")
    return tuple(str(column) for column in columns)


def _read_first_rows(data: LocalData) -> None:
    for part, file in data.files.items():
        if not file.is_file():
            raise FileNotFoundError(f"{data.where}: {file} is no file; correct the path.")
        try:
            if next(read_rows(file, data.columns_of(part)), None) is None:
                raise ValueError(f"{file}: no rows.")
        except ValueError as error:
            raise ValueError(f"{data.where}: {error}") from error


def _task(data: LocalData) -> AbsTask:
    """A task with a class of its own, because mteb keeps metadata in classes."""
    kind = LOCAL_KINDS[data.task_type]
    metadata = TaskMetadata(
        name=data.name,
        description="Own data.",
        type=data.task_type,  # type: ignore[arg-type]
        category=kind.category,  # type: ignore[arg-type]
        dataset={"path": data.name, "revision": f"local-{_digest(data)}"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=kind.main_score,
    )
    return type(data.name, (kind.task,), {"metadata": metadata, "data": data, "__module__": __name__})()


def _digest(data: LocalData) -> str:
    """Twelve hexadecimal digits over all that decides what the task is: type, columns, and the bytes of the files."""
    digest = hashlib.sha256(json.dumps([data.task_type, data.columns]).encode())
    for part, file in sorted(data.files.items()):
        with open(file, "rb") as stream:
            digest.update(f" {part} {hashlib.file_digest(stream, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:12]
