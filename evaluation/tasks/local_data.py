"""How own files become the data of mteb's task types."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from evaluation.tasks.sampling import QuickSampling
from textfiles.beir import BeirFiles, read_beir
from textfiles.rows import column_remedy, read_rows
from textfiles.texts import id_of, number_of, text_of

# Counts beside the scores in a task's results: rows or judgements that were left out.
LEFT_OUT = {
    "blank_rows_left_out": "rows with a blank text",
    "absent_queries_left_out": "judgements of an absent query",
    "absent_documents_left_out": "judgements of an absent document",
}


@dataclass(frozen=True, kw_only=True)
class LocalData:
    """Files of a task.

    Attributes:
        name: of the task.
        task_type: as mteb calls it.
        where: what to call the task in an error.
        files: "test" and for Classification "train"; empty for a BEIR directory.
        columns: of these files.
        skip_blank: whether rows with a blank text are left out.
        beir: files of a BEIR directory; None for files of rows.
        strict: whether judgements of absent queries or documents are errors.
    """

    name: str
    task_type: str
    where: str
    files: dict[str, Path] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    skip_blank: bool = False
    beir: BeirFiles | None = None
    strict: bool = False


class _LocalTask:
    """Put before mteb's class of a type: data come from `data`, once, when they are needed.

    Attributes:
        left_out: name in `LEFT_OUT` -> how many, where there are some; written in the results beside the scores.
    """

    data: ClassVar[LocalData]
    dataset: Any
    data_loaded: bool
    left_out: dict[str, int]

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Read the files, and print how much was left out.

        Raises:
            ValueError: a row cannot be used; names the entry, the file, the row and the column.
        """
        if self.data_loaded:
            return
        self.left_out = {}
        try:
            self.dataset = self.read()
        except ValueError as error:
            raise ValueError(f"{self.data.where}: {error}") from error
        for name, count in self.left_out.items():
            print(f"{self.data.name}: {count:,} {LEFT_OUT[name]} left out")
        self.data_loaded = True

    def evaluate(self, *arguments: Any, **settings: Any) -> Any:
        scores = super().evaluate(*arguments, **settings)  # type: ignore[misc]
        for of_subset in scores.values():
            of_subset.update(self.left_out)
        return scores

    def read(self) -> Any:
        """The data as mteb's class of the type wants them."""
        raise NotImplementedError

    def rows(self, part: str, texts: int) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """Rows of a file: what to call one in an error, the row, and the texts in its first columns."""
        columns = self.data.columns
        for where, row in self._read(part):
            found = [text_of(row, column, where, may_be_blank=True) for column in columns[:texts]]
            if all(map(str.strip, found)):
                yield where, row, found
            elif not self.data.skip_blank:
                column = next(column for column, text in zip(columns, found, strict=False) if not text.strip())
                raise ValueError(
                    f"{where}, column {column!r}: the text is blank; remove the row, or give the task skip_blank: true "
                    "to leave such rows out."
                )
            else:
                self.left_out["blank_rows_left_out"] = self.left_out.get("blank_rows_left_out", 0) + 1

    def _read(self, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with column_remedy("the columns of the task"):
            yield from read_rows(self.data.files[part], self.data.columns)

    def columns_of_pairs(self, third: Callable[[dict[str, Any], str, str], Any], name: str) -> dict[str, list]:
        """Two texts of each test row, and what a function makes of its third column."""
        columns: dict[str, list] = {"sentence1": [], "sentence2": [], name: []}
        for where, row, texts in self.rows("test", 2):
            for values, value in zip(columns.values(), [*texts, third(row, self.data.columns[2], where)], strict=True):
                values.append(value)
        return columns


class LocalRetrieval(_LocalTask, AbsTaskRetrieval):
    """A directory in the BEIR layout, with the grades of its judgements, or pairs of a query and its document.

    Of pairs, every document is searched; equal queries are one query, and equal documents one document. A document
    of a BEIR directory may be blank; a query may not.
    """

    def read(self) -> dict[str, dict[str, RetrievalSplitData]]:  # noqa: D102 - see _LocalTask
        return {"default": {"test": self._pairs() if self.data.beir is None else self._beir(self.data.beir)}}

    def _beir(self, files: BeirFiles) -> RetrievalSplitData:
        found = read_beir(files, strict=self.data.strict)
        counts = {
            "absent_queries_left_out": found.absent_queries,
            "absent_documents_left_out": found.absent_documents,
        }
        self.left_out |= {name: count for name, count in counts.items() if count}
        return _split([document._asdict() for document in found.documents.values()], found.queries, found.grades)

    def _pairs(self) -> RetrievalSplitData:
        texts = (texts for _, _, texts in self.rows("test", 2))
        pairs = RetrievalSet.from_pairs({"query": query, "document": document} for query, document in texts)
        corpus = [{"id": name, "title": "", "text": text} for name, text in pairs.documents.items()]
        return _split(corpus, pairs.queries, {name: dict.fromkeys(found, 1) for name, found in pairs.relevant.items()})


class LocalSTS(_LocalTask, AbsTaskSTS):
    """Pairs of texts with a score, on any scale: what counts is rank correlation."""

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        columns = self.columns_of_pairs(number_of, "score")
        _require_two(columns["score"], "scores", self.data.files["test"])
        # mteb brings scores to 0..1 by these
        self.min_score, self.max_score = min(columns["score"]), max(columns["score"])
        return DatasetDict(test=Dataset.from_dict(columns))


class LocalClustering(_LocalTask, AbsTaskClusteringLegacy):
    """Texts with a label, clustered all together into as many clusters as there are labels.

    The v-measure is over all texts, as of one set of mteb's older tasks, which are those of the paper; newer tasks
    draw samples of a set.
    """

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        rows = [(text, _label(row, self.data.columns[1], where)) for where, row, (text,) in self.rows("test", 1)]
        labels = [label for _, label in rows]
        _require_two(labels, "labels", self.data.files["test"])
        return DatasetDict(test=Dataset.from_dict({"sentences": [[text for text, _ in rows]], "labels": [labels]}))


class LocalClassification(_LocalTask, QuickSampling, AbsTaskClassification):
    """Texts with a label. mteb fits a logistic regression to 8 training rows of each label, ten times."""

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        splits: dict[str, dict[str, list]] = {}
        known: set[str] = set()
        for part in ("train", "test"):
            columns: dict[str, list] = {"text": [], "label": []}
            for where, row, (text,) in self.rows(part, 1):
                name = _label(row, self.data.columns[1], where)
                if part == "test" and name not in known:
                    raise ValueError(f"{where}: label {name!r} is not in {self.data.files['train']}.")
                columns["text"].append(text)
                columns["label"].append(name)
            known |= set(columns["label"])
            splits[part] = columns
        _require_two(known, "labels", self.data.files["train"])
        numbers = {name: number for number, name in enumerate(sorted(known))}
        for columns in splits.values():
            columns["label"] = [numbers[name] for name in columns["label"]]
        return DatasetDict({part: Dataset.from_dict(columns) for part, columns in splits.items()})


class LocalPairClassification(_LocalTask, AbsTaskPairClassification):
    """Pairs of texts with a label, 1 for those that belong together and 0 for others."""

    def read(self) -> DatasetDict:  # noqa: D102 - see _LocalTask
        columns = self.columns_of_pairs(_zero_or_one, "labels")
        _require_two(columns["labels"], "labels", self.data.files["test"])
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


def _label(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    return str(int(value)) if isinstance(value, bool) else id_of(row, column, where).strip()


def _zero_or_one(row: dict[str, Any], column: str, where: str) -> int:
    if (name := _label(row, column, where)) not in ("0", "1"):
        raise ValueError(f"{where}, column {column!r}: {name!r} instead of 0 or 1.")
    return int(name)


def _require_two(values: Any, what: str, file: Path) -> None:
    if not values:
        raise ValueError(f"{file}: there are no rows.")
    if len(set(values)) < 2:
        raise ValueError(f"{file}: all {what} are {next(iter(values))!r}; there must be at least two.")
