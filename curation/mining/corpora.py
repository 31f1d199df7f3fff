"""Corpora to mine from: files of documents, and sets in the BEIR layout as pairs and a corpus.

Both are copied once to Arrow files, which map into memory: of a corpus of millions of documents nothing stays in it
but the ids that are judged.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from tqdm.auto import tqdm

from textfiles.rows import RowBatch, read_row_batches, reading_progress, require_columns
from textfiles.texts import texts_of
from textfiles.writing import write_arrow

PAIRS, CORPUS = "pairs.arrow", "corpus.arrow"
_PAIRS_SCHEMA = pa.schema([(name, pa.string()) for name in ("query", "document", "others")])
_CORPUS_SCHEMA = pa.schema([("text", pa.string())])
_ROWS_AT_ONCE = 1_000


def corpus_file(directory: Path) -> Path | None:
    """The corpus.jsonl or corpus.jsonl.gz of a directory in the BEIR layout; None: it is none."""
    return next((path for path in _plain_or_gzipped(directory / "corpus.jsonl") if path.is_file()), None)


def beir_files(directory: Path, split: str) -> tuple[Path, Path, Path]:
    """The corpus, the queries and the judgements of a split; qrels/SPLIT.tsv where there is a directory qrels.

    Raises:
        FileNotFoundError: One is missing.
    """
    judgements = directory / "qrels" / f"{split}.tsv" if (directory / "qrels").is_dir() else directory / "qrels.tsv"
    found = []
    for wanted in (directory / "corpus.jsonl", directory / "queries.jsonl", judgements):
        path = next((path for path in _plain_or_gzipped(wanted) if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{wanted}: neither it nor {wanted.name}.gz is there; the BEIR layout is corpus.jsonl, queries.jsonl "
                "and qrels.tsv or qrels/SPLIT.tsv, with the source's key `split` for SPLIT."
            )
        found.append(path)
    return found[0], found[1], found[2]


def copy_corpus(files: Sequence[Path], text: str, title: str | None, path: Path) -> None:
    """Copy the documents of some files to one Arrow file with the column `text`.

    Args:
        files: .jsonl, .jsonl.gz or .parquet files.
        text: Name of the column with the text.
        title: Name of the column with a title, put before the text with a space between; it may be empty in a row.
        path: The Arrow file.

    Raises:
        ValueError: A row lacks a column, or its document is blank or no text; the message names file and row.
    """
    columns = [text] if title is None else [text, title]
    with reading_progress(files) as progress:
        batches = (batch for file in files for batch in read_row_batches(file, columns, progress))
        write_arrow((_documents(batch, text, title, columns) for batch in batches), _CORPUS_SCHEMA, path)


def copy_beir(directory: Path, split: str, cache: Path) -> None:
    """Copy a set in the BEIR layout: `corpus.arrow` (text) and `pairs.arrow` (query, document, others).

    A document is its title and its text with a space between. Every judgement with a score above 0 is a pair, in
    their order; `others` holds its two ids, as JSON.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A line cannot be read, a text is blank, an id is unknown or stands twice, or nothing is judged
            above 0. The message names file and line or id.
    """
    corpus, queries, judgements = beir_files(directory, split)
    judged = list(dict.fromkeys(_positive_judgements(judgements)))
    if not judged:
        raise ValueError(f"{judgements}: no judgement has a score above 0.")
    texts = _read_queries(queries, {query for query, _ in judged})
    _refuse_unknown((query for query, _ in judged), texts, judgements, "query", queries)
    places: dict[str, int] = {}
    with reading_progress([corpus]) as progress:
        tables = _beir_documents(corpus, {document for _, document in judged}, places, progress)
        write_arrow(tables, _CORPUS_SCHEMA, cache / CORPUS)
    _refuse_unknown((document for _, document in judged), places, judgements, "document", corpus)
    write_arrow(_beir_pairs(judged, texts, places, cache / CORPUS), _PAIRS_SCHEMA, cache / PAIRS)


def _plain_or_gzipped(path: Path) -> tuple[Path, Path]:
    return path, path.with_name(f"{path.name}.gz")


def _documents(batch: RowBatch, text: str, title: str | None, columns: Sequence[str]) -> pa.Table:
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        if any(column not in row for column in columns):
            require_columns(row, columns, f"{batch.where} {number}")
    rows = [{text: row[text] if title is None else _joined(row.get(title), row[text])} for row in batch.rows]
    return pa.table([texts_of(RowBatch(batch.where, batch.numbers, rows), text)], schema=_CORPUS_SCHEMA)


def _joined(title: object, text: object) -> object:
    """Title and text as in BEIR; what is no text is left for the check of the column to name."""
    return f"{title or ''} {text}".strip() if isinstance(text, str) and isinstance(title, str | None) else text


def _positive_judgements(path: Path) -> Iterator[tuple[str, str]]:
    """(query id, document id) of each judgement above 0."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        header = next(lines, "").rstrip("\r\n").split("\t")
        require_columns(header, ("query-id", "corpus-id", "score"), f"{path}, line 1")
        for number, line in enumerate(lines, start=2):
            if not line.strip():
                continue
            try:
                row = dict(zip(header, line.rstrip("\r\n").split("\t"), strict=True))
                is_positive = float(row["score"]) > 0
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: cannot be read ({error}); correct the line.") from error
            if is_positive:
                yield row["query-id"], row["corpus-id"]


