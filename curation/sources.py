"""Sources of text pairs, opened as memory-mapped data sets.

A source is one data set of a mixture (paper Tables 3 and 7): a batch is drawn from one source only, and the
task prefixes of its queries and documents are a property of the source.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from curation.layouts import LAYOUTS, converted
from nomic_bert.prompts import prefix_text
from textfiles.atomic import remove_leftovers
from textfiles.hub_names import is_hub_name
from textfiles.locks import locked
from textfiles.rows import (
    ROW_SUFFIXES,
    ROWS_AT_ONCE,
    RowBatch,
    column_remedy,
    file_stats,
    find_files,
    read_row_batches,
    reading_progress,
    require_columns,
)
from textfiles.settings import did_you_mean, is_number, require_at_least, require_filled
from textfiles.texts import json_of, text_lists_of, texts_of
from textfiles.writing import ROWS_PER_BATCH, is_whole_arrow, write_arrow

_COLUMN_KEYS = f"query, document and negatives, or layout ({', '.join(LAYOUTS)})"
_COPY_VERSION = 1  # of the form of the copies: raise it when their content changes
_OTHERS = "others"
_TYPES = {"query": pa.string(), "document": pa.string(), "negatives": pa.list_(pa.string()), _OTHERS: pa.string()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of training pairs.

    Attributes:
        name: name of the source, unique within a mixture. Files and directories are named after it.
        path: a local file, directory or glob pattern of .jsonl, .tsv, .csv (each plain or .gz) or .parquet files, or
            else the id of a data set on the hub (`owner/name`).
        query_prefix: task prefix of the queries: one of the four of `nomic_bert.prompts`, or "" for none.
        document_prefix: task prefix of the documents and of the hard negatives, likewise. A source whose queries
            alone carry a prefix has "" here.
        subset: configuration of a hub data set, where it has several.
        split: split of a hub data set. Local files are read whole.
        revision: revision of a hub data set: a commit, a tag or a branch. Null: the newest.
        query: name of the column with the query.
        document: name of the column with the document.
        negatives: name of the column with the list of hard negatives, if there is one.
        layout: in which others publish pairs, by name: sentence-transformers, flagembedding or tevatron; see
            `curation.layouts`. Rows are read as `query`, `document` and `negatives` then. Null: as the keys say.
        limit: read at most this many rows, the first ones.
        weight: how many times its rows are seen in an epoch, on average: 0.5 is every other row, 2.0 each row twice.
        paper_rows: rows that the paper reports, to show beside those that are there.

    Raises:
        ValueError: a field has a value it cannot have; the message names the field.
    """

    name: str
    path: str
    query_prefix: str
    document_prefix: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    query: str = "query"
    document: str = "document"
    negatives: str | None = None
    layout: str | None = None
    limit: int | None = None
    weight: float = 1.0
    paper_rows: int | None = None

    def __post_init__(self) -> None:
        require_filled(self, "name", "path", "split", "query", "document")
        require_filled(self, "subset", "revision", "negatives", or_null=True)
        require_at_least(1, self, "limit", "paper_rows")
        if self.name.startswith(".") or {"/", "\\"} & set(self.name):
            raise ValueError(f"name {self.name!r}: files are named after it; leave out / and \\, and a leading dot.")
        if len(set(self.columns.values())) < len(self.columns):
            raise ValueError(f"query, document and negatives must be different columns, not {self.columns}.")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ValueError(
                f"layout: there is no {self.layout!r}; {did_you_mean(str(self.layout), LAYOUTS, 'layouts')}"
            )
        if not is_number(self.weight, int | float) or not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be a number above 0, not {self.weight!r}.")
        for key in ("query_prefix", "document_prefix"):
            try:
                prefix_text(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error

    @property
    def columns(self) -> dict[str, str]:
        """Column of the opened data set -> column of the source."""
        columns = {"query": self.query, "document": self.document}
        return columns if self.negatives is None else {**columns, "negatives": self.negatives}

    def identity(self) -> dict[str, Any]:
        """What must be the same for the rows to be the same: settings, and names, sizes and times of local files.

        Raises:
            FileNotFoundError: a local path stands for no file.
            ValueError: a named file cannot be read by its ending.
        """
        settings = dataclasses.asdict(self)
        if is_hub_id(self.path):
            return settings
        files = find_files(self.path, ROW_SUFFIXES)
        return {**settings, "files": file_stats(files)}


@column_remedy(_COLUMN_KEYS)
def open_pairs(source: Source, cache: Path | None = None, *, others: bool = False) -> datasets.Dataset:
    """Open a source for random access to its rows, which stay on the disk.

    The first time, local files, and rows of a hub data set in another layout, are copied to one Arrow file, and every
    row is checked on the way. Later, and in other processes, the copy is found by the paths, sizes and times of the
    files and by what is read of them, and nothing is read. Of processes that open it at once, one makes the copy and
    the others wait for it, however long that takes: ranks need no barrier here. Copies may be deleted at any time. Of
    a hub data set in our layout the columns are checked, not the rows: the trainer checks those that it trains on.

    Args:
        source: the source.
        cache: directory for copies of local files; None: `nomic_pairs` in the cache of `datasets`.
        others: also give what else stands in the rows.

    Returns:
        A memory-mapped data set with the columns `query` and `document`, and `negatives` (a list of strings, which
        may be empty) where the source names that column. Prefixes are not added; the trainer adds them. With `others`
        there is a column of that name too: the row's other columns under their own names, as a JSON object.

    Raises:
        FileNotFoundError: the path is neither a local path nor a data set on the hub.
        ValueError: there are no rows, a column is missing or of the wrong type, or, in local files, a value has the
            wrong type, a text is blank or a file is damaged. The message names data set or file, row and column.
            Rows are counted from 1; in a .jsonl file they are line numbers.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE, "nomic_pairs") if cache is None else cache
    if is_hub_id(source.path):
        rows = load_hub_split(source.path, source.split, source.subset, source.revision)
        if source.layout is None:
            return _select(rows, source, others)
        copy = cache / f"{_hash(source, [rows._fingerprint], others)}.arrow"
        make = functools.partial(_copy_hub, source, rows, others, copy)
    else:
        files = find_files(source.path, ROW_SUFFIXES)
        copy = cache / f"{_hash(source, _stats(files), others)}.arrow"
        make = functools.partial(_copy_local, source, files, others, copy)
    if not is_whole_arrow(copy):
        with locked(copy.with_suffix(".lock")):
            if not is_whole_arrow(copy):
                remove_leftovers(cache)
                make()
    return datasets.Dataset.from_file(str(copy))


def _copy_hub(source: Source, rows: datasets.Dataset, others: bool, copy: Path) -> None:
    write_arrow(_tables(source, _hub_batches(rows, source), others), _schema(source, others), copy)


def _copy_local(source: Source, files: list[Path], others: bool, copy: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        yield from _tables(source, _local_batches(source, files, progress, others), others)
        if _hash(source, _stats(files), others) != copy.stem:
            raise ValueError(f"source {source.name!r}: {source.path} was changed while it was read; start again.")

    with reading_progress(files) as progress:
        write_arrow(tables(), _schema(source, others), copy)


class Preview(NamedTuple):
    """What a source holds: the number of its rows, None where the hub does not tell, and some rows."""

    rows: int | None
    sample: list[dict[str, Any]]


@column_remedy(_COLUMN_KEYS)
def preview(source: Source, sample: int) -> Preview:
    """Count the rows of a source and show some, without downloading a hub data set.

    Local files are opened as `open_pairs` opens them, so that every row is checked, and rows are taken evenly from
    all over the set; likewise of a hub data set that is in the local cache. Of any other hub data set the first rows
    are fetched and checked.

    Args:
        source: the source.
        sample: rows to show, at most.

    Returns:
        The number of rows, at most `limit`, and rows with the keys `query`, `document` and, where the source names
        that column, `negatives`.

    Raises:
        FileNotFoundError: as `open_pairs`.
        ValueError: as `open_pairs`; or a hub data set lacks the split.
    """
    if is_hub_id(source.path):
        with _hub_errors(source.path):
            builder = datasets.load_dataset_builder(source.path, source.subset, revision=source.revision)
        if not Path(builder.cache_dir, datasets.config.DATASET_INFO_FILENAME).exists():
            return Preview(_count_on_hub(builder, source), _first_on_hub(source, sample))
    pairs = open_pairs(source)
    sample = min(sample, len(pairs))
    return Preview(len(pairs), [pairs[len(pairs) * place // sample] for place in range(sample)])


def is_hub_id(path: str) -> bool:
    """Whether a path stands for a data set on the hub: it has the form `owner/name`, and no such file is here."""
    is_local = os.path.exists(os.path.expanduser(path))
    return not is_local and is_hub_name(path) and not path.endswith((".txt", *ROW_SUFFIXES))


def load_hub_split(path: str, split: str, name: str | None = None, revision: str | None = None) -> datasets.Dataset:
    """One split of a data set on the hub, or of its copy in the local cache, memory-mapped.

    The first time, `datasets` downloads all splits of the configuration.

    Args:
        path: `owner/name`.
        split: name of the split.
        name: configuration, where the data set has several.
        revision: revision; None: the newest.

    Raises:
        FileNotFoundError: it cannot be read.
        ValueError: it has no such split or configuration.
    """
    with _hub_errors(path):
        return datasets.load_dataset(path, name, split=split, revision=revision, writer_batch_size=ROWS_PER_BATCH)


@contextmanager
def _hub_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{path} is no local path, nor could it be read from the hub ({error}); correct the path."
        ) from error
    except ValueError as error:  # no such split or configuration
        raise ValueError(f"hub data set {path}: {error}") from error


def _schema(source: Source, others: bool) -> pa.Schema:
    return pa.schema([(name, _TYPES[name]) for name in [*source.columns, *([_OTHERS] if others else [])]])


def _hash(source: Source, rows: list[Any], others: bool) -> str:
    """A hash of everything that decides what a copy holds.

    Args:
        source: the source.
        rows: what must be the same for the rows to be the same.
        others: whether the copy has the other columns too.
    """
    layout = [source.layout] if source.layout else []
    content = json.dumps([_COPY_VERSION, rows, source.columns, source.limit, others, *layout])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _stats(files: list[Path]) -> list[tuple[str, int, int]]:
    return [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _local_batches(source: Source, files: list[Path], progress: tqdm, others: bool) -> Iterator[RowBatch]:
    columns = None if others or source.layout else list(source.columns.values())
    for file in files:
        yield from read_row_batches(file, columns, progress)


def _hub_batches(rows: datasets.Dataset, source: Source) -> Iterator[RowBatch]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        whole = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        yield RowBatch(f"{_where(source)}, row", range(start + 1, start + len(whole) + 1), whole)


def _tables(source: Source, batches: Iterator[RowBatch], others: bool) -> Iterator[pa.Table]:
    rows, limit = 0, source.limit or sys.maxsize
    for batch in batches:
        if source.layout:
            batch = converted(batch, source.layout)
        missing = limit - rows
        table = _check_rows(RowBatch(batch.where, batch.numbers[:missing], batch.rows[:missing]), source)
        if others:
            rows_here = zip(batch.numbers, batch.rows[:missing], strict=False)
            texts = [_other_columns(row, source, f"{batch.where} {number}") for number, row in rows_here]
            table = table.append_column(_OTHERS, pa.array(texts, _TYPES[_OTHERS]))
        yield table
        rows += len(table)
        if rows == limit:
            return
    if rows == 0:
        raise _no_rows(source)


def _check_rows(batch: RowBatch, source: Source) -> pa.Table:
    arrays = [
        text_lists_of(batch, column) if name == "negatives" else texts_of(batch, column)
        for name, column in source.columns.items()
    ]
    return pa.table(arrays, schema=_schema(source, others=False))


def _other_columns(row: Mapping[str, Any], source: Source, where: str) -> str:
    used = set(source.columns.values())
    return json_of({key: value for key, value in row.items() if key not in used}, where)


def _no_rows(source: Source) -> ValueError:
    return ValueError(f"source {source.name!r}: no rows in {source.path}.")


def _where(source: Source) -> str:
    return f"hub data set {source.path}, split {source.split}"


def _select(rows: datasets.Dataset, source: Source, others: bool) -> datasets.Dataset:
    """The source's columns under our names, and the rows to its limit: all still on the disk."""
    _check_types(rows.features, source)
    if len(rows) == 0:
        raise _no_rows(source)
    if source.limit is not None:
        # A range is cut from the table; a list of numbers would be looked up in another table at each access.
        rows = rows.select(range(min(source.limit, len(rows))))
    if others:

        def with_others(batch: dict[str, list]) -> dict[str, list]:
            whole = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
            pairs = {name: batch[column] for name, column in source.columns.items()}
            return {**pairs, _OTHERS: [_other_columns(row, source, _where(source)) for row in whole]}

        return rows.with_transform(with_others)
    rows = rows.select_columns(list(source.columns.values()))
    return rows.rename_columns({column: name for name, column in source.columns.items()})


def _check_types(features: datasets.Features, source: Source) -> None:
    require_columns(features, source.columns.values(), _where(source))
    for name, column in source.columns.items():
        found = features.arrow_schema.field(column).type
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        text = found.value_type if name == "negatives" and is_list else found
        if is_list != (name == "negatives") or not (pa.types.is_string(text) or pa.types.is_large_string(text)):
            wanted = "lists of texts" if name == "negatives" else "texts"
            raise ValueError(
                f"{_where(source)}, column {column!r}: holds {found}, not {wanted}; name another column as {name!r}."
            )


def _count_on_hub(builder: datasets.DatasetBuilder, source: Source) -> int | None:
    if not builder.info.splits:
        return None
    if source.split not in builder.info.splits:
        raise ValueError(f"{_where(source)}: no such split; the splits are {', '.join(builder.info.splits)}.")
    rows = builder.info.splits[source.split].num_examples
    return rows if source.limit is None else min(source.limit, rows)


def _first_on_hub(source: Source, sample: int) -> list[dict[str, Any]]:
    with _hub_errors(source.path):
        stream = datasets.load_dataset(
            source.path, source.subset, split=source.split, revision=source.revision, streaming=True
        )
    if stream.features is not None and source.layout is None:  # known before the first row is read
        _check_types(stream.features, source)
    with _hub_errors(source.path):
        rows = list(stream.take(min(sample, source.limit or sample)))
    if sample and not rows:
        raise _no_rows(source)
    batch = RowBatch(f"{_where(source)}, row", range(1, len(rows) + 1), rows)
    if source.layout:
        batch = converted(batch, source.layout)
    return _check_rows(batch, source).to_pylist()
