"""Rows of .jsonl, .tsv, .csv (each plain or .gz) and .parquet files.

There is one reader, and its errors name the file and the line or row, so that one bad row among millions can be found.
A table made by a spreadsheet is read too: a byte order mark at the start of a file is not part of its text.
"""

import csv
import glob
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from .paths import file_fault
from .settings import near_name

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")
TABLE_SUFFIXES = (".tsv", ".tsv.gz", ".csv", ".csv.gz")
ROW_SUFFIXES = (*JSONL_SUFFIXES, *TABLE_SUFFIXES, ".parquet")
ROWS_AT_ONCE = 10_000
_BYTES_WITHOUT_PROGRESS = 10_000_000
_LFS_POINTER = b"version https://git-lfs"


class RowBatch(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
        where: what to call them in an error: `f"{where} {numbers[i]}"`.
        numbers: of the rows, counted from 1; lines of a text file.
        rows: column -> value. Values of tables are texts.
    """

    where: str
    numbers: Sequence[int]
    rows: list[dict[str, Any]]


def find_files(path: str | Path, suffixes: tuple[str, ...] = ROW_SUFFIXES) -> list[Path]:
    """The files that a path stands for, sorted by name so that every machine reads them in one order.

    In a directory, files and folders with a leading dot are skipped: an interrupted write or an editor may have left
    them.

    Args:
        path: a file, a glob pattern, or a directory that is searched with its subdirectories.
        suffixes: endings that are read. A named file or a glob match with another ending is an error; in a
            directory such files are skipped.

    Raises:
        FileNotFoundError: nothing is there, or the directory holds no file with one of the suffixes.
        ValueError: a file that was asked for has an ending that cannot be read.
    """
    path = Path(path).expanduser()
    wanted = ", ".join(suffixes)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.name.endswith(suffixes) and file.is_file())
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if not found:
        if not path.is_dir() and not glob.has_magic(str(path)) and (fault := file_fault(path)):
            raise FileNotFoundError(fault)
        raise FileNotFoundError(f"{path}: no {wanted} file there; give a file, a directory or a glob pattern.")
    for file in found:
        if not file.name.endswith(suffixes):
            raise ValueError(f"{file}: cannot read this kind of file; use one of {wanted}.")
    return found


def file_stats(files: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of change of each file: tells whether the files are the same as before."""
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def read_row_batches(
    file: Path, columns: Sequence[str] | None = None, progress: tqdm | None = None
) -> Iterator[RowBatch]:
    """Yield the rows of a file, `ROWS_AT_ONCE` at a time.

    .tsv files have a header, a tab between cells and no quoting, as in BEIR and GLUE. .csv files have a header, quoting
    and commas, or semicolons where the header has no comma.
    Blank lines are skipped.

    Args:
        file: the file; its ending says how it is read.
        columns: columns that are needed. A .parquet file or a table that lacks one is refused, and only these are read
            from a .parquet file; rows of a .jsonl file come with whatever keys they have. None: all columns.
        progress: a bar that counts bytes, advanced by the size of the file while it is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another ending, is damaged, or lacks a column; or a row cannot be read.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; correct the path.")
    if not file.name.endswith(ROW_SUFFIXES):
        raise ValueError(f"{file}: cannot read this kind of file; use one of {', '.join(ROW_SUFFIXES)}.")
    batches = _parquet_batches(file, columns) if file.suffix == ".parquet" else _text_batches(file, columns or ())
    done = 0
    for batch, position in batches:
        yield batch
        if progress is not None:
            progress.update(position - done)
            done = position
    if progress is not None:
        progress.update(file.stat().st_size - done)


def read_rows(file: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a file with what to call it in an error, such as "dev.tsv.gz, line 3".

    Args:
        file: as for `read_row_batches`.
        columns: columns that every row must have. Only these are read from a .parquet file. None: all columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `read_row_batches`, or a row lacks a column.
    """
    for batch in read_row_batches(file, columns):
        for number, row in zip(batch.numbers, batch.rows, strict=True):
            where = f"{batch.where} {number}"
            require_columns(row, columns or (), where)
            yield where, row


def rows_of(file: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; see `read_row_batches`."""
    return (row for batch in read_row_batches(Path(file)) for row in batch.rows)


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, plain or .gz, with their numbers, counted from 1.

    Raises:
        ValueError: the file is damaged, not UTF-8, or a Git LFS pointer; the message names file and line.
    """
    with open(file, "rb") as stream, closing(_lines(file, stream)) as lines:
        yield from lines


def column_names(files: Iterable[Path]) -> list[str]:
    """The columns of all rows of some files, in the order of their first appearance.

    A .jsonl file is read whole for this: its first row need not have every key.
    """
    names: dict[str, None] = {}
    for file in files:
        if file.suffix == ".parquet":
            with open_parquet(file) as parquet:
                names |= dict.fromkeys(parquet.schema_arrow.names)
            continue
        for batch in read_row_batches(file):
            for row in batch.rows:
                names |= dict.fromkeys(row)
            if file.name.endswith(TABLE_SUFFIXES):
                break  # the header says it all
    return list(names)


class MissingColumnError(ValueError):
    """Rows lack a column; the message names it, a near one, and those that are there."""


@contextmanager
def column_remedy(keys: str) -> Iterator[None]:
    """Add to the error about a missing column which keys name the columns to read.

    Args:
        keys: for people, such as "text_column and columns".

    Raises:
        ValueError: in place of MissingColumnError.
    """
    try:
        yield
    except MissingColumnError as error:
        raise ValueError(f"{error} To read others, set {keys}.") from error


def require_columns(present: Iterable[str], columns: Iterable[str], where: str) -> None:
    """Raise a MissingColumnError for the first of `columns` that is not present."""
    names = present if isinstance(present, dict) else list(present)
    for column in columns:
        if column not in names:
            raise missing_column(column, names, where)


def missing_column(column: str, present: Iterable[str], where: str) -> MissingColumnError:
    """The error for rows that lack a column."""
    names = list(present)
    near = near_name(column, names)
    hint = f"did you mean {near!r}? The" if near else "the"
    return MissingColumnError(f"{where}: no column {column!r}; {hint} columns are {', '.join(names) or '(none)'}.")


def reading_progress(files: Sequence[Path]) -> tqdm:
    """A bar over the bytes of some files, for `read_row_batches`; it is not shown for a few megabytes."""
    total = sum(file.stat().st_size for file in files)
    return tqdm(desc="Reading", total=total, unit="B", unit_scale=True, disable=total < _BYTES_WITHOUT_PROGRESS)


def _text_batches(file: Path, columns: Sequence[str]) -> Iterator[tuple[RowBatch, int]]:
    """Batches, and the bytes of the file read by then."""
    with open(file, "rb") as stream, closing(_lines(file, stream)) as lines:
        numbered = _objects(file, lines) if file.name.endswith(JSONL_SUFFIXES) else _table(file, lines, columns)
        while batch := list(itertools.islice(numbered, ROWS_AT_ONCE)):
            numbers, rows = zip(*batch, strict=True)
            yield RowBatch(f"{file}, line", numbers, list(rows)), stream.tell()


def _lines(file: Path, stream: BinaryIO) -> Generator[tuple[int, str], None, None]:
    _refuse_pointer(file, stream)
    number = 0
    try:
        if file.suffix == ".gz" and not stream.peek(1):  # type: ignore[attr-defined]
            raise EOFError("the file is empty")
        content = gzip.GzipFile(fileobj=stream) if file.suffix == ".gz" else stream
        # a text may hold other characters that could end a line
        lines = io.TextIOWrapper(content, encoding="utf-8-sig", newline="\n")
        try:
            for line in lines:
                number += 1
                yield number, line
        finally:
            lines.detach()  # else the stream, which is the caller's, would be closed
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file}, after line {number}: the gzip stream is damaged or cut short ({error}); fetch or write it again."
        ) from error
    except UnicodeDecodeError as error:
        found = f"{error.reason}, byte {error.object[error.start]:#x}"
        raise ValueError(
            f"{file}, line {_line_not_utf8(file)}: not UTF-8 ({found}); save the file as UTF-8, in a spreadsheet as "
            "CSV UTF-8."
        ) from error


