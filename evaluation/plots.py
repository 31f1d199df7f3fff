"""Plots: loss curves, scores side by side and against text length, a map of the embeddings."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from textfiles.atomic import write_figure

_MAX_MAP_POINTS = 3_000
_MAX_MAP_LABELS = 12
_PCA_DIMENSIONS = 50
# Okabe and Ito's palette, whose colours the colour-blind can tell apart; its yellow is too light for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREYS = ("#4D4D4D", "#8C8C8C", "#B8B8B8", "#6E6E6E", "#A3A3A3", "#CFCFCF")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PANELS_ACROSS = 3


def plot_loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> None:
    """Draw the losses of one or more training runs, each in its own panel, over optimizer steps.

    Args:
        histories: name of a run -> `Trainer.state.log_history`. Its entries with `loss` are the training
            curve, those with `eval_loss` the evaluation curve.
        path: image to write; the suffix chooses the format.

    Raises:
        ValueError: there is no run, or one has no logged loss.
    """
    if not histories:
        raise ValueError("there is no training history to draw.")
    figure = Figure(figsize=(4.5 * len(histories), 3.5), layout="constrained")
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for panel, (name, history) in zip(panels, histories.items(), strict=True):
        for key, label, marker in (("loss", "training", None), ("eval_loss", "evaluation", "o")):
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            if points:
                panel.plot(*zip(*points, strict=True), label=label, marker=marker)
        if not panel.lines:
            raise ValueError(f"{name}: the history has no loss; log at least once (logging_steps).")
        panel.set(title=name, xlabel="optimizer step", ylabel="loss")
        panel.grid(alpha=0.3)
        panel.legend()
    write_figure(path, figure)


def plot_scores(
    table: Mapping[str, Mapping[str, float]],
    path: str | Path,
    *,
    xlabel: str,
    digits: int = 1,
    grey: Collection[str] = (),
) -> None:
    """Draw scores as horizontal bars, grouped by column. Rows may lack columns.

    Args:
        table: row (a model) -> column (a benchmark or a data set) -> score.
        path: image to write.
        xlabel: what the scores are, such as "nDCG@10".
        digits: decimals of the numbers at the bars.
        grey: rows to draw in grey, such as published ones.

    Raises:
        ValueError: there is no score.
    """
    columns = list(dict.fromkeys(column for scores in table.values() for column in scores))
    if not columns:
        raise ValueError("there are no scores to draw.")
    styles = _styles(table, grey)
    lines = [(column, name) for column in columns for name in table if column in table[name]]
    figure = Figure(figsize=(8, 1.2 + 0.21 * (len(lines) + len(columns))), layout="constrained")
    panel = figure.subplots()
    height, middles = 0.0, []
    for column in columns:
        names = [name for name in table if column in table[name]]
        for place, name in enumerate(names):
            bar = panel.barh(height + place, table[name][column], 0.85, color=styles[name][0], label=name)
            panel.bar_label(bar, fmt=f"%.{digits}f", fontsize=7, padding=2)
        middles.append(height + (len(names) - 1) / 2)
        height += len(names) + 1
    panel.set_yticks(middles, columns)
    panel.invert_yaxis()
    panel.set_xlabel(xlabel)
    panel.margins(x=0.08, y=0.01)
    if min(score for scores in table.values() for score in scores.values()) >= 0:
        panel.set_xlim(left=0)
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    _legend(figure, [panel])
    write_figure(path, figure)


def plot_scores_by_length(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    path: str | Path,
    *,
    ylabel: str,
    grey: Collection[str] = (),
) -> None:
    """Draw scores against the length that texts are read to, a panel for each task.

    Args:
        panels: task -> model -> length in tokens -> score.
        path: image to write.
        ylabel: what the scores are.
        grey: models to draw in grey and dashed, such as published ones.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("there are no scores to draw.")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    styles = _styles(names, grey)
    across = min(_PANELS_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(max(4.2 * across, 6), 1 + 2.8 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for name, scores in lines.items():
            colour, marker = styles[name]
            axis.plot(
                sorted(scores),
                [scores[length] for length in sorted(scores)],
                "--" if name in grey else "-",
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.2 if name in grey else 2,
                label=name,
                zorder=2 if name in grey else 3,
            )
        axis.set_xscale("log", base=2)
        lengths = _apart({length for scores in lines.values() for length in scores})
        axis.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
        axis.minorticks_off()
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    figure.supxlabel("tokens read", fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    _legend(figure, list(axes[: len(panels)]))
    write_figure(path, figure)


def _apart(lengths: Collection[int]) -> list[int]:
    """Lengths that have room for a label each: of 8,191 and 8,192 only one has."""
    kept: list[int] = []
    for length in sorted(lengths):
        if not kept or length > 1.3 * kept[-1]:
            kept.append(length)
    return kept


def _styles(names: Collection[str], grey: Collection[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name; the grey ones have colours of their own."""
    styles = {}
    for palette, chosen in (
        (_GREYS, [name for name in names if name in grey]),
        (_COLOURS, [name for name in names if name not in grey]),
    ):
        for place, name in enumerate(chosen):
            styles[name] = palette[place % len(palette)], _MARKERS[place % len(_MARKERS)]
    return styles


def _legend(figure: Figure, axes: Sequence[Any]) -> None:
    """One legend for all panels, above them."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3, fontsize=8, frameon=False)


def plot_embedding_map(embeddings: np.ndarray, labels: Sequence[str], path: str | Path, title: str) -> None:
    """Draw embeddings in two dimensions (PCA, then t-SNE), coloured by label.

    At most 3,000 points are drawn, a fixed random choice; labels beyond the twelve most frequent share one
    grey.

    Args:
        embeddings: embeddings (n, dim).
        labels: the label of each embedding, such as its package.
        path: image to write.
        title: title of the picture.

    Raises:
        ValueError: there are fewer than three points, or not as many labels as embeddings.
    """
    if len(embeddings) < 3 or len(labels) != len(embeddings):
        raise ValueError(f"needs at least 3 embeddings and a label for each, not {len(embeddings)} and {len(labels)}.")
    chosen = np.random.default_rng(0).permutation(len(embeddings))[:_MAX_MAP_POINTS]
    points = _two_dimensions(np.asarray(embeddings, dtype=np.float32)[chosen])
    drawn = np.asarray(labels)[chosen]
    named = [label for label, _ in Counter(drawn.tolist()).most_common(_MAX_MAP_LABELS)]
    groups = [(~np.isin(drawn, named), "other", "lightgrey")]
    colours = matplotlib.colormaps["Paired"](range(_MAX_MAP_LABELS))
    groups += [(drawn == label, label, colour) for label, colour in zip(named, colours, strict=False)]

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panel = figure.subplots()
    for members, label, colour in groups:
        if members.any():
            panel.scatter(
                points[members, 0],
                points[members, 1],
                s=6,
                color=colour,
                label=f"{label} ({members.sum():,})",
                linewidths=0,
            )
    panel.set(title=title, xticks=[], yticks=[])
    panel.legend(markerscale=3, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    write_figure(path, figure)


def _two_dimensions(embeddings: np.ndarray) -> np.ndarray:
    """(n, dim) -> (n, 2), the same at every call."""
    dimensions = min(_PCA_DIMENSIONS, *embeddings.shape)
    reduced = PCA(dimensions, random_state=0).fit_transform(embeddings)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    # Half of the default iterations: the picture no longer changes to the eye, and 3,000 points take seconds.
    return TSNE(2, perplexity=perplexity, init="random", max_iter=500, random_state=0).fit_transform(reduced)
