"""How own files become the data of mteb's task types."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

from evaluation.retrieval import RetrievalSet
from evaluation.rows import read_rows, text_of
from evaluation.tasks.sampling import QuickSampling

_BEIR_COLUMNS = {"corpus": ("_id", "text"), "queries": ("_id", "text"), "qrels": ("query-id", "corpus-id", "score")}


@dataclass(frozen=True)
class LocalData:
    """Files of a task.

    Attributes:
        name: of the task.
        task_type: as mteb calls it.
        where: what to call the task in an error.
        files: "test" and for Classification "train", or "corpus", "queries" and "qrels".
        columns: of the files of rows.
    """

    name: str
    task_type: str
    where: str
    files: dict[str, Path]
    columns: tuple[str, ...]

    def columns_of(self, part: str) -> tuple[str, ...]:
        """Columns that a file must have."""
        return _BEIR_COLUMNS.get(part, self.columns)

    def rows(self, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows of a file, each with what to call it in an error."""
        return read_rows(self.files[part], self.columns_of(part))


class _LocalTask:
    """Put before mteb's class of a type: data come from `data`, once, when they are needed."""

    data: ClassVar[LocalData]
    dataset: Any
    data_loaded: bool

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Read the files.

        Raises:
            ValueError: A row cannot be used; names the entry, the file, the row and the column.
        """
        if self.data_loaded:
            return
        try:
            self.dataset = self.read()
        except ValueError as error:
            raise ValueError(f"{self.data.where}: {error}") from error
        self.data_loaded = True

    def read(self) -> Any:
        """The data as mteb's class of the type wants them."""
        raise NotImplementedError


class LocalRetrieval(_LocalTask, AbsTaskRetrieval):
    """A directory in the BEIR layout, with the grades of its judgements, or pairs of a query and its document.

    Of pairs, every document is searched; equal queries are one query, and equal documents one document. A document
    may be blank, as in some of BEIR; a query may not.
    """

    def read(self) -> dict[str, dict[str, RetrievalSplitData]]:  # noqa: D102 - see _LocalTask
        return {"default": {"test": self._beir() if "corpus" in self.data.files else self._pairs()}}

    def _beir(self) -> RetrievalSplitData:
        corpus: dict[str, dict[str, str]] = {}
        for where, row in self.data.rows("corpus"):
            name = _new_id(corpus, row, where)
            corpus[name] = {"id": name, "title": str(row.get("title") or ""), "text": str(row["text"])}
        grades = self._grades(corpus)
        queries: dict[str, str] = {}
        for where, row in self.data.rows("queries"):
            name = _new_id(queries, row, where)
            queries[name] = text_of(row, "text", where) if name in grades else ""
        if unknown := grades.keys() - queries.keys():
            raise ValueError(
                f"{self.data.files['qrels']}: query {min(unknown)!r} is not in {self.data.files['queries']}."
            )
        # As in BEIR, queries without a relevant document are left out.
        judged = {
            name: text for name, text in queries.items() if any(grade > 0 for grade in grades.get(name, {}).values())
        }
        if not judged:
            raise ValueError(f"{self.data.files['qrels']}: no query has a relevant document.")
        return _split(list(corpus.values()), judged, {name: grades[name] for name in judged})

    def _grades(self, corpus: dict[str, Any]) -> dict[str, dict[str, int]]:
        grades: dict[str, dict[str, int]] = {}
        for where, row in self.data.rows("qrels"):
            document = str(row["corpus-id"])
            if document not in corpus:
                raise ValueError(f"{where}: document {document!r} is not in {self.data.files['corpus']}.")
            grade = _number(row, "score", where)
            if not grade.is_integer():
                raise ValueError(f"{where}, column 'score': {row['score']!r} is no whole number, as grades must be.")
            grades.setdefault(str(row["query-id"]), {})[document] = int(grade)
        return grades

    def _pairs(self) -> RetrievalSplitData:
        query, document = self.data.columns
        rows = ((text_of(row, query, where), text_of(row, document, where)) for where, row in self.data.rows("test"))
        pairs = RetrievalSet.from_pairs({"query": one, "document": other} for one, other in rows)
        corpus = [{"id": name, "title": "", "text": text} for name, text in pairs.documents.items()]
        return _split(corpus, pairs.queries, {name: dict.fromkeys(found, 1) for name, found in pairs.relevant.items()})


class LocalSTS(_LocalTask, AbsTaskSTS):
    """Pairs of texts with a score, on any scale: what counts is rank correlation."""

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        one, other, score = self.data.columns
        columns: dict[str, list] = {"sentence1": [], "sentence2": [], "score": []}
        for where, row in self.data.rows("test"):
            columns["sentence1"].append(text_of(row, one, where))
            columns["sentence2"].append(text_of(row, other, where))
            columns["score"].append(_number(row, score, where))
        # mteb brings scores to 0..1 by these
        self.min_score, self.max_score = min(columns["score"]), max(columns["score"])
        if self.min_score == self.max_score:
            raise ValueError(f"{self.data.files['test']}: all scores are {self.max_score}; nothing to correlate with.")
        return DatasetDict(test=Dataset.from_dict(columns))


