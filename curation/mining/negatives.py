"""Hard negatives: documents near a query that are not its own, and random ones (paper §4.2.4)."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from curation.search import top_k
from textfiles.settings import require_at_least

_CANDIDATES_PER_NEGATIVE = 10  # where a limit may drop some; as sentence-transformers' mine_hard_negatives
_LEAST_MARGIN = 16  # fewer excluded documents than this are searched past at no cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeLimits:
    """Which of the documents nearest to a query become its negatives; the defaults are the paper's.

    The names are those of sentence-transformers' `mine_hard_negatives`. Of a pair, the candidates are the documents
    nearest to its query, without its own document, other documents of the query and copies of any of these. The
    first `range_min` are passed over, and of the others up to `range_max` that keep within the limits the first
    `num_negatives` are taken. Limits hold for nearest documents, not for those drawn at random.

    Attributes:
        num_negatives: hard negatives for each pair.
        range_min: nearest candidates that are passed over.
        range_max: candidates that are looked at, those passed over among them; null: as many as are needed without
            limits, and `range_min` + 10 `num_negatives` where `max_score` or a margin may drop some.
        max_score: largest cosine of query and negative; null: none, as for the other limits.
        min_score: smallest cosine of query and negative.
        absolute_margin: least distance of a negative's cosine below that of the pair's own document.
        relative_margin: the same as a share of that cosine: 0.05 keeps what is up to 0.95 times as near.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    num_negatives: int = 20  # paper §4.2.4
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        require_at_least(1, self, "num_negatives")
        require_at_least(0, self, "range_min")
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            raise ValueError(
                f"range_max must be at least range_min + num_negatives, {self.range_min + self.num_negatives}, not "
                f"{self.range_max}."
            )
        for key in ("max_score", "min_score"):
            value = getattr(self, key)
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{key} must be a cosine, from -1 to 1, not {value:g}.")
        if self.max_score is not None and self.min_score is not None and self.min_score > self.max_score:
            raise ValueError(
                f"min_score {self.min_score:g} is above max_score {self.max_score:g}: nothing would be left."
            )
        if self.relative_margin is not None and not 0 <= self.relative_margin < 1:
            raise ValueError(f"relative_margin must be at least 0 and below 1, not {self.relative_margin:g}.")

    @property
    def depth(self) -> int:
        """Candidates that are looked at."""
        needed = self.range_min + self.num_negatives
        if self.max_score is None and self.absolute_margin is None and self.relative_margin is None:
            return needed  # those that min_score drops are the last ones
        if self.range_max is not None:
            return self.range_max
        return self.range_min + _CANDIDATES_PER_NEGATIVE * self.num_negatives

    def choose(self, scores: np.ndarray, own_score: float) -> np.ndarray:
        """Take the negatives among the candidates of one pair.

        Args:
            scores: cosines of the candidates with the query, largest first.
            own_score: cosine of the pair's own document.

        Returns:
            Places of the negatives among the candidates, in rising order.
        """
        scores = scores.astype(np.float64)
        kept = np.zeros(len(scores), dtype=bool)
        kept[self.range_min : self.depth] = True
        if self.max_score is not None:
            kept &= scores <= self.max_score
        if self.min_score is not None:
            kept &= scores >= self.min_score
        if self.absolute_margin is not None:
            kept &= scores + self.absolute_margin <= own_score
        if self.relative_margin is not None:
            # subtracted, so that the bound is below a negative cosine too
            kept &= scores <= own_score - abs(own_score) * self.relative_margin
        return np.flatnonzero(kept)[: self.num_negatives]


class Candidates(NamedTuple):
    """Documents (n,) for one query and their cosines with it (n,), nearest first."""

    documents: np.ndarray
    scores: np.ndarray


def nearest_documents(
    queries: Tensor,
    documents: Sequence[np.ndarray],
    excluded: Sequence[np.ndarray],
    depth: int,
    device: str | torch.device | None = None,
) -> list[Candidates]:
    """Find the documents nearest to every query that are not excluded for it.

    Args:
        queries: embeddings (q, dim) of unit length.
        documents: embeddings of unit length, read as one table (d, dim).
        excluded: for each query the numbers of documents that are none of its negatives, each once. Numbers of d and
            above, of documents that are not searched, are allowed.
        depth: documents for each query; fewer where fewer are left.
        device: where to compute.

    Returns:
        The candidates of every query.
    """
    total = sum(map(len, documents))
    nearest = [Candidates(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in excluded]
    # The search must reach past the excluded documents. Queries are grouped by how many they have, in powers of two,
    # so that one query with thousands of documents does not deepen the search of all.
    groups: dict[int, list[int]] = defaultdict(list)
    for query, own in enumerate(excluded):
        groups[max(_LEAST_MARGIN, 1 << max(len(own) - 1, 0).bit_length())].append(query)
    for margin, members in sorted(groups.items()):
        scores, numbers = top_k(queries[members], documents, min(depth + margin, total), device=device)
        for query, row_scores, row in zip(members, scores.numpy(), numbers.numpy(), strict=True):
            kept = np.flatnonzero(~np.isin(row, excluded[query]))[:depth]
            nearest[query] = Candidates(row[kept], row_scores[kept])
    return nearest


def draw_random(num_documents: int, excluded: np.ndarray, count: int, key: Sequence[int]) -> np.ndarray:
    """Draw distinct documents at random, each of those that are not excluded with the same probability.

    Args:
        num_documents: documents to draw from, numbered from 0.
        excluded: numbers that are not drawn, each once; numbers of `num_documents` and above are allowed.
        count: documents to draw; fewer are returned where fewer are left.
        key: numbers not below 0, such as a seed and the number of the row, that decide the draw.

    Returns:
        Numbers of the documents, in the order of the draw.
    """
    random = np.random.default_rng(list(key))
    if num_documents <= 4 * (count + len(excluded)):
        left = np.setdiff1d(np.arange(num_documents), excluded, assume_unique=True)
        return random.permutation(left)[:count]
    # More than three quarters of the documents can be drawn: what cannot, or has been, is drawn again.
    passed_over = set(excluded.tolist())
    drawn: list[int] = []
    while len(drawn) < count:
        for number in random.integers(num_documents, size=2 * count).tolist():
            if number not in passed_over and len(drawn) < count:
                passed_over.add(number)
                drawn.append(number)
    return np.array(drawn, dtype=np.int64)
