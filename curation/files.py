"""Reading and writing the files that text lives in: .jsonl, .jsonl.gz, .parquet and .txt.

Errors name the file and the line, so that one bad row among millions can be found and mended. Files are
written beside their target and renamed, so that an interrupted write never leaves a file that looks whole.
"""

import glob
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")
ROW_SUFFIXES = (*JSONL_SUFFIXES, ".parquet")
ROWS_AT_ONCE = 10_000


class RowBatch(NamedTuple):
    """Consecutive rows of one file and what to call them in an error: `f"{where} {numbers[i]}"`."""

    where: str
    numbers: Sequence[int]
    rows: list[dict[str, Any]]


def find_files(path: str | Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files that a path stands for, sorted by name so that every machine reads them in one order.

    Names with a leading dot are passed over: an interrupted write may have left them.

    Args:
        path: A file, a glob pattern, or a directory that is searched with its subdirectories.
        suffixes: Endings that are read. A named file or a glob match with another ending is an error; in a
            directory such files are passed over.

    Raises:
        FileNotFoundError: Nothing is there, or the directory holds no file with one of the suffixes.
        ValueError: A file that was asked for has an ending that cannot be read.
    """
    path = Path(path).expanduser()
    wanted = ", ".join(suffixes)
    if path.is_dir():
        found = sorted(file for file in path.rglob("[!.]*") if file.is_file() and file.name.endswith(suffixes))
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if not found:
        raise FileNotFoundError(f"{path}: no {wanted} file there; give a file, a directory or a glob pattern.")
    for file in found:
        if not file.name.endswith(suffixes):
            raise ValueError(f"{file}: cannot read this kind of file; use one of {wanted}.")
    return found


def read_row_batches(file: Path, columns: Sequence[str]) -> Iterator[RowBatch]:
    """Yield the rows of a .jsonl, .jsonl.gz or .parquet file, `ROWS_AT_ONCE` at a time.

    Args:
        file: The file.
        columns: Columns that are needed. A .parquet file that lacks one is refused and only these are read
            from it; rows of a .jsonl file come with whatever keys they have.

    Raises:
        ValueError: The file is damaged, or a .parquet file lacks a column.
    """
    if not file.name.endswith(JSONL_SUFFIXES):
        yield from _parquet_batches(file, columns)
        return
    numbered = numbered_jsonl(file)
    while batch := list(itertools.islice(numbered, ROWS_AT_ONCE)):
        numbers, rows = zip(*batch, strict=True)
        yield RowBatch(f"{file}, line", numbers, list(rows))


def _parquet_batches(file: Path, columns: Sequence[str]) -> Iterator[RowBatch]:
    try:
        with pq.ParquetFile(file) as parquet:
            require_columns(parquet.schema_arrow.names, columns, str(file))
            first = 1
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
                yield RowBatch(f"{file}, row", range(first, first + len(batch)), batch.to_pylist())
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable parquet file ({error}); fetch or write it again.") from error


def require_columns(present: Iterable[str], columns: Iterable[str], where: str) -> None:
    """Raise a ValueError that names the first of `columns` that is not among those present, and what is there."""
    names = list(present)
    for column in columns:
        if column not in names:
            raise ValueError(f"{where}: no column {column!r}; the columns are {', '.join(names) or '(none)'}.")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the object on each line of a .jsonl or .jsonl.gz file.

    Raises:
        ValueError: A line is not a JSON object, or the file is damaged; the message names file and line.
    """
    for _, row in numbered_jsonl(path):
        yield row


def numbered_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, with the line number, counted from 1, before each object. Blank lines are passed over."""
    number = 0
    try:
        path = Path(path)
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if not line.isspace():
                    yield number, _parse_object(line, path, number)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}, after line {number}: the gzip stream is damaged or cut short ({error}); fetch or write it again."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {number}: not UTF-8 ({error}); convert the file to UTF-8.") from error


def _parse_object(line: str, path: str | Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); "
            "every line must be one complete JSON object."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number}: a {type(row).__name__}, not an object such as {{"query": ...}}.')
    return row


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write one JSON object a line, gzipped when the name ends in .gz, and return the number of rows.

    The same rows give the same bytes. The file appears under its name only once it is complete.

    Raises:
        ValueError: The name does not end in .jsonl or .jsonl.gz, so no reader would find the file.
    """
    path = Path(path)
    if not path.name.endswith(JSONL_SUFFIXES):
        raise ValueError(f"{path}: the name must end in .jsonl or .jsonl.gz.")
    count = 0
    with atomic_file(path) as partial, open(partial, "wb") as file:
        # Without name and time in its header, the gzip file depends on the rows alone.
        stream = gzip.GzipFile("", "wb", 6, file, mtime=0) if path.suffix == ".gz" else file
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
        if stream is not file:
            stream.close()
    return count


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which takes the name `path` once it is complete.

    If writing fails, what is at `path` stays as it was and the incomplete file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers apart; readers of a directory pass over names with a leading dot.
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