class LocalClustering(_LocalTask, AbsTaskClusteringLegacy):
    """Texts with a label, clustered all together into as many clusters as there are labels.

    The v-measure is over all texts, as of one set of mteb's older tasks, which are those of the paper; newer tasks
    draw samples of a set.
    """

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        text, label = self.data.columns
        columns: dict[str, list[str]] = {"sentences": [], "labels": []}
        for where, row in self.data.rows("test"):
            columns["sentences"].append(text_of(row, text, where))
            columns["labels"].append(_label(row, label, where))
        _require_labels(set(columns["labels"]), self.data.files["test"])
        return DatasetDict(test=Dataset.from_dict({name: [values] for name, values in columns.items()}))


class LocalClassification(_LocalTask, QuickSampling, AbsTaskClassification):
    """Texts with a label. mteb fits a logistic regression to 8 training rows of each label, ten times."""

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        text, label = self.data.columns
        splits: dict[str, dict[str, list]] = {}
        known: set[str] = set()
        for part in ("train", "test"):
            columns: dict[str, list] = {"text": [], "label": []}
            for where, row in self.data.rows(part):
                name = _label(row, label, where)
                if part == "test" and name not in known:
                    raise ValueError(f"{where}: label {name!r} is not in {self.data.files['train']}.")
                columns["text"].append(text_of(row, text, where))
                columns["label"].append(name)
            known |= set(columns["label"])
            splits[part] = columns
        _require_labels(known, self.data.files["train"])
        numbers = {name: number for number, name in enumerate(sorted(known))}
        for columns in splits.values():
            columns["label"] = [numbers[name] for name in columns["label"]]
        return DatasetDict({part: Dataset.from_dict(columns) for part, columns in splits.items()})


class LocalPairClassification(_LocalTask, AbsTaskPairClassification):
    """Pairs of texts with a label, 1 for those that belong together and 0 for others."""

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        one, other, label = self.data.columns
        columns: dict[str, list] = {"sentence1": [], "sentence2": [], "labels": []}
        for where, row in self.data.rows("test"):
            name = _label(row, label, where)
            if name not in ("0", "1"):
                raise ValueError(f"{where}, column {label!r}: {row[label]!r} instead of 0 or 1.")
            columns["sentence1"].append(text_of(row, one, where))
            columns["sentence2"].append(text_of(row, other, where))
            columns["labels"].append(int(name))
        _require_labels(set(columns["labels"]), self.data.files["test"])
        return DatasetDict(test=Dataset.from_dict(columns))


@dataclass(frozen=True)
class LocalKind:
    """What a type of task is made with: mteb's class, its main score and category, and the columns by default."""

    task: type[AbsTask]
    main_score: str
    category: str
    columns: tuple[str, ...]


LOCAL_KINDS: dict[str, LocalKind] = {
    "Retrieval": LocalKind(LocalRetrieval, "ndcg_at_10", "t2t", ("query", "document")),
    "STS": LocalKind(LocalSTS, "cosine_spearman", "t2t", ("sentence1", "sentence2", "score")),
    "Clustering": LocalKind(LocalClustering, "v_measure", "t2c", ("text", "label")),
    "Classification": LocalKind(LocalClassification, "accuracy", "t2c", ("text", "label")),
    "PairClassification": LocalKind(LocalPairClassification, "max_ap", "t2t", ("sentence1", "sentence2", "label")),
}


def _split(
    corpus: list[dict[str, str]], queries: dict[str, str], grades: dict[str, dict[str, int]]
) -> RetrievalSplitData:
    return RetrievalSplitData(
        corpus=Dataset.from_list(corpus),
        queries=Dataset.from_dict({"id": list(queries), "text": list(queries.values())}),
        relevant_docs=grades,
        top_ranked=None,
    )


def _new_id(known: dict[str, Any], row: dict[str, Any], where: str) -> str:
    name = str(row["_id"])
    if name in known:
        raise ValueError(f"{where}: _id {name!r} was there before; ids must differ.")
    return name


def _number(row: dict[str, Any], column: str, where: str) -> float:
    try:
        number = float(row[column])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}, column {column!r}: {row[column]!r} instead of a number.")
    return number


def _label(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, str | int) or str(value).strip() == "":
        raise ValueError(f"{where}, column {column!r}: {value!r} instead of a label, a text or a whole number.")
    return str(value).strip()


def _require_labels(labels: set, file: Path) -> None:
    if len(labels) < 2:
        raise ValueError(f"{file}: all labels are {min(labels)!r}; there must be two at least.")
