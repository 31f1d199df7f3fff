"""Documents for masked language modelling: local files or hub data sets, as one memory-mapped table of texts."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from curation.sources import is_hub_id, load_hub_split
from textfiles.rows import (
    ROW_SUFFIXES,
    column_remedy,
    file_stats,
    find_files,
    read_row_batches,
    reading_progress,
    require_columns,
)
from textfiles.settings import read_section, require_filled
from textfiles.texts import texts_of
from textfiles.writing import is_whole_arrow, write_arrow

_TXT = ".txt"
_MOST_BYTES = 2**31 - 1  # of a text in Arrow


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentSource:
    """One data set of documents.

    Attributes:
        path: a local file, directory or glob pattern of .txt (one document a file), .jsonl, .jsonl.gz or .parquet
            files, or else the id of a data set on the hub (`owner/name`).
        column: name of the column with the text.
        name: configuration of a hub data set, where it has several.
        split: split of a hub data set. Local files are read whole.
        revision: revision of a hub data set.
        rows_per_document: consecutive rows that make one document, joined by line breaks; for data sets of
            sentences.

    Raises:
        ValueError: a field has a value it cannot have; the message names the field.
    """

    path: str
    column: str = "text"
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    rows_per_document: int = 1

    def __post_init__(self) -> None:
        require_filled(self, "path", "column", "split")
        if not isinstance(self.rows_per_document, int) or self.rows_per_document < 1:
            raise ValueError(f"rows_per_document must be a positive number of rows, not {self.rows_per_document!r}.")

    @classmethod
    def from_config(cls, entry: str | Mapping[str, Any], where: str) -> "DocumentSource":
        """Read an entry of a config: a path, or a mapping of field names to values.

        Args:
            entry: the entry.
            where: what to call it in an error.

        Raises:
            ValueError: a key is unknown or missing, or a value is wrong.
        """
        entry = {"path": entry} if isinstance(entry, str | Path) else entry
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}: {entry!r} is neither a path nor a mapping with the key 'path'.")
        return read_section(cls, entry, where)

    @property
    def is_local(self) -> bool:
        """Whether the path stands for local files."""
        return not is_hub_id(self.path)

    def files(self) -> list[Path]:
        """The files of a local source.

        Raises:
            FileNotFoundError: the path stands for no file.
            ValueError: a named file cannot be read by its ending.
        """
        return find_files(self.path, (_TXT, *ROW_SUFFIXES))

    def identity(self) -> dict[str, Any]:
        """What must be the same for the source to be the same: settings, and sizes and times of local files."""
        if not self.is_local:
            return dataclasses.asdict(self)
        files = file_stats(self.files())
        return {**dataclasses.asdict(self), "files": files}


class Documents:
    """Random access to the documents of several sources, one source after the other.

    Args:
        rows: a table of texts for each source, with one column.
        rows_per_document: for each source.
    """

    def __init__(self, rows: list[datasets.Dataset], rows_per_document: list[int]) -> None:
        self._rows, self._rows_per_document = rows, rows_per_document
        self.counts = [-(-len(table) // group) for table, group in zip(rows, rows_per_document, strict=True)]

    def __len__(self) -> int:
        return sum(self.counts)

    def texts(self, numbers: list[int]) -> list[str]:
        """The documents of the given numbers, in their order; rows without text are left out of joined ones."""
        texts = [""] * len(numbers)
        first = 0
        for table, group, count in zip(self._rows, self._rows_per_document, self.counts, strict=True):
            places = [place for place, number in enumerate(numbers) if first <= number < first + count]
            starts = [(numbers[place] - first) * group for place in places]
            column = table.column_names[0]
            if group == 1 and places:
                found = table[starts][column]
            else:
                found = ["\n".join(filter(None, table[start : start + group][column])) for start in starts]
            for place, text in zip(places, found, strict=True):
                texts[place] = text
            first += count
        return texts


@column_remedy("the column of its entry in documents")
def open_documents(sources: list[DocumentSource], cache: Path) -> Documents:
    """Open sources for random access, local files through a copy in Arrow form.

    Args:
        sources: the sources.
        cache: directory for the copies. A copy that is there already is used as it is; a damaged one is made again.

    Raises:
        FileNotFoundError: a path is neither a local path nor a data set on the hub.
        ValueError: a row of a local file has no usable text, or a file is blank or damaged; the message names file
            and row. A hub data set lacks the column.
    """
    tables = []
    for number, source in enumerate(sources):
        if source.is_local:
            copy = cache / f"documents-{number:03}.arrow"
            if not is_whole_arrow(copy):
                _copy_local(source, copy)
            tables.append(datasets.Dataset.from_file(str(copy)))
        else:
            rows = load_hub_split(source.path, source.split, source.name, source.revision)
            require_columns(rows.column_names, [source.column], f"hub data set {source.path}, split {source.split}")
            tables.append(rows.select_columns([source.column]))
    return Documents(tables, [source.rows_per_document for source in sources])


def _copy_local(source: DocumentSource, copy: Path) -> None:
    files = source.files()
    schema = pa.schema({source.column: pa.string()})
    with reading_progress(files) as progress:
        texts = (texts for file in files for texts in _texts_of_file(file, source.column, progress))
        write_arrow((pa.table([column], schema=schema) for column in texts), schema, copy)


def _texts_of_file(file: Path, column: str, progress: tqdm) -> Iterator[pa.Array]:
    if not file.name.endswith(_TXT):
        for batch in read_row_batches(file, [column], progress):
            yield texts_of(batch, column)
        return
    if file.stat().st_size >= _MOST_BYTES:
        raise ValueError(
            f"{file}: a .txt file is one document, which may have less than 2 GiB; split the file, or write its texts "
            "as rows of a .jsonl file."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 ({error}); convert the file to UTF-8.") from error
    if not text.strip():
        raise ValueError(f"{file}: the file is blank; remove it.")
    yield pa.array([text], pa.string())
    progress.update(file.stat().st_size)
