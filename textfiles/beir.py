"""Retrieval sets in the BEIR layout: `corpus.jsonl`, `queries.jsonl` and judgements, each plain or gzipped.

Judgements are in `qrels/SPLIT.tsv`, or in `qrels.tsv` where a set has one split. They have three columns (query,
document, grade) with or without a header, or TREC's four. As published, sets have blank documents and judge documents
that are absent: the former are empty documents, the latter are counted and left out.
"""

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from .rows import read_lines, read_row_batches, require_columns
from .texts import check_text, id_of, number_of, text_of

_COLUMNS = ("query-id", "corpus-id", "score")
_TREC_COLUMNS = ("query-id", "iteration", "corpus-id", "score")

Rows = Iterable[tuple[str, Mapping[str, Any]]]  # each row after what to call it in an error


@dataclasses.dataclass(frozen=True)
class BeirFiles:
    """The files of a set, for one split of its judgements.

    Attributes:
        corpus: rows with `_id`, `text` and perhaps `title`.
        queries: rows with `_id` and `text`.
        judgements: rows of a query, a document and a grade.
    """

    corpus: Path
    queries: Path
    judgements: Path

    def all(self) -> tuple[Path, Path, Path]:
        """The three files."""
        return self.corpus, self.queries, self.judgements


class Document(NamedTuple):
    """A document of a corpus. Title and text may be empty."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text with a space between, as BEIR encodes a document."""
        return f"{self.title} {self.text}".strip()


class Judgement(NamedTuple):
    """The grade of a document for a query; above 0 it is relevant. `where` names the line."""

    query: str
    document: str
    grade: int
    where: str


@dataclasses.dataclass(frozen=True)
class BeirSet:
    """A set in memory: its documents, and the queries that have a relevant one.

    Attributes:
        documents: id -> document.
        queries: id -> text.
        grades: query id -> document id -> grade; documents of grade 0 or less may be among them.
        absent_queries: positive judgements that were left out because their query is not in the set.
        absent_documents: likewise for documents.
    """

    documents: dict[str, Document]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]
    absent_queries: int
    absent_documents: int

    def describe_absent(self) -> str | None:
        """A sentence about judgements that were left out; None if there are none."""
        return describe_absent(self.absent_queries, self.absent_documents)


def describe_absent(queries: int, documents: int) -> str | None:
    """A sentence about positive judgements that were left out; None if there are none."""
    counts = [(queries, "query"), (documents, "document")]
    parts = [f"{count:,} name an absent {what}" for count, what in counts if count]
    return f"judgements left out: {' and '.join(parts)}" if parts else None


def corpus_file(directory: Path) -> Path | None:
    """The corpus of a directory in the BEIR layout; None if it is not one."""
    return _existing(directory / "corpus.jsonl")


def splits(directory: Path) -> list[str]:
    """Names of the splits that have judgements, sorted; `qrels.tsv` alone counts as "test"."""
    if (directory / "qrels").is_dir():
        return sorted({path.name.partition(".")[0] for path in (directory / "qrels").glob("[!.]*.tsv*")})
    return ["test"] if _existing(directory / "qrels.tsv") else []


def find_beir(directory: Path, split: str = "test") -> BeirFiles:
    """The files of a set for one split of its judgements. `qrels.tsv` serves for any split.

    Raises:
        FileNotFoundError: one is missing; the message names it, and the splits that are there.
    """
    judgements = directory / "qrels" / f"{split}.tsv" if (directory / "qrels").is_dir() else directory / "qrels.tsv"
    hint = f"the splits are {', '.join(splits(directory)) or '(none)'}."
    corpus, queries = required_file(directory / "corpus.jsonl"), required_file(directory / "queries.jsonl")
    return BeirFiles(corpus, queries, required_file(judgements, hint))


def required_file(path: Path, hint: str = "see BEIR for the layout.") -> Path:
    """The file, or that file with .gz.

    Raises:
        FileNotFoundError: neither is there.
    """
    existing = _existing(path)
    if existing is None:
        raise FileNotFoundError(f"{path}: neither it nor {path.name}.gz is there; {hint}")
    return existing


def read_documents(
    file: Path, progress: tqdm | None = None, *, unique: Container[str] | None = None
) -> Iterator[Document]:
    """Yield the documents of a corpus in their order.

    Args:
        file: the corpus.
        progress: as for `textfiles.rows.read_row_batches`.
        unique: ids that are checked to be used only once; a large corpus need not keep all of its ids. None: all.

    Raises:
        ValueError: a line cannot be read, a value is not a text, or an id is used twice.
    """
    return _documents(_rows(file, progress), unique)


def read_queries(file: Path, wanted: Container[str] | None = None) -> Iterator[tuple[str, str]]:
    """Yield id and text of the queries with the wanted ids; None: of all.

    Raises:
        ValueError: a line cannot be read, an id is used twice, or the text of a wanted query is blank or not a text.
    """
    return _queries(_rows(file), wanted)


def read_judgements(file: Path) -> Iterator[Judgement]:
    """Yield the judgements of a file in their order, one for each query and document.

    Raises:
        ValueError: a line cannot be read, a grade is not a whole number, or two lines grade one document differently.
    """
    columns: tuple[str, ...] | list[str] | None = None
    grades: dict[tuple[str, str], int] = {}
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if not any(cells):
            continue
        if columns is None:
            columns = _columns(cells, where)
            if columns is cells:
                continue
        if len(cells) != len(columns):
            raise ValueError(f"{where}: {len(cells)} cells under {len(columns)} columns; correct the line.")
        judgement = _judgement(dict(zip(columns, cells, strict=True)), where)
        known = grades.get((judgement.query, judgement.document))
        if known == judgement.grade:
            continue
        if known is not None:
            raise ValueError(f"{where}: grade {judgement.grade} for a document graded {known} above; remove one line.")
        grades[judgement.query, judgement.document] = judgement.grade
        yield judgement


