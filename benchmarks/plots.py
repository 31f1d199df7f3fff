"""Plots of a comparison: bars by workload and side, or lines against a quantity."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textfiles.atomic import write_figure

COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#000000")


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_bars(rows: Sequence[Any], figures: Mapping[tuple[str, str], Mapping[str, Any]], path: Path) -> None:
    """Bars of tokens a second, or of seconds where tokens are not counted, by workload and side.

    Args:
        rows: of the table (`compare.Row`).
        figures: of `compare.summarize`.
        path: the file, whose suffix names the format.
    """
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(row.workload for row in rows))
    sides = list(dict.fromkeys(row.side for row in rows))
    in_tokens = any(row.tokens for row in rows)
    figure = Figure(figsize=(2.5 + 0.4 * max(len(rows), 4), 3.8), layout="constrained")
    panel = figure.subplots()
    width = 0.85 / len(sides)
    for number, side in enumerate(sides):
        found = [figures.get((workload, side), {}) for workload in workloads]
        values = [_value(each, in_tokens) for each in found]
        places = [place + (number - (len(sides) - 1) / 2) * width for place in range(len(workloads))]
        bars = panel.bar(places, values, width, label=side, color=COLOURS[number % len(COLOURS)])
        labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value else "" for value in values]
        panel.bar_label(bars, labels, fontsize=6, rotation=90, padding=2)
    panel.set_xticks(range(len(workloads)), workloads)
    panel.set_ylabel("tokens/s (more is better)" if in_tokens else "seconds (fewer are better)")
    panel.margins(y=0.2)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    write_figure(path, figure)


def _value(found: Mapping[str, Any], in_tokens: bool) -> float:
    if "seconds" not in found:
        return 0.0
    return found["tokens_per_second"] if in_tokens else found["seconds"]["median"]


def plot_sweeps(
    rows: Sequence[Any],
    figures: Mapping[tuple[str, str], Mapping[str, Any]],
    path: Path,
    sweeps: Mapping[str, str],
) -> None:
    """Tokens a second as lines, a panel for each sweep.

    Args:
        rows: of the table, whose workloads are points, `sweep value`.
        figures: of `compare.summarize`.
        path: the file, whose suffix names the format.
        sweeps: name -> the quantity that it changes; all but `spread` have a logarithmic axis.
    """
    from matplotlib.figure import Figure

    sides = list(dict.fromkeys(row.side for row in rows))
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for panel, (sweep, quantity) in zip(figure.subplots(1, len(sweeps)), sweeps.items(), strict=True):
        points = {row.workload: float(row.workload.split()[1]) for row in rows if row.workload.split()[0] == sweep}
        for number, side in enumerate(sides):
            measured = {
                place: figures[point, side]["tokens_per_second"]
                for point, place in points.items()
                if "tokens_per_second" in figures.get((point, side), {})
            }
            panel.plot(list(measured), list(measured.values()), "o-", label=side, color=COLOURS[number])
        if sweep != "spread":
            panel.set_xscale("log", base=2)
            panel.set_xticks(list(points.values()), [f"{place:,.0f}" for place in points.values()])
        panel.set(xlabel=quantity, ylabel="tokens/s")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="lower left")
    write_figure(path, figure)
