"""Rows of .jsonl, .tsv, .csv (each perhaps .gz) and .parquet files; errors name the file, the line and the column."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS_AT_ONCE = 1_000


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a file with what to call it in an error, such as "dev.tsv.gz, line 3".

    .tsv files have a header, a tab between cells and no quoting; .csv files a header and quoting. Blank lines are
    passed over. Lines are counted from 1, and so are rows of .parquet files.

    Args:
        file: What to read; its ending says how.
        columns: Columns that every row must have. Of a .parquet file, only these are read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another ending, is damaged, or a row cannot be read or lacks a column.
    """
    name = file.name.removesuffix(".gz")
    readers = {".jsonl": _jsonl_rows, ".tsv": _tsv_rows, ".csv": _csv_rows}
    if file.name.endswith(".parquet"):
        rows = _parquet_rows(file, columns)
    elif reader := readers.get(Path(name).suffix):
        rows = reader(file)
    else:
        raise ValueError(f"{file}: cannot read this kind of file; use {', '.join(readers)} (.gz or not) or .parquet.")
    for where, row in rows:
        for column in columns:
            if column not in row:
                raise ValueError(f"{where}: no column {column!r}; there are {', '.join(row) or 'none'}.")
        yield where, row


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text of a column.

    Raises:
        ValueError: It is no text, or blank; names the row and the column.
    """
    text = row[column]
    if not isinstance(text, str):
        raise ValueError(f"{where}, column {column!r}: {type(text).__name__} instead of a text.")
    if not text.strip():
        raise ValueError(f"{where}, column {column!r}: the text is blank; remove the row.")
    return text


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    number = 0
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8", newline="") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - the last number is in the error
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file}, after line {number}: damaged, cut short or not UTF-8 ({error}); fetch or write it again."
        ) from error


def _jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(file, number, str(error)) from error
        if not isinstance(row, dict):
            raise _unreadable(file, number, f"{type(row).__name__} instead of an object")
        yield f"{file}, line {number}", row


def _tsv_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return _table_rows(file, ((number, line.rstrip("\r\n").split("\t")) for number, line in _lines(file)))


def _csv_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)  # of characters; by default shorter than a long document
    reader = csv.reader(line for _, line in _lines(file))
    try:
        yield from _table_rows(file, ((reader.line_num, cells) for cells in reader))
    except csv.Error as error:
        raise _unreadable(file, reader.line_num, str(error)) from error


def _table_rows(file: Path, table: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    _, header = next(table, (0, []))
    for number, cells in table:
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise _unreadable(file, number, f"{len(cells)} cells under {len(header)} columns")
        yield f"{file}, line {number}", dict(zip(header, cells, strict=True))


def _parquet_rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with pq.ParquetFile(file) as parquet:
            present = [column for column in columns if column in parquet.schema_arrow.names]
            if len(present) < len(columns):  # reading no columns would give no rows, and the error would be lost
                missing = next(column for column in columns if column not in present)
                raise ValueError(f"{file}: no column {missing!r}; there are {', '.join(parquet.schema_arrow.names)}.")
            number = 0
            for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=present):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except pa.ArrowException as error:
        raise ValueError(f"{file}: not a readable parquet file ({error}); fetch or write it again.") from error


def _unreadable(file: Path, number: int, reason: str) -> ValueError:
    return ValueError(f"{file}, line {number}: cannot be read ({reason}); correct the line.")