def _read_queries(path: Path, wanted: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for batch in read_row_batches(path, ("_id", "text")):
        ids = _ids(batch)
        kept = [place for place, query in enumerate(ids) if query in wanted]
        numbers, rows = [batch.numbers[place] for place in kept], [batch.rows[place] for place in kept]
        found = texts_of(RowBatch(batch.where, numbers, rows), "text").to_pylist()
        for number, place, text in zip(numbers, kept, found, strict=True):
            if ids[place] in texts:
                raise ValueError(f"{batch.where} {number}: the id {ids[place]!r} stands twice; correct or remove one.")
            texts[ids[place]] = text
    return texts


def _beir_documents(path: Path, judged: set[str], places: dict[str, int], progress: tqdm) -> Iterator[pa.Table]:
    """The documents; `places` is told where those that are judged stand."""
    start = 0
    for batch in read_row_batches(path, ("_id", "text"), progress):
        for place, document in enumerate(_ids(batch)):
            if document in judged:
                if document in places:
                    raise ValueError(f"{batch.where} {batch.numbers[place]}: the id {document!r} stands twice.")
                places[document] = start + place
        yield _documents(batch, "text", "title", ("text",))
        start += len(batch.rows)


def _ids(batch: RowBatch) -> list[str]:
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        if "_id" not in row:
            require_columns(row, ["_id"], f"{batch.where} {number}")
    return [str(row["_id"]) for row in batch.rows]


def _refuse_unknown(ids: Iterable[str], known: dict, judgements: Path, what: str, file: Path) -> None:
    unknown = next((each for each in ids if each not in known), None)
    if unknown is not None:
        raise ValueError(f"{judgements} names the {what} {unknown!r}, which is not in {file}.")


def _beir_pairs(
    judged: list[tuple[str, str]], queries: dict[str, str], places: dict[str, int], corpus: Path
) -> Iterator[pa.Table]:
    with pa.memory_map(str(corpus)) as file:
        documents = pa.ipc.open_stream(file).read_all()["text"]
        for start in range(0, len(judged), _ROWS_AT_ONCE):
            pairs = judged[start : start + _ROWS_AT_ONCE]
            columns = [
                [queries[query] for query, _ in pairs],
                [documents[places[document]].as_py() for _, document in pairs],
                [
                    json.dumps(dict(zip(("query-id", "corpus-id"), ids, strict=True)), ensure_ascii=False)
                    for ids in pairs
                ],
            ]
            yield pa.table([pa.array(column, pa.string()) for column in columns], schema=_PAIRS_SCHEMA)
