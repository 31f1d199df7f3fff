"""What a consistency filter did to a source, as a page, a picture and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from curation.filtering.consistency import RANK_BINS, SIMILARITY_STEP, SourceFilter, merge_counts
from textfiles.atomic import write_figure, write_json, write_text
from textfiles.markdown import escaped, number, render_page, share, table


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
    write_text(job.directory / "audit.md", _page(job, report))
    _plot(report, job.directory / "audit.png")
    return report


def summary_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """One line for each source, in Markdown."""
    header = ["source", "rows", "kept", "share", "with rank 1", "threshold that keeps as many"]
    rows = [
        [
            escaped(report["source"]),
            *(number(report[key]) for key in ("rows", "kept")),
            *(share(count, report["rows"]) for count in (report["kept"], report["ranks"][0])),
            f"{report['threshold']['similarity']:.2f}",
            number(report["threshold"]["decides_otherwise"]),
        ]
        for report in reports
    ]
    return table([*header, "rows it decides otherwise"], rows, numbers=len(header))


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
    facts = {
        **report,
        "bounds": bounds,
        "sample_size": job.samples.sample_size,
        "seed": job.samples.seed,
        "summary": summary_table([report]),
        "ranks": list(zip(_rank_labels(), report["ranks"], strict=True)),
    }
    return render_page(Path(__file__).with_name("audit.md.jinja"), facts)


def _rank_labels() -> list[str]:
    starts = [1, *(end + 1 for end in RANK_BINS)]
    ends = [*RANK_BINS, None]
    return [
        f"over {start - 1:,}" if end is None else f"{start:,}" if start == end else f"{start:,} to {end:,}"
        for start, end in zip(starts, ends, strict=True)
    ]


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
    write_figure(path, figure)
