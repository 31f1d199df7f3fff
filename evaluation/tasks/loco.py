"""The five retrieval tasks of LoCo as the paper has them (§5.2.4), which mteb does not have.

Documents and queries are made as the authors' code makes them (contrastors@613ddfd, loco_data.py): every row of a
data set is a document and its query, so that equal documents of two rows compete. In QMSum, whose rows ask several
questions about one meeting, the documents of a meeting differ in the question above it only.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from evaluation.tasks.data import LOCAL_REVISION, PARQUET_REVISION
from textfiles.rows import read_rows, require_columns
from textfiles.texts import check_text, text_of

_SCROLLS = "tau/scrolls"
_QASPER = "allenai/qasper"
_SECTIONS = "full_text"


def _metadata(name: str, path: str, subset: str, split: str, description: str) -> TaskMetadata:
    # Parquet files, because the data sets themselves are scripts, which `datasets` does not run any more.
    return TaskMetadata(
        name=name,
        description=description,
        type="Retrieval",
        category="t2t",
        dataset={"path": path, "revision": PARQUET_REVISION, "name": subset, "split": split},
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        reference="https://arxiv.org/abs/2402.07440",
    )


class LoCoTask(AbsTaskRetrieval):
    """One task of LoCo.

    The rows come from the hub's parquet files or, if `metadata.dataset` says "local", from .parquet, .jsonl or
    .jsonl.gz files of the split: PATH/<subset>/<split>/*.parquet, as they are on the hub, or PATH/<subset>/<split>*.
    The subset's own directory may be given too.

    Attributes:
        document_column: column of documents.
        query_column: column of queries.
    """

    document_column: ClassVar[str] = "input"
    query_column: ClassVar[str] = "output"

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Read the rows.

        Raises:
            FileNotFoundError: there are no files of the split.
            ValueError: a column is missing, or a document or query is blank; names the file, the row and the column.
        """
        if self.data_loaded:
            return
        queries, documents = [], []
        for where, row in self._rows(num_proc):
            queries.append(text_of(row, self.query_column, where))
            documents.append(_document(row, self.document_column, where))
        if not queries:
            raise ValueError(f"{self.metadata.dataset['path']}: no rows; fetch the data set again.")
        # The authors' ids, because equal scores are ranked by id.
        query_ids = [f"Query_{row}" for row in range(len(queries))]
        document_ids = [f"Passage_{row}" for row in range(len(documents))]
        corpus = {"id": document_ids, "title": [""] * len(documents), "text": documents}
        split = RetrievalSplitData(
            corpus=datasets.Dataset.from_dict(corpus),
            queries=datasets.Dataset.from_dict({"id": query_ids, "text": queries}),
            relevant_docs={query: {document: 1} for query, document in zip(query_ids, document_ids, strict=True)},
            top_ranked=None,
        )
        self.dataset = {"default": {self.metadata.eval_splits[0]: split}}
        self.data_loaded = True

    def _rows(self, num_proc: int | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Rows with what to call them in an error."""
        source, columns = self.metadata.dataset, (self.document_column, self.query_column)
        path, subset, split = source["path"], source["name"], source["split"]
        if source["revision"] == LOCAL_REVISION:
            for file in _files(Path(path), self.metadata.name, subset, split):
                yield from read_rows(file, columns)
            return
        pattern = f"{subset}/{split}/*.parquet"
        rows = datasets.load_dataset(
            path, data_files=pattern, revision=source["revision"], split="train", num_proc=num_proc
        )
        require_columns(rows.column_names, columns, f"{path}, {pattern}")
        for number, row in enumerate(rows.select_columns(list(columns)), start=1):
            yield f"{path}, {pattern}, row {number}", row


class LoCoSummScreenFD(LoCoTask):
    """Summary -> transcript of an episode."""

    metadata = _metadata(
        "LoCoSummScreenFD", _SCROLLS, "summ_screen_fd", "validation", "Summary of an episode -> its transcript."
    )


class LoCoGovReport(LoCoTask):
    """Summary -> report."""

    metadata = _metadata("LoCoGovReport", _SCROLLS, "gov_report", "validation", "Summary -> government report.")


class LoCoQMSum(LoCoTask):
    """Answer -> question and transcript of a meeting."""

    metadata = _metadata(
        "LoCoQMSum", _SCROLLS, "qmsum", "validation", "Answer -> question and transcript of a meeting."
    )


class LoCoQASPERTitle(LoCoTask):
    """Title -> article."""

    document_column = _SECTIONS
    query_column = "title"
    metadata = _metadata("LoCoQASPERTitle", _QASPER, "qasper", "test", "Title -> article without title and abstract.")


class LoCoQASPERAbstract(LoCoTask):
    """Abstract -> article."""

    document_column = _SECTIONS
    query_column = "abstract"
    metadata = _metadata(
        "LoCoQASPERAbstract", _QASPER, "qasper", "test", "Abstract -> article without title and abstract."
    )


LOCO_TASKS: dict[str, type[LoCoTask]] = {
    kind.metadata.name: kind
    for kind in (LoCoSummScreenFD, LoCoGovReport, LoCoQMSum, LoCoQASPERTitle, LoCoQASPERAbstract)
}


def _files(path: Path, name: str, subset: str, split: str) -> list[Path]:
    """The files of a split, in the order of their names."""
    places = [path / subset] + ([path] if path.name in (subset, name) else [])
    patterns = [f"{split}/*.parquet", f"{split}*.parquet", f"{split}*.jsonl", f"{split}*.jsonl.gz"]
    found = [files for place in places for pattern in patterns if (files := sorted(place.glob(pattern)))]
    if not found:
        raise FileNotFoundError(f"{places[0]}: there are no {split} files; looked for {', '.join(patterns)}.")
    if len(found) > 1:
        twice = " and ".join(str(files[0]) for files in found)
        raise ValueError(f"there is more than one copy of the split {split} ({twice}); remove all but one.")
    return found[0]


def _document(row: Mapping[str, Any], column: str, where: str) -> str:
    if column != _SECTIONS:
        return text_of(row, column, where)
    return check_text(_join_sections(row[column], where), f"{where}, column {column!r}")


def _join_sections(full_text: Any, where: str) -> str:
    """An article of QASPER as one text: the name of a section, a line break, its paragraphs, a line break.

    Args:
        full_text: {"section_name": [...], "paragraphs": [[...], ...]} as parquet files have it, or a list of
            {"section_name": ..., "paragraphs": [...]}. A section may have no name.
        where: what to call the row in an error.
    """
    try:
        if isinstance(full_text, Mapping):
            names, bodies = full_text["section_name"], full_text["paragraphs"]
        else:
            names = [section["section_name"] for section in full_text]
            bodies = [section["paragraphs"] for section in full_text]
        return "".join(_section(name, body) for name, body in zip(names, bodies, strict=True)).strip()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}, column {_SECTIONS!r}: not sections with section_name and paragraphs ({error!r})."
        ) from error


def _section(name: str | None, paragraphs: Sequence[str]) -> str:
    if not isinstance(name, str | None):
        raise TypeError(f"a section's name is a {type(name).__name__}")
    body = " ".join(paragraphs)
    return f"{body}\n" if name is None else f"{name}\n{body}\n"
