"""Texts of evaluation sets, and the rows of sources that repeat one of them.

Texts are compared whole, without case, punctuation and layout (`curation.duplicates.normalize_text`), by the keys of
`curation.audit.counting`. `curation.duplicates.overlapping_rows` finds texts that are repeated in part.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curation.audit.counting import SIDES, SourceKeys
from curation.duplicates import normalize_text
from curation.embedding import text_key
from textfiles.beir import corpus_file, find_beir, read_documents, read_judgements, read_queries, required_file, splits
from textfiles.rows import ROW_SUFFIXES, file_stats, find_files, read_rows
from textfiles.settings import read_section
from textfiles.texts import text_of

# Columns that are read where none are named.
_TEXT_COLUMNS = (
    *("query", "document", "text", "title", "sentence", "sentence1", "sentence2"),
    *("question", "answer", "premise", "hypothesis"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """An evaluation set on the disk.

    Attributes:
        path: a directory in the BEIR layout, or a file, a directory or a glob pattern of files of rows.
        name: name in the report; null: the path's last part, without its ending.
        columns: columns with texts; null: those called query, document, text, title, sentence, sentence1, sentence2,
            question, answer, premise or hypothesis. Not for the BEIR layout.
        split: of the judgements in the BEIR layout.
    """

    path: str
    name: str | None = None
    columns: list[str] | None = None
    split: str = "test"

    @classmethod
    def from_config(cls, entry: str | Mapping[str, Any], where: str) -> "EvaluationSet":
        """Build a set of an entry of a config: a path, or a mapping of the attributes.

        Raises:
            ValueError: a key is unknown or missing; the message begins with `where`.
        """
        return cls(path=entry) if isinstance(entry, str) else read_section(cls, entry, where)

    @property
    def title(self) -> str:
        """The name in the report."""
        return self.name or plain_name(self.path)

    def files(self) -> list[Path]:
        """The files that are read.

        Raises:
            FileNotFoundError: nothing is there, or a directory in the BEIR layout lacks its queries or judgements.
            ValueError: a named file cannot be read by its ending.
        """
        directory = Path(self.path).expanduser()
        if corpus_file(directory) is None:
            return find_files(self.path)
        if splits(directory):
            return list(find_beir(directory, self.split).all())
        return [required_file(directory / name) for name in ("corpus.jsonl", "queries.jsonl")]

    def identity(self) -> dict[str, Any]:
        """What must be the same for the texts to be the same: settings, and names, sizes and times of the files."""
        stats = file_stats(self.files())
        return {**dataclasses.asdict(self), "files": stats}

    def read(self) -> "list[HeldOutTexts]":
        """Read the keys of all texts.

        Of the BEIR layout: `queries`, those that qrels.tsv or qrels/test.tsv judges where there is such a file, as
        queries.jsonl also holds those to train on; and `documents`, each in two forms, with and without its title.
        Of other files: the texts of each column.

        Raises:
            FileNotFoundError: as `files`.
            ValueError: a file is damaged, or has no column with texts.
        """
        files = self.files()
        texts = self._beir_texts(*files) if files[0].name.startswith("corpus.jsonl") else self._column_texts(files)
        return [HeldOutTexts.of(self.title, kind, forms) for kind, forms in texts.items()]

    def _beir_texts(
        self, corpus: Path, queries: Path, judgements: Path | None = None
    ) -> dict[str, list[tuple[int, ...]]]:
        judged = None
        if judgements is not None:
            judged = {judgement.query for judgement in read_judgements(judgements) if judgement.grade > 0}
        return {
            "queries": [_forms(text) for _, text in read_queries(queries, judged)],
            "documents": [_forms(document.whole, document.text) for document in read_documents(corpus)],
        }

    def _column_texts(self, files: list[Path]) -> dict[str, list[tuple[int, ...]]]:
        texts: dict[str, list[tuple[int, ...]]] = {}
        for file in files:
            columns = self.columns
            for where, row in read_rows(file, columns):
                columns = columns or self._find_columns(row, file)
                for column in columns:
                    text = "" if row.get(column) is None else text_of(row, column, where, may_be_blank=True)
                    texts.setdefault(column, []).append(_forms(text))
        if not texts:
            raise ValueError(f"{self.path}: an evaluation set without rows.")
        return texts

    def _find_columns(self, row: Mapping[str, Any], file: Path) -> list[str]:
        if found := [column for column in _TEXT_COLUMNS if isinstance(row.get(column), str)]:
            return found
        raise ValueError(
            f"{file}: no column is called {', '.join(_TEXT_COLUMNS)}; the columns are {', '.join(row)}. Name those "
            f"with texts: {{path: {self.path}, columns: [...]}}."
        )


@dataclasses.dataclass(frozen=True)
class HeldOutTexts:
    """Keys of the distinct texts of one kind of an evaluation set: its queries, its documents or a column.

    Attributes:
        name: the set.
        kind: which of its texts.
        count: distinct texts; blank ones are not counted.
        keys: keys of all forms of the texts (n,), sorted.
        owners: for each key the number of its text (n,). Texts with one form in common have a key each.
    """

    name: str
    kind: str
    count: int
    keys: np.ndarray
    owners: np.ndarray

    @classmethod
    def of(cls, name: str, kind: str, texts: Iterable[tuple[int, ...]]) -> "HeldOutTexts":
        """Make them of texts, each given by the keys of its forms; texts with the same first form are one."""
        numbers: dict[int, int] = {}
        found: set[tuple[int, int]] = set()
        for forms in texts:
            if forms:
                number = numbers.setdefault(forms[0], len(numbers))
                found.update((key, number) for key in forms)
        table = np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
        return cls(name, kind, len(numbers), table[:, 0].copy(), table[:, 1].copy())


@dataclasses.dataclass
class Overlap:
    """Texts of one kind of an evaluation set in one side of a source.

    Attributes:
        kind: which texts of the set.
        side: of the source: query or document.
        texts: distinct texts of the set that are found.
        rows: rows of the source that hold one.
        examples: the first of these rows, counted from 0.
    """

    kind: str
    side: str
    texts: int
    rows: int
    examples: list[int]


@dataclasses.dataclass
class SetOverlap:
    """What one source has in common with one evaluation set.

    Attributes:
        rows: rows whose query or document is a text of the set.
        rows_with_both: rows whose query and document both are.
        overlaps: by kind and side, where there is any.
    """

    rows: int
    rows_with_both: int
    overlaps: list[Overlap]


def find_overlaps(keys: SourceKeys, held_out: list[HeldOutTexts], examples: int) -> dict[str, SetOverlap]:
    """Find the rows of a source whose query or document is a text of an evaluation set.

    Args:
        keys: of the source.
        held_out: texts of all sets.
        examples: rows to name, at most, for each kind of text and side.

    Returns:
        Name of a set -> what is common with it; sets with nothing in common are left out.
    """
    union = np.unique(np.concatenate([texts.keys for texts in held_out])) if held_out else np.empty(0, np.int64)
    sides: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for place, side in enumerate(SIDES[:2]):
        found_rows, found_keys = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for shard in range(keys.files.count):
            shard_keys = keys.load(shard)[place]
            # One look at the union for every row: few rows are left to compare with each set.
            hits = np.flatnonzero(_is_in(shard_keys, union))
            found_rows.append(hits + keys.rows_of(shard).start)
            found_keys.append(shard_keys[hits])
        sides[side] = np.concatenate(found_rows), np.concatenate(found_keys)
    found = {}
    for name in dict.fromkeys(texts.name for texts in held_out):
        overlap = _overlap_with_set(sides, [texts for texts in held_out if texts.name == name], examples)
        if overlap.rows:
            found[name] = overlap
    return found


def _overlap_with_set(
    sides: Mapping[str, tuple[np.ndarray, np.ndarray]], kinds: list[HeldOutTexts], examples: int
) -> SetOverlap:
    overlaps, rows_by_side = [], {side: np.empty(0, np.int64) for side in sides}
    for side, (rows, keys) in sides.items():
        for texts in kinds:
            hits = _is_in(keys, texts.keys)
            if hits.any():
                count = len(np.unique(texts.owners[np.isin(texts.keys, keys[hits])]))
                first = rows[hits][:examples].tolist()
                overlaps.append(Overlap(texts.kind, side, count, int(hits.sum()), first))
                rows_by_side[side] = np.union1d(rows_by_side[side], rows[hits])
    query_rows, document_rows = rows_by_side.values()
    both = len(np.intersect1d(query_rows, document_rows, assume_unique=True))
    return SetOverlap(len(query_rows) + len(document_rows) - both, both, overlaps)


def _is_in(keys: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Which keys are in a sorted table."""
    if not len(table):
        return np.zeros(len(keys), dtype=bool)
    return table[np.minimum(np.searchsorted(table, keys), len(table) - 1)] == keys


def plain_name(path: str) -> str:
    """The last part of a path without the ending of its kind of file."""
    name = Path(path).name
    return next((name.removesuffix(suffix) for suffix in ROW_SUFFIXES if name.endswith(suffix)), name)


def _forms(*texts: str) -> tuple[int, ...]:
    """The distinct keys of a text's forms, in order; none of a blank text."""
    normalized = dict.fromkeys(normalize_text(text) for text in texts)
    return tuple(text_key(text) for text in normalized if text)
