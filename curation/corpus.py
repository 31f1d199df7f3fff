"""A corpus to embed: its texts by number, with ids and other columns, from local files or a hub data set."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from curation.sources import is_hub_id, load_hub_split
from textfiles.beir import corpus_file, document_of
from textfiles.columns import ColumnTypes, typed_array
from textfiles.rows import (
    ROW_SUFFIXES,
    ROWS_AT_ONCE,
    RowBatch,
    column_remedy,
    file_stats,
    find_files,
    read_lines,
    read_row_batches,
    reading_progress,
    require_columns,
)
from textfiles.settings import is_filled, require_at_least, require_filled
from textfiles.texts import check_text, id_of, json_of, texts_of
from textfiles.vectors import VECTOR
from textfiles.writing import is_whole_arrow, write_arrow

ID = "id"  # beside VECTOR, a column of what is made of a corpus
_TEXT, _OTHERS = "text", "others"
_LINES = (".txt", ".txt.gz")
_COPY = pa.schema([(ID, pa.string()), (_TEXT, pa.string()), (_OTHERS, pa.string())])


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSource:
    """The texts to embed, and where they are.

    Attributes:
        texts: a file, directory or glob pattern of .txt (one text a line), .jsonl, .csv, .tsv (each plain or .gz) or
            .parquet, a directory in the BEIR layout, whose titles and texts are joined by a space, or else the name
            of a data set on the hub (`owner/name`).
        text_column: column with the text.
        id_column: column with the id, text or whole number; null: `_id` in the BEIR layout, else rows are numbered
            from 0.
        columns: other columns to keep beside the vectors, the text among them if it is named. Texts, numbers, true and
            false, and lists of texts stay what they are; anything else in a text file is written as JSON.
        subset: configuration of a hub data set, where it has several.
        split: split of a hub data set. Local files are read whole.
        revision: revision of a hub data set.
        limit: read at most this many rows, the first ones.

    Raises:
        ValueError: a field has a value it cannot have; the message names the field.
    """

    texts: str
    text_column: str = "text"
    id_column: str | None = None
    columns: list = dataclasses.field(default_factory=list)
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        require_filled(self, "texts", "text_column", "split")
        for name in self.columns:
            if not is_filled(name) or self.columns.count(name) > 1:
                raise ValueError(f"columns must name each column once, not {self.columns!r}.")
            if name in (ID, VECTOR):
                raise ValueError(f"columns: {name!r} is a column of every vector file; leave it out.")
        require_at_least(1, self, "limit")
        if self.is_beir and self.text_column != "text":
            raise ValueError(f"{self.texts}: the BEIR layout joins title and text; leave text_column out.")

    @property
    def is_beir(self) -> bool:
        """Whether the path is a directory with a corpus in the BEIR layout."""
        return corpus_file(Path(self.texts).expanduser()) is not None

    @property
    def read_id(self) -> str | None:
        """The column that ids are read from; None: rows are numbered."""
        return "_id" if self.is_beir and self.id_column is None else self.id_column

    def files(self) -> list[Path]:
        """The local files.

        Raises:
            FileNotFoundError: the path stands for no file.
            ValueError: a named file cannot be read by its ending.
        """
        beir = corpus_file(Path(self.texts).expanduser())
        return [beir] if beir is not None else find_files(self.texts, (*_LINES, *ROW_SUFFIXES))

    def identity(self) -> dict[str, Any]:
        """What must be the same for the rows to be the same: settings, and names, sizes and times of local files."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(CorpusSource)}
        return fields if is_hub_id(self.texts) else {**fields, "files": file_stats(self.files())}


