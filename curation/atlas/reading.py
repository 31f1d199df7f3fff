"""Points from files: texts, pairs, sets in the BEIR layout, and vectors that are there already.

Of more than is wanted, a random choice is taken, the same for the same seed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from curation.atlas.points import SIDE, PairPoints, Points, column_values
from curation.audit.counting import choose_rows
from curation.sources import Source, open_pairs
from textfiles.beir import BeirSet, load_beir, splits
from textfiles.rows import column_remedy, find_files, read_row_batches, reading_progress, require_columns
from textfiles.texts import text_of
from textfiles.vectors import read_vectors

_PAIRS_AT_ONCE = 10_000
_COLUMN_KEYS = "text_column and columns"


class _Choice:
    """Keeps at most so many of a stream of items, each with the same chance (Vitter's algorithm R)."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seen = most, 0
        self._random = np.random.default_rng(seed)

    def places(self, count: int) -> Iterator[tuple[int, int]]:
        """Of the next `count` items, the number of each that is kept for now, and the place it takes."""
        numbers = np.arange(self.seen, self.seen + count)
        drawn = np.where(numbers < self.most, numbers, self._random.integers(0, numbers + 1))
        self.seen += count
        for number in np.flatnonzero(drawn < self.most).tolist():
            yield number, int(drawn[number])


@column_remedy(_COLUMN_KEYS)
def read_text_points(path: str, text_column: str, columns: Sequence[str], most: int, seed: int) -> Points:
    """The rows of local files as points.

    Args:
        path: a file, directory or glob pattern.
        text_column: column with the text.
        columns: other columns to keep.
        most: points.
        seed: of their choice.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: there are no rows, a column is missing, or a text is blank or no text.
    """
    files = find_files(path)
    kept: dict[int, dict[str, Any]] = {}
    choice, present = _Choice(most, seed), set[str]()
    with reading_progress(files) as progress:
        for batch in (batch for file in files for batch in read_row_batches(file, [text_column, *columns], progress)):
            for number, place in choice.places(len(batch.rows)):
                row = batch.rows[number]
                text_of(row, text_column, f"{batch.where} {batch.numbers[number]}")
                present.update(row)
                kept[place] = row
    if not kept:
        raise ValueError(f"{path}: no rows.")
    require_columns(sorted(present), columns, path)
    rows = list(kept.values())
    return Points([row[text_column] for row in rows], {name: column_values(rows, name) for name in columns})


def read_beir_points(directory: Path, most: int, seed: int) -> Points:
    """Queries and documents of a set in the BEIR layout, linked where one is judged relevant to the other.

    Queries come first, each with its relevant documents, until half the points are taken; other documents fill up.

    Args:
        directory: with corpus, queries and judgements; of several splits, test is read, or else the first.
        most: points.
        seed: of their choice.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or nothing is judged relevant.
    """
    names = splits(directory)
    found = load_beir(directory, "test" if "test" in names or not names else names[0])
    if absent := found.describe_absent():
        print(f"{directory}: {absent}.")
    return _beir_points(found, most, np.random.default_rng(seed))


def _beir_points(found: BeirSet, most: int, random: np.random.Generator) -> Points:
    numbers: dict[tuple[str, str], int] = {}
    links = []
    for query in random.permutation(sorted(found.queries)).tolist():
        relevant = [document for document, grade in found.grades[query].items() if grade > 0]
        relevant = [document for document in relevant if found.documents[document].whole]
        if len(numbers) + 1 + len(relevant) > max(most // 2, 2):
            break
        start = numbers.setdefault(("query", query), len(numbers))
        links += [(start, numbers.setdefault(("document", document), len(numbers))) for document in relevant]
    for document in random.permutation(sorted(found.documents)).tolist():
        if len(numbers) >= most:
            break
        if found.documents[document].whole:
            numbers.setdefault(("document", document), len(numbers))
    texts = [found.queries[name] if side == "query" else found.documents[name].whole for side, name in numbers]
    columns: dict[str, list] = {SIDE: [side for side, _ in numbers], "id": [name for _, name in numbers]}
    return Points(texts, columns, np.array(links, dtype=np.int64).reshape(-1, 2))


def read_pair_points(sources: Sequence[Source], most: int, seed: int) -> Points:
    """Queries and documents of sources of pairs, linked; each source gives rows in proportion to its size.

    Args:
        sources: of pairs.
        most: points; a row gives two, fewer where texts repeat.
        seed: of the choice of rows.

    Raises:
        FileNotFoundError: a path is neither local nor a data set on the hub.
        ValueError: a row cannot be read; the message names it.
    """
    opened = [open_pairs(source) for source in sources]
    total = sum(map(len, opened))
    gathered = PairPoints()
    for source, rows in zip(sources, opened, strict=True):
        wanted = len(rows) if 2 * total <= most else max(1, len(rows) * (most // 2) // total)
        chosen = choose_rows(len(rows), wanted, seed, source.name)
        for start in range(0, len(chosen), _PAIRS_AT_ONCE):
            part = rows[chosen[start : start + _PAIRS_AT_ONCE]]
            for query, document in zip(part["query"], part["document"], strict=True):
                gathered.add(source.name, query, document)
    return gathered.points()


@column_remedy(_COLUMN_KEYS)
def read_vector_points(
    path: str, text_column: str, columns: Sequence[str], most: int, seed: int
) -> tuple[Points, np.ndarray]:
    """The rows of parquet files with vectors as points, and their vectors (points, dim) in float32.

    Args:
        path: a file, directory or glob pattern, such as the output of `recipes/embed.py`.
        text_column: column with the text.
        columns: other columns to keep.
        most: points.
        seed: of their choice.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: there are no rows, a column is missing, files have vectors of different lengths, or a row is bad.
    """
    files = find_files(path, (".parquet",))
    choice = _Choice(most, seed)
    rows: dict[int, dict[str, Any]] = {}
    parts: list[np.ndarray] = []  # chosen vectors of a batch at a time
    found: dict[int, tuple[int, int]] = {}  # place -> part, row of it
    wanted = list(dict.fromkeys([text_column, *columns]))
    with tqdm(desc="Reading vectors", unit="row", unit_scale=True) as progress:
        for batch in (batch for file in files for batch in read_vectors(file, wanted, progress=progress)):
            if parts and batch.vectors.shape[1] != parts[0].shape[1]:
                raise ValueError(
                    f"{batch.where} {batch.numbers[0]}: {batch.vectors.shape[1]} dimensions, the files before have "
                    f"{parts[0].shape[1]}; give files of one model."
                )
            chosen = list(choice.places(len(batch.rows)))
            for row, (number, place) in enumerate(chosen):
                text_of(batch.rows[number], text_column, f"{batch.where} {batch.numbers[number]}")
                rows[place], found[place] = batch.rows[number], (len(parts), row)
            parts.append(batch.vectors[[number for number, _ in chosen]])
    if not rows:
        raise ValueError(f"{path}: no rows.")
    vectors = np.stack([parts[part][row] for part, row in found.values()])
    kept = list(rows.values())
    texts = [row[text_column] for row in kept]
    return Points(texts, {name: column_values(kept, name) for name in columns}), vectors
