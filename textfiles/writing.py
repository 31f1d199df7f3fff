"""Writing rows: .jsonl files, and Arrow files that map into memory."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from .atomic import atomic_file
from .rows import JSONL_SUFFIXES

# Most rows of a record batch on the disk. Whoever opens a data set reads the head of each of its batches and holds an
# object for each: of 239 million pairs in batches of 1,000, the rule in `datasets`, every process would hold 0.6 GB.
ROWS_PER_BATCH = 1_000_000
_BYTES_PER_BATCH = 2**28
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write one JSON object a line, gzipped when the name ends in .gz, and return the number of rows.

    The same rows give the same bytes. The file appears under its name only once it is complete.

    Raises:
        ValueError: the name does not end in .jsonl or .jsonl.gz, so no reader would find the file.
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


def write_arrow(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    """Write tables as one Arrow stream, which `datasets.Dataset.from_file` maps into memory.

    Tables are joined to record batches of many rows, but of bounded size: columns of text count their bytes in 32
    bits within a batch. The file appears under its name only once it is complete.

    Args:
        tables: each of `schema`, the size of a batch or smaller.
        schema: names and types of the columns.
        path: the file.
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


def is_whole_arrow(path: Path) -> bool:
    """Whether a file of `write_arrow` is there and whole. One cut between two batches reads as one with fewer rows."""
    try:
        with open(path, "rb") as file:
            pa.ipc.open_stream(file).close()
            file.seek(-len(_END), 2)
            return file.read() == _END
    except (OSError, pa.ArrowException):
        return False


def _write_batches(tables: list[pa.Table], writer: pa.RecordBatchStreamWriter) -> None:
    if len(tables) > 1:
        tables = [pa.concat_tables(tables).combine_chunks()]
    for table in tables:
        # A single table may be larger than a column can be in one piece; it comes in pieces then, and stays in them.
        for batch in table.to_batches():
            writer.write_batch(batch)