def load_beir(directory: Path, split: str = "test") -> BeirSet:
    """Read a set into memory.

    Queries without a relevant document are left out, as in BEIR.

    Args:
        directory: in the BEIR layout.
        split: of the judgements.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as the readers of the three files; or nothing is judged relevant.
    """
    return read_beir(find_beir(directory, split))


def read_beir(files: BeirFiles, *, strict: bool = False) -> BeirSet:
    """Read the files of a set into memory; see `load_beir`.

    Raises:
        ValueError: likewise; or `strict`, and an absent query or document is judged relevant.
    """
    judgements = list(read_judgements(files.judgements))
    return _gather(judgements, _rows(files.corpus), _rows(files.queries), files, strict=strict)


def beir_of_rows(corpus: Rows, queries: Rows, judgements: Rows) -> BeirSet:
    """A set of rows that are in memory, such as those of a hub data set; see `load_beir`.

    Args:
        corpus: rows with `_id`, `text` and perhaps `title`, each after what to call it in an error.
        queries: likewise, with `_id` and `text`.
        judgements: likewise, with `query-id`, `corpus-id` and `score`.
    """
    return _gather([_judgement(row, where) for where, row in judgements], corpus, queries)


def _gather(
    judgements: list[Judgement], corpus: Rows, query_rows: Rows, files: BeirFiles | None = None, *, strict: bool = False
) -> BeirSet:
    documents = {document.id: document for document in _documents(corpus)}
    queries = dict(_queries(query_rows, {judgement.query for judgement in judgements if judgement.grade > 0}))
    kept, absent_queries, absent_documents = keep_present(judgements, queries, documents, files, strict=strict)
    grades: dict[str, dict[str, int]] = {}
    for judgement in kept:
        grades.setdefault(judgement.query, {})[judgement.document] = judgement.grade
    grades = {query: found for query, found in grades.items() if max(found.values()) > 0}
    if not grades:
        raise ValueError(f"{files.judgements if files else 'the judgements'}: no query has a relevant document.")
    texts = {query: text for query, text in queries.items() if query in grades}
    return BeirSet(documents, texts, grades, absent_queries, absent_documents)


def keep_present(
    judgements: Iterable[Judgement],
    queries: Container[str],
    documents: Container[str],
    files: BeirFiles | None,
    *,
    strict: bool = False,
) -> tuple[list[Judgement], int, int]:
    """The judgements whose query and document are there, and how many positive ones lack a query or a document.

    Raises:
        ValueError: `strict`, and there is one of the latter; the message names line and id.
    """
    kept = []
    absent = {"query": 0, "document": 0}
    for judgement in judgements:
        if judgement.query not in queries:
            what, name, file = "query", judgement.query, files and files.queries
        elif judgement.document not in documents:
            what, name, file = "document", judgement.document, files and files.corpus
        else:
            kept.append(judgement)
            continue
        if judgement.grade > 0:
            absent[what] += 1
            if strict:
                raise ValueError(f"{judgement.where}: the {what} {name!r} is not in {file}; remove the line.")
    return kept, absent["query"], absent["document"]


def _rows(file: Path, progress: tqdm | None = None) -> Rows:
    for batch in read_row_batches(file, ("_id", "text"), progress):
        for number, row in zip(batch.numbers, batch.rows, strict=True):
            yield f"{batch.where} {number}", row


def _documents(rows: Rows, unique: Container[str] | None = None) -> Iterator[Document]:
    seen: set[str] = set()
    for where, row in rows:
        document = document_of(row, where)
        if unique is None or document.id in unique:
            _add_once(seen, document.id, where)
        yield document


def document_of(row: Mapping[str, Any], where: str) -> Document:
    """A row of a corpus as a document.

    Raises:
        ValueError: the id is neither text nor a whole number, or title or text is no text.
    """
    title = row.get("title")
    title = "" if title is None else check_text(title, f"{where}, column 'title'", may_be_blank=True)
    return Document(id_of(row, "_id", where), title.strip(), text_of(row, "text", where, may_be_blank=True))


def _queries(rows: Rows, wanted: Container[str] | None) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for where, row in rows:
        name = id_of(row, "_id", where)
        _add_once(seen, name, where)
        if wanted is None or name in wanted:
            yield name, text_of(row, "text", where)


def _judgement(row: Mapping[str, Any], where: str) -> Judgement:
    grade = number_of(row, "score", where)
    if not grade.is_integer():
        raise ValueError(f"{where}: the grade {row['score']!r} is not a whole number; correct the line.")
    return Judgement(id_of(row, "query-id", where), id_of(row, "corpus-id", where), int(grade), where)


def _columns(cells: list[str], where: str) -> tuple[str, ...] | list[str]:
    """The names of the columns; `cells` themselves where the first line is a header."""
    try:
        float(cells[-1])
    except ValueError:
        require_columns(cells, _COLUMNS, where)
        return cells
    if len(cells) not in (3, 4):
        raise ValueError(f"{where}: {len(cells)} cells; judgements have {', '.join(_COLUMNS)}.")
    return _COLUMNS if len(cells) == 3 else _TREC_COLUMNS


def _existing(path: Path) -> Path | None:
    return next((each for each in (path, path.with_name(f"{path.name}.gz")) if each.is_file()), None)


def _add_once(seen: set[str], name: str, where: str) -> None:
    if name in seen:
        raise ValueError(f"{where}: the id {name!r} is used twice; rename or remove one.")
    seen.add(name)
