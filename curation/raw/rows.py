"""Rows of raw data sets, local files or hub data sets, by number: what `curation.raw.rules` makes pairs of."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from curation.raw.rules import ELEMENT, KeyPath, PairRule, RawSource, has_path, value_at
from curation.sources import is_hub_id, load_hub_split
from textfiles.rows import (
    JSONL_SUFFIXES,
    ROW_SUFFIXES,
    RowBatch,
    column_remedy,
    find_files,
    read_row_batches,
    reading_progress,
    require_columns,
)
from textfiles.texts import json_of
from textfiles.writing import is_whole_arrow, write_arrow

_ROWS_AT_ONCE = 1_000
# A row is kept as JSON: raw rows may nest, and one column may hold values of several types.
_COPY = pa.schema([("file", pa.int32()), ("number", pa.int64()), ("row", pa.string())])


@dataclasses.dataclass(frozen=True)
class RawRows:
    """Random access to the rows of a raw source, which stay on the disk.

    Attributes:
        table: the rows of a hub data set, or the copy of local files.
        places: what to call a row of each local file in an error, before its number. Of a hub data set, the one
            name.
        is_copy: whether the table is a copy of local files.
    """

    table: datasets.Dataset
    places: list[str]
    is_copy: bool

    def __len__(self) -> int:
        return len(self.table)

    def read(self, start: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield rows `start` to `stop`, each with what to call it in an error. Rows are counted from 0."""
        for at in range(start, stop, _ROWS_AT_ONCE):
            batch = self.table[at : min(at + _ROWS_AT_ONCE, stop)]
            if self.is_copy:
                for file, number, row in zip(batch["file"], batch["number"], batch["row"], strict=True):
                    yield f"{self.places[file]} {number}", json.loads(row)
            else:
                for number, values in enumerate(zip(*batch.values(), strict=True), start=at + 1):
                    yield f"{self.places[0]} {number}", dict(zip(batch, values, strict=True))


@column_remedy("query, document and the other keys of the source's rule")
def open_raw_rows(source: RawSource, copy: Path) -> RawRows:
    """Open the rows of a source, local files through a copy of the columns that its rule reads.

    Args:
        source: the source.
        copy: where the copy of local files is, or is to be made. One that is there is used as it is; a
            damaged one is made again.

    Raises:
        FileNotFoundError: the path is neither a local path nor a data set on the hub.
        ValueError: there are no rows, a file is damaged, or a column is in none of the rows, or not in the data
            set; the message names the path and the column.
    """
    rule = PairRule(source)
    if is_hub_id(source.path):
        rows = load_hub_split(source.path, source.split, source.subset, source.revision)
        where = f"hub data set {source.path}, split {source.split}"
        _check_schema(rows.features.arrow_schema, rule, where)
        rows = rows.select_columns([column for column in rows.column_names if rule.reads(column)])
        if source.limit is not None:
            rows = rows.select(range(min(source.limit, len(rows))))
        opened = RawRows(rows, [f"{where}, row"], is_copy=False)
    else:
        files = find_files(source.path, ROW_SUFFIXES)
        if not is_whole_arrow(copy):
            write_arrow(_copied(files, source, rule), _COPY, copy)
        places = [f"{file}, {'line' if file.name.endswith(JSONL_SUFFIXES) else 'row'}" for file in files]
        opened = RawRows(datasets.Dataset.from_file(str(copy)), places, is_copy=True)
    if len(opened) == 0:
        raise ValueError(f"source {source.name!r}: no rows in {source.path}.")
    return opened


def _copied(files: list[Path], source: RawSource, rule: PairRule) -> Iterator[pa.Table]:
    left, unseen, columns = source.limit or sys.maxsize, set(rule.paths), set[str]()
    with reading_progress(files) as progress:
        for place, batch in _batches(files, rule, progress):
            rows = batch.rows[:left]
            for row in rows if unseen else ():
                columns |= row.keys()
                unseen -= {path for path in unseen if _is_in(row, path, rule)}
            wheres = (f"{batch.where} {number}" for number in batch.numbers)
            copied = ({key: value for key, value in row.items() if rule.reads(key)} for row in rows)
            texts = [_json(row, source, where) for row, where in zip(copied, wheres, strict=False)]
            yield pa.table([[place] * len(rows), batch.numbers[: len(rows)], texts], schema=_COPY)
            left -= len(rows)
            if left == 0:
                break
    for path in rule.paths if columns else ():
        if path in unseen:
            raise _no_column(source.path, "no row has", path, columns)


def _batches(files: list[Path], rule: PairRule, progress: tqdm) -> Iterator[tuple[int, RowBatch]]:
    """Batches of rows, each with the place of its file in the list."""
    for place, file in enumerate(files):
        columns = None if file.name.endswith(JSONL_SUFFIXES) or rule.reads_more else rule.columns
        for batch in read_row_batches(file, columns, progress):
            yield place, batch


def _is_in(row: dict[str, Any], path: KeyPath, rule: PairRule) -> bool:
    if path[0] != ELEMENT or rule.list_path is None:
        return has_path(row, path)
    elements = value_at(row, rule.list_path, "") if has_path(row, rule.list_path) else None
    return isinstance(elements, list) and any(has_path(element, path[1:]) for element in elements)


def _json(row: dict[str, Any], source: RawSource, where: str) -> str:
    read = {key: value for key, value in row.items() if key not in source.keep}
    try:
        json.dumps(read)
    except TypeError as error:  # a date or bytes in a parquet file: neither is a text, so no rule can use it
        raise ValueError(f"{where}: {error}; name other columns in the rule of {source.name!r}.") from error
    return json_of(row, where, ascii_only=True)


def _check_schema(schema: pa.Schema, rule: PairRule, where: str) -> None:
    require_columns(schema.names, rule.columns, where)
    for path in rule.paths:
        whole = path if path[0] != ELEMENT or rule.list_path is None else (*rule.list_path, "0", *path[1:])
        kind = schema.field(whole[0]).type
        for key in whole[1:]:
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            if is_list and key.isdigit():
                kind = kind.value_type
            elif pa.types.is_struct(kind) and kind.get_field_index(key) >= 0:
                kind = kind.field(key).type
            else:
                raise _no_column(where, "there is no", path, schema.names)


def _no_column(where: str, what: str, path: KeyPath, columns: Any) -> ValueError:
    names = ", ".join(sorted(columns))
    return ValueError(f"{where}: {what} column {'.'.join(path)!r}; the columns are {names}. Correct the rule.")
