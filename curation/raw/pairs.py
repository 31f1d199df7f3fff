"""Pairs made of raw rows, shard by shard, with counts, lengths and samples for a report."""

import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curation.raw.rows import RawRows
from curation.raw.rules import PairRule, RawSource
from textfiles.atomic import write_text
from textfiles.lengths import summarize
from textfiles.markdown import render_page
from textfiles.shards import ShardFiles, read_receipt, write_receipt
from textfiles.writing import write_jsonl

REPORT = "report.json"
_SAMPLES = 10
_SHOWN = 300  # characters of a text in a sample
_UNITS = ("query characters", "query words", "document characters", "document words")


def pair_files(directory: Path, num_rows: int, rows_per_shard: int) -> ShardFiles:
    """The files of pairs that a number of raw rows is made into."""
    return ShardFiles(directory, "pairs", math.ceil(num_rows / rows_per_shard), ".jsonl.gz")


def make_shard(source: RawSource, rows: RawRows, files: ShardFiles, shard: int, rows_per_shard: int, seed: int) -> None:
    """Write the pairs of one shard, in the order of the rows, and then its counts.

    Args:
        source: the source.
        rows: its rows.
        files: the files of its pairs.
        shard: number of the shard, from 0.
        rows_per_shard: raw rows that make a shard.
        seed: of the samples.

    Raises:
        ValueError: a value has the wrong type; the message names the file and the row.
    """
    rule, counts = PairRule(source), _ShardCounts(f"{seed} {source.name} {shard}")

    def made() -> Iterator[dict[str, Any]]:
        start = shard * rows_per_shard
        for where, row in rows.read(start, min(start + rows_per_shard, len(rows))):
            counts.rows += 1
            for outcome in rule.pairs(row, where):
                if isinstance(outcome, str):
                    counts.left_out[outcome] += 1
                else:
                    counts.add(outcome)
                    yield outcome

    write_jsonl(made(), files.path(shard))
    write_receipt(files.receipt(shard), [files.path(shard)], counts.content())


class _ShardCounts:
    def __init__(self, seed: str) -> None:
        self.rows = 0
        self.pairs = 0
        self.left_out: Counter[str] = Counter()
        self._lengths: dict[str, Counter[int]] = {unit: Counter() for unit in _UNITS}
        self._samples: list[list[Any]] = []
        # A pair's place in this order depends on its shard and its place there: not on who makes the shard.
        self._order = random.Random(seed)

    def add(self, pair: Mapping[str, Any]) -> None:
        self.pairs += 1
        lengths = [length for text in (pair["query"], pair["document"]) for length in (len(text), len(text.split()))]
        for unit, length in zip(_UNITS, lengths, strict=True):
            self._lengths[unit][length] += 1
        order = self._order.random()
        if len(self._samples) < _SAMPLES or order < self._samples[-1][0]:
            sample = {key: _cut(value) for key, value in pair.items()}
            self._samples = sorted([*self._samples, [order, sample]], key=lambda entry: entry[0])[:_SAMPLES]

    def content(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "pairs": self.pairs,
            "left_out": dict(sorted(self.left_out.items())),
            "lengths": {unit: sorted(counter.items()) for unit, counter in self._lengths.items()},
            "samples": self._samples,
        }


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _SHOWN:
        return value[:_SHOWN] + "…"
    return value


def finish(source: RawSource, files: ShardFiles) -> dict[str, Any]:
    """Write `report.md` and then `report.json` of a source whose shards are all made.

    Args:
        source: the source.
        files: the files of its pairs.

    Returns:
        The content of `report.json`.

    Raises:
        ValueError: no row made a pair, so the rule does not fit the rows.
    """
    shards = [counts for shard in range(files.count) if (counts := read_receipt(files.receipt(shard))) is not None]
    if len(shards) < files.count:
        raise ValueError(f"{files.directory}: {files.count - len(shards):,} shards are missing; rerun make_pairs.")
    rows, pairs = (sum(shard[key] for shard in shards) for key in ("rows", "pairs"))
    left_out = Counter[str]()
    for shard in shards:
        left_out.update(shard["left_out"])
    if pairs == 0:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        raise ValueError(
            f"source {source.name!r}: none of the {rows:,} rows of {source.path} made a pair ({reasons}). Correct the "
            f"rule and remove {files.directory}."
        )
    samples = sorted((sample for shard in shards for sample in shard["samples"]), key=lambda entry: entry[0])
    report = {
        "source": dataclasses.asdict(source),
        "rows": rows,
        "pairs": pairs,
        "left_out": dict(left_out.most_common()),
        "lengths": {unit: summarize([shard["lengths"][unit] for shard in shards]) for unit in _UNITS},
        "for_training": {
            "name": source.name,
            "path": str(files.directory),
            "query_prefix": source.query_prefix,
            "document_prefix": source.document_prefix,
        },
        "samples": [sample for _, sample in samples[:_SAMPLES]],
    }
    filters = {"json": lambda value: json.dumps(value, ensure_ascii=False)}
    page = render_page(Path(__file__).with_name("report.md.jinja"), {**report, "source": source}, filters)
    write_text(files.directory / "report.md", page)
    parts = [part for shard in range(files.count) for part in (files.path(shard), files.receipt(shard))]
    write_receipt(files.directory / REPORT, [files.directory / "report.md", *parts], report)
    return report
