"""Corpora to mine from: files of documents, and sets in the BEIR layout as pairs and a corpus.

Both are copied once to Arrow files, which map into memory: of a corpus of millions of documents nothing stays in it
but the ids that are judged. Blank documents, which some corpora have, are left out: they cannot be negatives.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from textfiles.beir import Document, Judgement, find_beir, keep_present, read_documents, read_judgements, read_queries
from textfiles.rows import RowBatch, column_remedy, read_row_batches, reading_progress, require_columns
from textfiles.texts import check_text
from textfiles.writing import write_arrow

PAIRS, CORPUS = "pairs.arrow", "corpus.arrow"
_PAIRS_SCHEMA = pa.schema([(name, pa.string()) for name in ("query", "document", "others")])
_CORPUS_SCHEMA = pa.schema([("text", pa.string())])
_ROWS_AT_ONCE = 1_000


@column_remedy("corpus_text and corpus_title")
def copy_corpus(files: Sequence[Path], text: str, title: str | None, path: Path) -> None:
    """Copy the documents of some files to one Arrow file with the column `text`.

    Args:
        files: files of rows.
        text: name of the column with the text.
        title: name of the column with a title, put before the text with a space between; it may be null in a row.
        path: the Arrow file.

    Raises:
        ValueError: a row lacks a column, or a value is not a text; the message names file and row.
    """
    columns = [text] if title is None else [text, title]
    with reading_progress(files) as progress:
        batches = (batch for file in files for batch in read_row_batches(file, columns, progress))
        documents = (document for batch in batches for document in _documents(batch, text, title))
        write_arrow(_tables(documents, {}), _CORPUS_SCHEMA, path)


def copy_beir(directory: Path, split: str, cache: Path) -> None:
    """Copy a set in the BEIR layout: `corpus.arrow` (text) and `pairs.arrow` (query, document, others).

    A document is its title and its text with a space between. Every judgement with a grade above 0 is a pair, in
    their order; `others` holds its two ids, as JSON. Judgements of a query or document that is absent are left out,
    and their number is printed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line cannot be read, a judged query is blank, an id is used twice, or no pair is left. The
            message names file and line or id.
    """
    files = find_beir(directory, split)
    judged = [judgement for judgement in read_judgements(files.judgements) if judgement.grade > 0]
    queries = dict(read_queries(files.queries, {judgement.query for judgement in judged}))
    places = dict.fromkeys((judgement.document for judgement in judged), -1)
    with reading_progress([files.corpus]) as progress:
        documents = read_documents(files.corpus, progress, unique=places)
        write_arrow(_tables(documents, places), _CORPUS_SCHEMA, cache / CORPUS)
    found = {document: place for document, place in places.items() if place >= 0}
    pairs, absent_queries, absent_documents = keep_present(judged, queries, found, files)
    if not pairs:
        raise ValueError(f"{files.judgements}: no query has a relevant document.")
    if absent := absent_queries + absent_documents:
        print(f"{directory}: {absent:,} judgements left out, whose query or document is absent or blank.", flush=True)
    write_arrow(_beir_pairs(pairs, queries, found, cache / CORPUS), _PAIRS_SCHEMA, cache / PAIRS)


def _documents(batch: RowBatch, text: str, title: str | None) -> Iterator[Document]:
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        where = f"{batch.where} {number}"
        require_columns(row, [text] if title is None else [text, title], where)
        body = check_text(row[text], f"{where}, column {text!r}", may_be_blank=True)
        head = row[title] if title is not None else None
        if head is not None:
            head = check_text(head, f"{where}, column {title!r}", may_be_blank=True)
        yield Document("", head or "", body)


def _tables(documents: Iterable[Document], places: dict[str, int]) -> Iterator[pa.Table]:
    """The texts of documents that are not blank; the places of those that are keys of `places` are set there."""
    filled = (document for document in documents if document.whole)
    row = 0
    while batch := list(itertools.islice(filled, _ROWS_AT_ONCE)):
        for place, document in enumerate(batch, start=row):
            if document.id in places:
                places[document.id] = place
        row += len(batch)
        yield pa.table([[document.whole for document in batch]], schema=_CORPUS_SCHEMA)


def _beir_pairs(
    judged: Sequence[Judgement], queries: dict[str, str], places: dict[str, int], corpus: Path
) -> Iterator[pa.Table]:
    with pa.memory_map(str(corpus)) as file:
        documents = pa.ipc.open_stream(file).read_all()["text"]
        for start in range(0, len(judged), _ROWS_AT_ONCE):
            batch = judged[start : start + _ROWS_AT_ONCE]
            columns = [
                [queries[judgement.query] for judgement in batch],
                [documents[places[judgement.document]].as_py() for judgement in batch],
                [_others(judgement) for judgement in batch],
            ]
            yield pa.table([pa.array(column, pa.string()) for column in columns], schema=_PAIRS_SCHEMA)


def _others(judgement: Judgement) -> str:
    return json.dumps({"query-id": judgement.query, "corpus-id": judgement.document}, ensure_ascii=False)
