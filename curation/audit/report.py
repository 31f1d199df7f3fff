"""What audit.json holds: the counts of an audit, with the texts that stand for them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from tqdm.auto import tqdm

from curation.audit.counting import (
    BLANK,
    SIDES,
    SourceKeys,
    choose_rows,
    count_repeated,
    count_shared,
    summarize_lengths,
)
from curation.audit.held_out import HeldOutTexts, SetOverlap, find_overlaps
from curation.sources import Source
from textfiles.arrays import write_array

_MOST_REPEATED = 3  # texts of each side of a source
_EXAMPLES = 5  # rows for each source, kind of text and side


class OpenedSource(NamedTuple):
    """A source, its rows, and the files with their keys."""

    source: Source
    pairs: datasets.Dataset
    keys: SourceKeys


def make_report(
    opened: list[OpenedSource],
    lengths: Mapping[str, dict[str, np.ndarray]],
    held_out: list[HeldOutTexts],
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Count everything.

    Args:
        opened: the sources, all of whose keys are written.
        lengths: name of a source -> what `curation.audit.counting.token_lengths` gives.
        held_out: texts of the evaluation sets.
        settings: to stand in the report; `rows_to_read` and `seed` say which rows are shown.

    Returns:
        The content of audit.json, and for `query` and `document` how many sources share: (sources, sources), as of
        `curation.audit.counting.count_shared`.
    """
    described, overlaps = [], []
    for one in tqdm(opened, "Counting", unit="source"):
        described.append(_describe(one, lengths[one.source.name], settings))
        overlaps.append(find_overlaps(one.keys, held_out, _EXAMPLES))
    shared = {side: count_shared([_load_distinct(one.keys, side) for one in opened]) for side in SIDES[:2]}
    report = {
        "settings": dict(settings),
        "sources": described,
        "shared": _shared_entries(shared, [one.source.name for one in opened]),
        "evaluation_sets": _evaluation_entries(opened, held_out, overlaps),
    }
    return report, shared


def _describe(one: OpenedSource, lengths: dict[str, np.ndarray], settings: Mapping[str, Any]) -> dict[str, Any]:
    source, pairs, keys = one
    distinct: dict[str, int] = {}
    blank: dict[str, int] = {}
    most_repeated: dict[str, list] = {}
    for side in SIDES:
        side_keys = keys.side(side)
        blank[side] = int((side_keys == BLANK).sum())
        found, repeated = count_repeated(side_keys, _MOST_REPEATED)
        distinct[side] = len(found)
        if side != "pair":
            write_array(_distinct_path(keys, side), found)
            rows = [(keys.first_row(side, key), count) for key, count in repeated]
            most_repeated[side] = [{"rows": count, "text": pairs[row][side]} for row, count in rows]
    chosen = choose_rows(len(pairs), settings["rows_to_read"], settings["seed"], source.name)
    return {
        **asdict(source),
        "rows": len(pairs),
        "distinct": distinct,
        "repeated": {side: len(pairs) - count for side, count in distinct.items()},
        "blank": {side: blank[side] for side in SIDES[:2]},
        "lengths": {name: summarize_lengths(values) for name, values in lengths.items()},
        "most_repeated": most_repeated,
        "samples": [{"row": row + 1, **pairs[row]} for row in chosen],
    }


def _distinct_path(keys: SourceKeys, side: str) -> Path:
    return keys.directory / f"distinct-{side}-{keys.source:03}.npy"


def _load_distinct(keys: SourceKeys, side: str) -> np.ndarray:
    return np.load(_distinct_path(keys, side), mmap_mode="r")


def _shared_entries(shared: Mapping[str, np.ndarray], names: list[str]) -> list[dict[str, Any]]:
    """Pairs of sources that share a text, those with most in common first."""
    entries: list[dict[str, Any]] = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            counts = {side: int(matrix[i, j]) for side, matrix in shared.items()}
            if any(counts.values()):
                entries.append({"sources": [first, names[j]], **counts})
    return sorted(entries, key=lambda entry: (-entry["document"], -entry["query"], entry["sources"]))


def _evaluation_entries(
    opened: list[OpenedSource], held_out: list[HeldOutTexts], overlaps: list[dict[str, SetOverlap]]
) -> list[dict[str, Any]]:
    entries = []
    for name in dict.fromkeys(texts.name for texts in held_out):
        found = [
            _overlap_entry(one, by_name[name]) for one, by_name in zip(opened, overlaps, strict=True) if name in by_name
        ]
        counts = {texts.kind: texts.count for texts in held_out if texts.name == name}
        entries.append({"name": name, "texts": counts, "overlaps": found})
    return entries


def _overlap_entry(one: OpenedSource, overlap: SetOverlap) -> dict[str, Any]:
    by_text = []
    for part in overlap.overlaps:
        examples = [{"row": row + 1, "text": one.pairs[row][part.side]} for row in part.examples]
        by_text.append({**asdict(part), "examples": examples})
    counts = {"rows": overlap.rows, "rows_with_both": overlap.rows_with_both}
    return {"source": one.source.name, **counts, "by_text": by_text}
