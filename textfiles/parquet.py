"""Writing parquet files that appear whole, with facts about their rows in the footer.

The footer makes a file its own receipt: one that can be opened is finished, and records counts of what it holds.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .atomic import atomic_file

_FACTS = "facts"
_ROWS_PER_GROUP = 10_000  # what a reader takes into memory at once


def write_parquet(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    path: Path,
    facts: Callable[[], Mapping[str, Any]] | None = None,
) -> int:
    """Write tables as one parquet file, which appears under its name only once it is complete.

    The same tables and facts give the same bytes under the same version of pyarrow.

    Args:
        tables: each of `schema`; one at a time is in memory.
        schema: names and types of the columns. Numbers in lists are stored as they are, other columns compressed.
        path: the file.
        facts: called after the last table; JSON values that `read_facts` gives back.

    Returns:
        The number of rows.
    """
    rows = 0
    codecs = {_leaf(field): "NONE" if pa.types.is_fixed_size_list(field.type) else "ZSTD" for field in schema}
    dictionaries = [field.name for field in schema if not pa.types.is_nested(field.type)]
    with (
        atomic_file(path) as partial,
        pq.ParquetWriter(partial, schema, compression=codecs, use_dictionary=dictionaries) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
            rows += len(table)
        if facts is not None:
            writer.add_key_value_metadata({_FACTS: json.dumps(facts())})
    return rows


def read_facts(path: Path) -> dict[str, Any] | None:
    """The facts in a file's footer; None if there is no such file, it is cut short, or it was written without facts."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    facts = metadata.get(_FACTS.encode())
    return None if facts is None else json.loads(facts)


def _leaf(field: pa.Field) -> str:
    """The column's path in the file; that of a list names its elements."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name
