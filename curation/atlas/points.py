"""The points of a map: texts, what is known of each, and which belong together."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

PAGE = "index.html"  # of a map, in its directory
SIDE, SOURCE = "side", "source"  # columns of points that are made of pairs
Value = str | float | None


@dataclasses.dataclass
class Points:
    """Texts with what is known of them.

    Attributes:
        texts: of the n points.
        columns: name -> n values: all texts, or all numbers; None where there is none.
        links: (m, 2) numbers of points that belong together, a query before its document.
    """

    texts: list[str]
    columns: dict[str, list[Value]]
    links: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: Sequence[int] | np.ndarray) -> "Points":
        """Some points in the given order, and the links between them."""
        places = np.full(len(self), -1, dtype=np.int64)
        places[numbers] = np.arange(len(numbers))
        links = places[self.links]
        return Points(
            [self.texts[number] for number in numbers],
            {name: [values[number] for number in numbers] for name, values in self.columns.items()},
            links[(links >= 0).all(axis=1)],
        )


class PairPoints:
    """Gathers points from pairs: equal texts of a side and source are one point with several links."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._links: dict[tuple[int, int], None] = {}

    def add(self, source: str, query: str, document: str) -> None:
        """Add the two points of a pair, or find them, and link them."""
        ends = [
            self._numbers.setdefault((source, side, text), len(self._numbers))
            for side, text in (("query", query), ("document", document))
        ]
        self._links[ends[0], ends[1]] = None

    def points(self) -> Points:
        """What was gathered, in the order in which it came."""
        sources, sides, texts = zip(*self._numbers, strict=True)
        links = np.array(list(self._links), dtype=np.int64)
        return Points(list(texts), {SOURCE: list(sources), SIDE: list(sides)}, links)


def column_values(rows: Iterable[Mapping[str, Any]], name: str) -> list[Value]:
    """A column of rows as all numbers, if its values are, or else as texts; null stays None, lists are joined."""
    values = [row.get(name) for row in rows]
    if all(value is None or isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values
    return [None if value is None else _as_text(value) for value in values]


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
