"""Lengths of many texts, counted and summed up without keeping them."""

from collections import Counter
from collections.abc import Iterable

_PERCENTILES = (50, 90, 99)


def percentile(lengths: Counter[int], percent: float) -> int:
    """The least length that so many percent of the texts do not exceed.

    Args:
        lengths: length -> number of texts, at least one.
        percent: above 0, to 100.
    """
    total, reached = lengths.total(), 0
    for length in sorted(lengths):
        reached += lengths[length]
        if 100 * reached >= percent * total:
            return length
    raise ValueError(f"there is no {percent}th percentile of {total} lengths.")


def summarize(histograms: Iterable[Iterable[tuple[int, int]]]) -> dict[str, float]:
    """Mean, percentiles and maximum of lengths.

    Args:
        histograms: lists of (length, count).

    Returns:
        `mean`, `p50`, `p90`, `p99`, `max`.
    """
    merged: Counter[int] = Counter()
    for histogram in histograms:
        merged.update(dict(histogram))
    mean = sum(length * count for length, count in merged.items()) / merged.total()
    return {
        "mean": round(mean, 1),
        **{f"p{percent}": percentile(merged, percent) for percent in _PERCENTILES},
        "max": max(merged),
    }