def _line_not_utf8(file: Path) -> int:
    """The first line that is not UTF-8: text is decoded in blocks, so the decoder's error names no line."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number


def _objects(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        if line.isspace():
            continue
        try:
            row = _decode(line)
        except json.JSONDecodeError as error:
            found = f"{error.msg.removesuffix(' at')} at column {error.colno}"
            raise ValueError(
                f"{file}, line {number}: not valid JSON ({found}); every line must be one complete JSON object."
            ) from error
        except RecursionError as error:
            raise ValueError(f"{file}, line {number}: JSON nested too deeply; correct or remove the line.") from error
        except ValueError as error:  # a key used twice, or a number of thousands of digits
            raise ValueError(f"{file}, line {number}: {error}; correct or remove the line.") from error
        if not isinstance(row, dict):
            raise ValueError(f'{file}, line {number}: a {type(row).__name__}, not an object such as {{"query": ...}}.')
        yield number, row


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is used twice")
    return row


_decode = json.JSONDecoder(object_pairs_hook=_unique_keys).decode  # made once: `json.loads` makes one a call


def _table(
    file: Path, lines: Iterator[tuple[int, str]], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    is_csv = ".csv" in file.suffixes
    rows = _csv_cells(file, lines) if is_csv else ((n, line.rstrip("\r\n").split("\t")) for n, line in lines)
    number, header = next(rows, (0, []))
    if not number:
        raise ValueError(f"{file}: the file is empty; a table begins with the names of its columns.")
    if not any(header):
        raise ValueError(f"{file}, line {number}: blank, in place of the names of the columns; remove the line.")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{file}, line 1: the column name {repeated[0]!r} is used twice; rename or remove one.")
    if is_csv and len(header) == 1 and (mark := next((mark for mark in "\t|" if mark in header[0]), None)):
        raise ValueError(
            f"{file}, line 1: the cells are separated by {mark!r}; save the table with commas or semicolons."
        )
    require_columns(header, columns, f"{file}, line 1")
    for number, cells in rows:
        if not any(cells):
            continue
        if len(cells) != len(header):
            quoted = not is_csv and any(cell.startswith('"') for cell in cells)
            remedy = "a .tsv file has no quotes, so save the table as .csv" if quoted else "correct the line"
            raise ValueError(f"{file}, line {number}: {len(cells)} cells under {len(header)} columns; {remedy}.")
        yield number, dict(zip(header, cells, strict=True))


def _csv_cells(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # of characters; by default shorter than a long document
    texts = (line for _, line in lines)
    header: list[str] = []
    quotes = 0
    for line in itertools.islice(texts, 100):  # quoted names of columns may hold lines and delimiters
        header.append(line)
        quotes += line.count('"')
        if quotes % 2 == 0:
            break
    names = re.sub(r'(^|[,;])"(?:[^"]|"")*"', r"\1", "".join(header))
    # spreadsheets write semicolons in countries whose numbers have a decimal comma
    delimiter = ";" if ";" in names and "," not in names else ","
    reader = csv.reader(itertools.chain(header, texts), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: not valid CSV ({error}); correct the line.") from error


def _parquet_batches(file: Path, columns: Sequence[str] | None) -> Iterator[tuple[RowBatch, int]]:
    """Batches, and the bytes of the file that their share of its rows stands for."""
    with open_parquet(file) as parquet:
        require_columns(parquet.schema_arrow.names, columns or (), str(file))
        size, first, total = file.stat().st_size, 1, parquet.metadata.num_rows
        batches = parquet.iter_batches(ROWS_AT_ONCE, columns=None if columns is None else list(columns))
        while True:
            with naming_damage(file, first - 1):
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            if batch is None:
                return
            numbers = range(first, first + len(batch))
            # without columns arrow gives no rows, though the file has some
            yield RowBatch(f"{file}, row", numbers, rows or [{} for _ in numbers]), size * numbers.stop // (total + 1)
            first += len(batch)


@contextmanager
def naming_damage(file: Path, row: int) -> Iterator[None]:
    """Name the file that Arrow cannot read, and the row after which it fails, counted from 1.

    Raises:
        ValueError: in place of Arrow's own errors.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file}, after row {row}: cannot be read ({error}); fetch or write the file again."
        ) from error


def open_parquet(file: Path) -> pq.ParquetFile:
    """Open a parquet file, which the caller closes.

    Raises:
        ValueError: it is damaged, a Git LFS pointer, or uses a column name twice; the message names it.
    """
    with open(file, "rb") as stream:
        _refuse_pointer(file, stream)
    try:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable parquet file ({error}); fetch or write it again.") from error
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{file}: the column name {repeated[0]!r} is used twice; rename or remove one.")
    return parquet


def _refuse_pointer(file: Path, stream: BinaryIO) -> None:
    if stream.peek(len(_LFS_POINTER)).startswith(_LFS_POINTER):  # type: ignore[attr-defined]
        raise ValueError(f"{file}: a Git LFS pointer in place of the file; fetch the file with `git lfs pull`.")