class Rows(NamedTuple):
    """Some rows of a corpus.

    Attributes:
        table: those that have text: `id` and the columns to keep.
        texts: of each.
        blank: how many others there were.
    """

    table: pa.Table
    texts: list[str]
    blank: int


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Random access to the rows of a corpus, which stay on the disk.

    Attributes:
        source: which texts.
        rows: a copy of local files, or the hub data set.
        schema: of what `read` gives: `id` and the columns to keep.
    """

    source: CorpusSource
    rows: datasets.Dataset
    schema: pa.Schema

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: Sequence[int]) -> Rows:
        """The rows of the given numbers, in their order, without those whose text is blank.

        Raises:
            ValueError: a row of a hub data set has no text or no id; the message names it.
        """
        table = self.rows[numbers if isinstance(numbers, range) else list(numbers)]
        texts = table[_TEXT].to_pylist() if self._is_copy else self._hub_texts(table, numbers)
        full = [place for place, text in enumerate(texts) if text.strip()]
        read = (self._copied if self._is_copy else self._hub_columns)(table, numbers)
        return Rows(read.take(pa.array(full, pa.int64())), [texts[place] for place in full], len(texts) - len(full))

    @property
    def _is_copy(self) -> bool:
        return not is_hub_id(self.source.texts)

    def _copied(self, table: pa.Table, numbers: Sequence[int]) -> pa.Table:
        ids = list(numbers) if self.source.read_id is None else table[ID].to_pylist()
        kind = self.schema.field(ID).type
        arrays = [pa.array(map(int, ids) if pa.types.is_integer(kind) else ids, kind)]
        others = [json.loads(row) for row in table[_OTHERS].to_pylist()] if self.source.columns else []
        for name in self.source.columns:
            arrays.append(typed_array((row.get(name) for row in others), self.schema.field(name).type))
        return pa.table(arrays, schema=self.schema)

    def _hub_columns(self, table: pa.Table, numbers: Sequence[int]) -> pa.Table:
        names = [*([self.source.id_column] if self.source.id_column else []), *self.source.columns]
        columns = [table[name] for name in names]
        if self.source.id_column is None:
            columns.insert(0, pa.array(list(numbers), pa.int64()))
        elif columns[0].null_count:
            bad = columns[0].is_null().index(True).as_py()
            raise ValueError(f"{self._where(numbers[bad])}, column {names[0]!r}: null; name another id_column.")
        return pa.table(
            [column.cast(field.type) for column, field in zip(columns, self.schema, strict=True)], self.schema
        )

    def _hub_texts(self, table: pa.Table, numbers: Sequence[int]) -> list[str]:
        column = self.source.text_column
        texts = table[column].to_pylist()
        for number, text in zip(numbers, texts, strict=True):
            if not isinstance(text, str):
                check_text(text, f"{self._where(number)}, column {column!r}")
        return texts

    def _where(self, number: int) -> str:
        return f"{_hub_name(self.source)}, row {number + 1}"


def open_corpus(source: CorpusSource, work: Path) -> Corpus:
    """Open a corpus for random access; local files are copied to the disk, and each row is checked on the way.

    Args:
        source: which texts.
        work: directory for the copy of local files. One that is there already is used as it is.

    Raises:
        FileNotFoundError: the path is neither a local path nor a data set on the hub.
        ValueError: there are no rows, a column is missing, or a value is no text; the message names file and row.
    """
    if source.is_beir:  # whose columns have fixed names
        return _open(source, work)
    with column_remedy("text_column, id_column and columns"):
        return _open_hub(source) if is_hub_id(source.texts) else _open(source, work)


def _open(source: CorpusSource, work: Path) -> Corpus:
    copy, types = work / "texts.arrow", work / "types.arrow"
    if not (is_whole_arrow(copy) and is_whole_arrow(types)):
        scan = _Scan(source)
        write_arrow(scan.tables(), _COPY, copy)
        write_arrow([], scan.schema(), types)
    rows = datasets.Dataset.from_file(str(copy)).with_format("arrow")
    return Corpus(source, rows, pa.ipc.open_stream(types.read_bytes()).schema)


def _open_hub(source: CorpusSource) -> Corpus:
    rows = load_hub_split(source.texts, source.split, source.subset, source.revision)
    named = [source.text_column, *([source.id_column] if source.id_column else []), *source.columns]
    require_columns(rows.column_names, named, _hub_name(source))
    if len(rows) == 0:
        raise ValueError(f"{_hub_name(source)}: no rows.")
    schema = rows.features.arrow_schema
    id_type = pa.int64() if source.id_column is None else schema.field(source.id_column).type
    if pa.types.is_large_string(id_type):
        id_type = pa.string()
    if not (pa.types.is_integer(id_type) or pa.types.is_string(id_type)):
        raise ValueError(f"{_hub_name(source)}, column {source.id_column!r}: {id_type}, neither text nor whole number.")
    if source.limit is not None:
        rows = rows.select(range(min(source.limit, len(rows))))
    rows = rows.select_columns(list(dict.fromkeys(named))).with_format("arrow")
    kept = [schema.field(name).with_nullable(True).remove_metadata() for name in source.columns]
    return Corpus(source, rows, pa.schema([pa.field(ID, id_type), *kept]))


def _hub_name(source: CorpusSource) -> str:
    return f"hub data set {source.texts}, split {source.split}"


class _Scan:
    """One pass over local files: copies their rows and notes what the columns hold."""

    def __init__(self, source: CorpusSource) -> None:
        self.source = source
        self.ids, self.columns = ColumnTypes([ID]), ColumnTypes(source.columns)

    def tables(self) -> Iterator[pa.Table]:
        source, files = self.source, self.source.files()
        stats = file_stats(files)
        rows, limit, present = 0, source.limit or sys.maxsize, set[str]()
        with reading_progress(files) as progress:
            for batch in (batch for file in files for batch in _batches(file, source, progress)):
                batch = RowBatch(batch.where, batch.numbers[: limit - rows], batch.rows[: limit - rows])
                present = present.union(*batch.rows) if source.columns else present
                yield self._copied(batch)
                rows += len(batch.rows)
                if rows == limit:
                    break
        if rows == 0:
            raise ValueError(f"{source.texts}: no rows.")
        if file_stats(files) != stats:
            raise ValueError(f"{source.texts} was changed while it was read; start again.")
        require_columns(sorted(present), source.columns, source.texts)

    def schema(self) -> pa.Schema:
        ids = pa.int64() if self.source.read_id is None else self.ids.schema().field(ID).type
        return pa.schema([(ID, ids), *self.columns.schema()])

    def _copied(self, batch: RowBatch) -> pa.Table:
        source, count = self.source, len(batch.rows)
        wheres = [f"{batch.where} {number}" for number in batch.numbers]
        if source.is_beir:
            texts = pa.array(
                [document_of(row, at).whole for row, at in zip(batch.rows, wheres, strict=True)], pa.string()
            )
        else:
            texts = texts_of(batch, source.text_column, may_be_blank=True)
        ids = others = pa.nulls(count, pa.string())
        if column := source.read_id:
            ids = pa.array([id_of(row, column, at) for row, at in zip(batch.rows, wheres, strict=True)], pa.string())
            for row in batch.rows:
                self.ids.note({ID: row[column]})
        if source.columns:
            kept = [{name: row[name] for name in source.columns if name in row} for row in batch.rows]
            others = pa.array([json_of(row, at, ascii_only=True) for row, at in zip(kept, wheres, strict=True)])
            for row in kept:
                self.columns.note(row)
        return pa.table([ids, texts, others], schema=_COPY)


def _batches(file: Path, source: CorpusSource, progress: tqdm) -> Iterator[RowBatch]:
    if not file.name.endswith(_LINES):
        needed = [source.text_column, *([source.read_id] if source.read_id else []), *source.columns]
        yield from read_row_batches(file, list(dict.fromkeys(needed)), progress)
        return
    if named := [name for name in (source.id_column, *source.columns) if name not in (None, source.text_column)]:
        raise ValueError(f"{file}: lines of text have no column {named[0]!r}; leave it out.")
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, line in read_lines(file):
        numbers.append(number)
        rows.append({source.text_column: line.rstrip("\r\n")})
        if len(rows) == ROWS_AT_ONCE:
            yield RowBatch(f"{file}, line", numbers, rows)
            numbers, rows = [], []
    yield RowBatch(f"{file}, line", numbers, rows)
    progress.update(file.stat().st_size)
