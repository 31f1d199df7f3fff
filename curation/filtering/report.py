"""What a consistency filter did to a source, as a page, a picture and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curation.filtering.consistency import RANK_BINS, SIMILARITY_STEP, SourceFilter, merge_counts
from textfiles.atomic import atomic_file, write_json

_TEXT_SHOWN = 300  # characters


def write_report(job: SourceFilter) -> dict[str, Any]:
    """Write `audit.json`, `audit.md` and `audit.png` beside the rows of a source whose samples are all judged.

    Returns:
        What audit.json holds.
    """
    counts = merge_counts(job.files("audit", ".json").paths())
    kept, dropped = (np.array(counts[f"similarities_of_{side}"]) for side in ("kept", "dropped"))
    report = {
        "source": job.source.name,
        "samples": job.samples.count,
        "rank_bins": RANK_BINS,
        "similarity_step": SIMILARITY_STEP,
        "threshold": _equal_threshold(kept, dropped),
        **counts,
    }
    write_json(job.directory / "audit.json", report)
    with atomic_file(job.directory / "audit.md") as partial:
        partial.write_text(_page(job, report), encoding="utf-8")
    _plot(report, job.directory / "audit.png")
    return report


def summary_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """One line for each source, in Markdown."""
    lines = [
        "| source | rows | kept | share | with rank 1 | threshold that keeps as many | rows it decides otherwise |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for report in reports:
        rows, threshold = report["rows"], report["threshold"]
        lines.append(
            f"| {report['source']} | {rows:,} | {report['kept']:,} | {report['kept'] / rows:.1%} | "
            f"{report['ranks'][0] / rows:.1%} | {threshold['similarity']:.2f} | {threshold['decides_otherwise']:,} |"
        )
    return "\n".join(lines)


def _equal_threshold(kept: np.ndarray, dropped: np.ndarray) -> dict[str, Any]:
    """The similarity above which about as many rows lie as were kept, and how many rows it would decide otherwise."""
    above = np.append(np.cumsum((kept + dropped)[::-1])[::-1], 0)  # rows from each bin's lower edge upwards
    edge = int(np.argmin(np.abs(above - kept.sum())))
    otherwise = int(dropped[edge:].sum() + kept[:edge].sum())
    return {
        "similarity": round(-1 + edge * SIMILARITY_STEP, 4),
        "keeps": int(above[edge]),
        "decides_otherwise": otherwise,
    }


def _page(job: SourceFilter, report: Mapping[str, Any]) -> str:
    rule = job.rule
    bounds = [f"rank at most {rule.top_k}"] if rule.top_k is not None else []
    bounds += [f"cosine at least {rule.min_similarity}"] if rule.min_similarity is not None else []
    dropped = report["rows"] - report["kept"] - report["blank"]
    parts = [
        f"# {job.source.name}: consistency filter",
        f"Kept: {', '.join(bounds)}, among the distinct documents of the row's sample; {report['samples']:,} sample(s) "
        f"of at most {job.samples.sample_size:,} rows, seed {job.samples.seed}.",
        summary_table([report]),
        f"{dropped:,} rows dropped; {report['dropped_with_another_document']:,} of them have a query that stands with "
        f"another document in the same sample. {report['distinct_queries']:,} distinct queries and "
        f"{report['distinct_documents']:,} distinct documents.",
    ]
    if report["blank"]:
        first = ", ".join(map(str, report["first_blank_rows"][:20]))
        parts.append(f"{report['blank']:,} rows with a blank text were left out, the first of them rows {first}.")
    parts += ["![Ranks and similarities](audit.png)", "## Ranks", _rank_table(report["ranks"])]
    for side in ("dropped", "kept"):
        rows = report[f"{side}_rows"]
        if rows:
            parts += [f"## {len(rows)} {side} rows at random", *map(_shown_row, rows)]
    return "\n\n".join(parts) + "\n"


def _rank_labels() -> list[str]:
    starts = [1, *(end + 1 for end in RANK_BINS)]
    ends = [*RANK_BINS, None]
    return [
        f"over {start - 1:,}" if end is None else f"{start:,}" if start == end else f"{start:,} to {end:,}"
        for start, end in zip(starts, ends, strict=True)
    ]


def _rank_table(counts: Sequence[int]) -> str:
    lines = ["| rank of the row's document | rows | share |", "|---|---:|---:|"]
    lines += [
        f"| {label} | {count:,} | {count / max(sum(counts), 1):.1%} |"
        for label, count in zip(_rank_labels(), counts, strict=True)
    ]
    return "\n".join(lines)


def _shown_row(row: Mapping[str, Any]) -> str:
    lines = [
        f"**Row {row['row']:,}**: rank {row['rank']:,}, cosine {row['similarity']:.2f}",
        f"- query: {_one_line(row['query'])}",
        f"- document: {_one_line(row['document'])}",
    ]
    if row["nearest_document"] != row["document"]:
        lines.append(f"- nearest: {_one_line(row['nearest_document'])}")
    return "\n".join([lines[0], "", *lines[1:]])


def _one_line(text: str) -> str:
    """A text as it may stand in a list of a Markdown page."""
    line = " ".join(text.split())
    line = line if len(line) <= _TEXT_SHOWN else line[:_TEXT_SHOWN] + " ..."
    return line.replace("\\", "\\\\").replace("<", "&lt;").replace("`", "\\`").replace("*", "\\*").replace("_", "\\_")


def _plot(report: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = _rank_labels()
    left.bar(range(len(labels)), np.array(report["ranks"]) / max(sum(report["ranks"]), 1) * 100)
    left.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7)
    left.set(title=f"{report['source']}: rank of the row's document", ylabel="% of rows")
    edges = np.linspace(-1, 1, len(report["similarities_of_kept"]) + 1)
    for side in ("kept", "dropped"):
        right.stairs(report[f"similarities_of_{side}"], edges, label=side, fill=True, alpha=0.5)
    used = np.flatnonzero(np.array(report["similarities_of_kept"]) + np.array(report["similarities_of_dropped"]))
    if len(used):
        right.set_xlim(edges[used[0]] - 0.02, edges[used[-1] + 1] + 0.02)
    threshold = report["threshold"]["similarity"]
    right.axvline(threshold, color="black", linewidth=1, linestyle="--", label="threshold that keeps as many")
    right.set(title="cosine of query and document", xlabel="cosine", ylabel="rows")
    right.legend(fontsize=7)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
