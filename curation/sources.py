"""Sources of text pairs, read and checked row by row.

A source is one data set of a mixture (paper Tables 3 and 7): a batch is drawn from one source only, and the
task prefixes of its queries and documents are a property of the source.
"""

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import pyarrow as pa

from curation.files import ROW_SUFFIXES, ROWS_AT_ONCE, RowBatch, find_files, read_row_batches, require_columns
from nomic_bert.prompts import prefix_text

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of training pairs.

    Attributes:
        name: Name of the source, unique within a mixture.
        path: A local file, directory or glob pattern of .jsonl, .jsonl.gz or .parquet files, or else the id
            of a data set on the hub (`owner/name`).
        query_prefix: Task prefix of the queries: one of the four of `nomic_bert.prompts`, or "" for none.
        document_prefix: Task prefix of the documents and of the hard negatives, likewise.
        split: Split of a hub data set. Local files are read whole.
        query: Name of the column with the query.
        document: Name of the column with the document.
        negatives: Name of the column with the list of hard negatives, if there is one.
        limit: Read at most this many rows, the first ones.

    Raises:
        ValueError: A field has a value it cannot have; the message names the field.
    """

    name: str
    path: str
    query_prefix: str
    document_prefix: str
    split: str = "train"
    query: str = "query"
    document: str = "document"
    negatives: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        for key in ("name", "path", "split", "query", "document"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                raise ValueError(f"{key} must be a non-empty string, not {getattr(self, key)!r}.")
        if self.negatives is not None and not isinstance(self.negatives, str):
            raise ValueError(f"negatives must be the name of a column or null, not {self.negatives!r}.")
        if self.limit is not None and (
            isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1
        ):
            raise ValueError(f"limit must be a positive number of rows or null, not {self.limit!r}.")
        for key in ("query_prefix", "document_prefix"):
            try:
                prefix_text(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str) -> "Source":
        """Build a source from a section of a config.

        Args:
            mapping: Field names to values.
            where: Where the section stands ("stage2.yaml, sources[3]"), put in front of every error.

        Raises:
            ValueError: A key is unknown or missing, or a value is wrong.
        """
        check_keys(cls, mapping, where)
        try:
            return cls(**mapping)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def check_keys(cls: type, mapping: Mapping[str, Any], where: str) -> None:
    """Raise a ValueError that names a key of a config's section which a dataclass lacks, or one that it misses."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in mapping:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(fields)}."
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in mapping:
            hint = ' (write "" for no prefix)' if key.endswith("_prefix") else ""
            raise ValueError(f"{where}: the key {key!r} is missing; add it{hint}.")


def load_pairs(source: Source) -> datasets.Dataset:
    """Read a source whole and check every row.

    Returns:
        A data set, held in memory, with the columns `query` and `document`, and `negatives` (a list of
        strings, which may be empty) where the source names that column. Prefixes are not added; the trainer
        adds them.

    Raises:
        FileNotFoundError: The path is neither a local path nor a data set on the hub.
        ValueError: A column is missing, a value has the wrong type or a text is blank, or a file is damaged.
            The message names file, row and column. Rows are counted from 1; in a .jsonl file they are line
            numbers.
    """
    columns = {"query": source.query, "document": source.document}
    if source.negatives is not None:
        columns["negatives"] = source.negatives
    tables = []
    remaining = sys.maxsize if source.limit is None else source.limit
    for batch in _batches(source, list(columns.values())):
        kept = RowBatch(batch.where, batch.numbers[:remaining], batch.rows[:remaining])
        arrays = {
            name: _text_lists(kept, column) if name == "negatives" else texts_of(kept, column)
            for name, column in columns.items()
        }
        tables.append(pa.table(arrays))
        remaining -= len(kept.rows)
        if remaining == 0:
            break
    if not tables:
        raise ValueError(f"source {source.name!r}: no rows in {source.path}.")
    return datasets.Dataset(pa.concat_tables(tables))


def is_hub_id(path: str) -> bool:
    """Whether a path stands for a data set on the hub: it has the form `owner/name`, and no such file is here."""
    is_local = os.path.exists(os.path.expanduser(path))
    return not is_local and bool(_HUB_ID.fullmatch(path)) and not path.endswith((".txt", *ROW_SUFFIXES))


def load_hub_split(path: str, split: str, name: str | None = None, revision: str | None = None) -> datasets.Dataset:
    """One split of a data set on the hub, or of its copy in the local cache.

    Args:
        path: `owner/name`.
        split: Name of the split.
        name: Configuration, where the data set has several.
        revision: Revision; None: the newest.

    Raises:
        FileNotFoundError: It cannot be read.
    """
    try:
        return datasets.load_dataset(path, name, split=split, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{path} is no local path, nor could it be read from the hub ({error}); correct the path."
        ) from error


def _batches(source: Source, columns: list[str]) -> Iterator[RowBatch]:
    if not is_hub_id(source.path):
        for file in find_files(source.path, ROW_SUFFIXES):
            yield from read_row_batches(file, columns)
        return
    try:
        rows = load_hub_split(source.path, source.split)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"source {source.name!r}: {error}") from error
    where = f"hub data set {source.path}, split {source.split}"
    require_columns(rows.column_names, columns, where)
    first = 1
    for values in rows.select_columns(columns).iter(ROWS_AT_ONCE):
        batch = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        yield RowBatch(f"{where}, row", range(first, first + len(batch)), batch)
        first += len(batch)


def texts_of(batch: RowBatch, column: str) -> pa.Array:
    """A column as text. Only when a quick look finds a fault are rows checked one by one, to name the first bad one."""
    values = [row.get(column) for row in batch.rows]
    if not all(isinstance(value, str) and value.strip() for value in values):
        _check_texts(batch, column)
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        _check_texts(batch, column)
        raise


def _check_texts(batch: RowBatch, column: str) -> None:
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        require_columns(row, [column], f"{batch.where} {number}")
        _check_text(row[column], f"{batch.where} {number}, column {column!r}")


def _text_lists(batch: RowBatch, column: str) -> pa.Array:
    """A column as lists of text; every text is checked, an empty list is fine."""
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        where = f"{batch.where} {number}"
        require_columns(row, [column], where)
        if not isinstance(row[column], list):
            raise ValueError(
                f"{where}, column {column!r}: {_shown(row[column])}, not a list of texts; use [] for none."
            )
        for text in row[column]:
            _check_text(text, f"{where}, column {column!r}")
    return pa.array([row[column] for row in batch.rows], pa.list_(pa.string()))


def _check_text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {_shown(value)}, not a text; correct or remove the row.")
    if not value.strip():
        raise ValueError(f"{where}: the text is blank; remove it.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: not valid Unicode ({error}); correct or remove the row.") from error


def _shown(value: Any) -> str:
    return f"the {type(value).__name__} {str(value)[:40]!r}"
