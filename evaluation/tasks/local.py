"""Own files as tasks, listed in a YAML file such as the following.

- {name: scifact_train, type: Retrieval, path: scifact, split: train}    # directory in the BEIR layout
- {name: pairs, type: Retrieval, path: pairs.jsonl}                      # rows: each document is searched
- {name: stsb_dev, type: STS, path: stsb_dev.tsv.gz}
- {name: news, type: Clustering, path: news.jsonl.gz, columns: [text, label], skip_blank: true}
- {name: sst2, type: Classification, path: dev.tsv, train: train.tsv, columns: [sentence, label]}
- {name: mrpc, type: PairClassification, path: dev.tsv, columns: [sentence1, sentence2, label]}
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from mteb.abstasks import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata, TaskType
from mteb.types import PromptType

from evaluation.tasks.lists import mteb_task_names
from evaluation.tasks.local_data import LOCAL_KINDS, LocalData
from evaluation.tasks.loco import LOCO_TASKS
from textfiles.beir import BeirFiles, find_beir, read_judgements, required_file
from textfiles.checksums import sha256_of
from textfiles.rows import column_remedy, read_rows
from textfiles.settings import did_you_mean, is_filled, read_sections
from textfiles.yaml_files import read_yaml

# Names of mteb's prompts, which a task of that name would be given; names of files beside those of results.
_RESERVED = {*get_args(TaskType), *(side.value for side in PromptType), "model_meta", "protocol"}


@dataclass(frozen=True, kw_only=True)
class LocalTaskSettings:
    """One entry of the list. Paths are relative to the YAML file.

    Attributes:
        name: in the results; letters, digits, `_`, `-` and `.`, and not the name of a task in mteb.
        type: Retrieval, STS, Clustering, Classification or PairClassification, which decides prompts and rules.
        path: a .jsonl, .tsv, .csv (plain or .gz) or .parquet file, or for Retrieval a directory in the BEIR layout.
        columns: of the file, in the order of the defaults: query, document (Retrieval); sentence1, sentence2, score
            (STS); sentence1, sentence2, label (PairClassification); text, label (the others).
        train: rows that Classification trains on, a file like `path`.
        skip_blank: whether rows with a blank text are left out and counted in the results; otherwise they are errors.
        split: of a BEIR directory's judgements, "test" by default.
        queries: a file in the BEIR directory in place of queries.jsonl.
        qrels: a file in the BEIR directory in place of the split's judgements.
        strict: whether judgements of absent queries or documents are errors; otherwise they are left out and counted.

    Raises:
        ValueError: a value is invalid, or two do not go together.
    """

    name: str
    type: str
    path: str
    columns: list[str] | None = None
    train: str | None = None
    skip_blank: bool = False
    split: str | None = None
    queries: str | None = None
    qrels: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f"{field.name} must be true or false, not {value!r}.")
            is_unset = value is None and field.default is None
            if field.type in (str, str | None) and not is_unset and not is_filled(value):
                raise ValueError(f"{field.name} must be a text, not {value!r}.")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name, re.ASCII) or self.name in _RESERVED:
            raise ValueError(f"{self.name!r} cannot name a task; use letters, digits, _, - and . in another name.")
        if self.type not in LOCAL_KINDS:
            raise ValueError(f"unknown type {self.type!r}; {did_you_mean(self.type, LOCAL_KINDS, 'types')}")
        expected = LOCAL_KINDS[self.type].columns
        if self.columns is not None:
            named = isinstance(self.columns, list) and all(map(is_filled, self.columns))
            if not named or len(self.columns) != len(expected):
                raise ValueError(f"columns must name {len(expected)} columns ({', '.join(expected)}).")
        if self.type == "Classification" and not self.train:
            raise ValueError("train is missing; name the file to train on.")
        if self.type != "Classification":
            self.refuse(("train",), "Classification")
        if self.qrels and self.split:
            raise ValueError("split chooses the judgements, and so does qrels; remove one.")

    def refuse(self, names: tuple[str, ...], reason: str) -> None:
        """Raise a ValueError if one of some settings is given."""
        for name in names:
            if getattr(self, name):
                raise ValueError(f"{name} is for {reason}; remove it.")


def read_local_tasks(file: Path) -> list[AbsTask]:
    """Tasks on own files, one for each entry of a YAML list; their results carry a hash of the files.

    The keys of an entry are the fields of `LocalTaskSettings`. The first row of each file is read now, the others when
    the task is evaluated.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an entry is invalid; the message names the YAML file, the entry and the key or column.
    """
    entries = read_yaml(file)
    if not isinstance(entries, list):
        raise ValueError(f"{file}: must be a list of entries such as - {{name: ..., type: STS, path: ...}}.")
    taken = {**dict.fromkeys(mteb_task_names(), "mteb"), **dict.fromkeys(LOCO_TASKS, "LoCo")}
    tasks = []
    for number, settings in enumerate(read_sections(LocalTaskSettings, entries, str(file))):
        where = f"{file}[{number}] ({settings.name})"
        if settings.name in taken:
            raise ValueError(f"{where}: {taken[settings.name]} has a task of that name; choose another.")
        try:
            data = _data(settings, file.parent, where)
            _read_first_rows(data)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{where}: {error}") from error
        tasks.append(_task(data))
    return tasks


def _data(settings: LocalTaskSettings, directory: Path, where: str) -> LocalData:
    place = directory / settings.path
    common: dict[str, Any] = {"name": settings.name, "task_type": settings.type, "where": where}
    if settings.type == "Retrieval" and place.is_dir():
        settings.refuse(("columns", "skip_blank"), "files of rows, and the path is a directory")
        return LocalData(**common, beir=_beir_files(settings, place), strict=settings.strict)
    settings.refuse(("split", "queries", "qrels", "strict"), "directories in the BEIR layout, and the path is not one")
    files = {"test": place} | ({"train": directory / settings.train} if settings.train else {})
    columns = tuple(settings.columns or LOCAL_KINDS[settings.type].columns)
    return LocalData(**common, files=files, columns=columns, skip_blank=settings.skip_blank)


def _beir_files(settings: LocalTaskSettings, directory: Path) -> BeirFiles:
    if not settings.queries and not settings.qrels:
        return find_beir(directory, settings.split or "test")
    corpus = required_file(directory / "corpus.jsonl")
    queries = required_file(directory / (settings.queries or "queries.jsonl"))
    if settings.qrels:
        return BeirFiles(corpus, queries, required_file(directory / settings.qrels))
    return BeirFiles(corpus, queries, find_beir(directory, settings.split or "test").judgements)


def _read_first_rows(data: LocalData) -> None:
    if data.beir is not None:
        for file in (data.beir.corpus, data.beir.queries):
            if next(read_rows(file, ("_id", "text")), None) is None:
                raise ValueError(f"{file}: there are no rows.")
        next(read_judgements(data.beir.judgements), None)
    for file in data.files.values():
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not a file; correct the path.")
        with column_remedy("the columns of the task"):
            if next(read_rows(file, data.columns), None) is None:
                raise ValueError(f"{file}: there are no rows.")


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
    """Twelve hexadecimal digits over all that decides what the task is: type, columns, switch, bytes of the files."""
    decisive = [data.task_type, data.columns, *(["skip_blank"] if data.skip_blank else [])]
    digest = hashlib.sha256(json.dumps(decisive).encode())
    beir = data.beir
    files = data.files if beir is None else {"corpus": beir.corpus, "queries": beir.queries, "qrels": beir.judgements}
    for part, file in sorted(files.items()):
        digest.update(f" {part} {sha256_of(file)}".encode())
    return digest.hexdigest()[:12]
