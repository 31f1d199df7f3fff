"""Reading and writing the files that text lives in: .jsonl, .jsonl.gz, .parquet and .txt.

Errors name the file and the line, so that one bad row among millions can be found and mended. Files are
written beside their target and renamed, so that an interrupted write never leaves a file that looks whole.
"""

import glob
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from textfiles.atomic import atomic_file

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")
ROW_SUFFIXES = (*JSONL_SUFFIXES, ".parquet")
ROWS_AT_ONCE = 10_000
# Most rows of a record batch on the disk. Whoever opens a data set reads the head of each of its batches and holds an
# object for each: of 239 million pairs in batches of 1,000, the rule in `datasets`, every process would hold 0.6 GB.
ROWS_PER_BATCH = 1_000_000
_BYTES_PER_BATCH = 2**28
_BYTES_WITHOUT_PROGRESS = 10_000_000


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


def file_stats(files: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of change of each file: what tells that the files are the same as before."""
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def read_row_batches(file: Path, columns: Sequence[str] | None, progress: tqdm | None = None) -> Iterator[RowBatch]:
    """Yield the rows of a .jsonl, .jsonl.gz or .parquet file, `ROWS_AT_ONCE` at a time.

    Args:
        file: The file.
        columns: Columns that are needed. A .parquet file that lacks one is refused and only these are read
            from it; rows of a .jsonl file come with whatever keys they have. None: all columns.
        progress: A bar that counts bytes, moved on by the size of the file while it is read.

    Raises:
        ValueError: The file is damaged, or a .parquet file lacks a column.
    """
    batches = _jsonl_batches(file) if file.name.endswith(JSONL_SUFFIXES) else _parquet_batches(file, columns)
    done = 0
    for batch, position in batches:
        yield batch
        if progress is not None:
            progress.update(position - done)
            done = position
    if progress is not None:
        progress.update(file.stat().st_size - done)


def _jsonl_batches(file: Path) -> Iterator[tuple[RowBatch, int]]:
    """Batches, and the bytes of the file read by then."""
    with open(file, "rb") as stream:
        numbered = _numbered_objects(file, stream)
        while batch := list(itertools.islice(numbered, ROWS_AT_ONCE)):
            numbers, rows = zip(*batch, strict=True)
            yield RowBatch(f"{file}, line", numbers, list(rows)), stream.tell()


def _parquet_batches(file: Path, columns: Sequence[str] | None) -> Iterator[tuple[RowBatch, int]]:
    """Batches, and the bytes of the file that their share of its rows stands for."""
    try:
        with pq.ParquetFile(file) as parquet:
            require_columns(parquet.schema_arrow.names, columns or (), str(file))
            size, first = file.stat().st_size, 1
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=None if columns is None else list(columns)):
                rows = RowBatch(f"{file}, row", range(first, first + len(batch)), batch.to_pylist())
                first += len(batch)
                yield rows, size * (first - 1) // parquet.metadata.num_rows
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
    with open(path, "rb") as stream:
        yield from _numbered_objects(Path(path), stream)


def _numbered_objects(path: Path, stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        content = gzip.GzipFile(fileobj=stream) if path.suffix == ".gz" else stream
        lines = io.TextIOWrapper(content, encoding="utf-8")
        try:
            for line in lines:
                number += 1
                if not line.isspace():
                    yield number, _parse_object(line, path, number)
        finally:
            lines.detach()  # else the stream, which is the caller's, would be closed
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


def reading_progress(files: Sequence[Path]) -> tqdm:
    """A bar over the bytes of some files, for `read_row_batches`; it is not shown for a few megabytes."""
    total = sum(file.stat().st_size for file in files)
    return tqdm(desc="Reading", total=total, unit="B", unit_scale=True, disable=total < _BYTES_WITHOUT_PROGRESS)


def write_arrow(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    """Write tables as one Arrow stream, which `datasets.Dataset.from_file` maps into memory.

    Tables are joined to record batches of many rows, but of bounded size: columns of text count their bytes in 32
    bits within a batch. The file appears under its name only once it is complete.

    Args:
        tables: Each of `schema`, the size of a batch or smaller.
        schema: Names and types of the columns.
        path: The file.
    """
    with atomic_file(path) as partial, pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        waiting: list[pa.Table] = []
        rows = size = 0
        for table in tables:
            if rows + len(table) > ROWS_PER_BATCH or size + table.nbytes > _BYTES_PER_BATCH:
                _write_batches(waiting, writer)
                waiting, rows, size = [], 0, 0
            waiting.append(table)
            rows, size = rows + len(table), size + table.nbytes
        _write_batches(waiting, writer)


def _write_batches(tables: list[pa.Table], writer: pa.RecordBatchStreamWriter) -> None:
    if len(tables) > 1:
        tables = [pa.concat_tables(tables).combine_chunks()]
    for table in tables:
        # A single table may be larger than a column can be in one piece; it comes in pieces then, and stays in them.
        for batch in table.to_batches():
            writer.write_batch(batch)
