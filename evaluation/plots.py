"""Pictures of a training run: loss curves, scores side by side, a map of the embeddings."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

_MAX_MAP_POINTS = 3_000
_MAX_MAP_LABELS = 12
_PCA_DIMENSIONS = 50


def plot_loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> None:
    """Draw the losses of one or more training runs, each in its own panel, over optimizer steps.

    Args:
        histories: Name of a run -> `Trainer.state.log_history`. Its entries with `loss` are the training
            curve, those with `eval_loss` the evaluation curve.
        path: Image to write; the suffix chooses the format.

    Raises:
        ValueError: There is no run, or one has no logged loss.
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
            raise ValueError(f"{name}: the history holds no loss; log at least once (logging_steps).")
        panel.set(title=name, xlabel="optimizer step", ylabel="loss")
        panel.grid(alpha=0.3)
        panel.legend()
    _save(figure, path)


def plot_scores(table: Mapping[str, Mapping[str, float]], path: str | Path, *, ylabel: str) -> None:
    """Draw scores as bars, grouped by column.

    Args:
        table: Row (a model) -> column (a data set) -> score. Every row has the same columns.
        path: Image to write.
        ylabel: What the scores are, such as "nDCG@10".

    Raises:
        ValueError: The table is empty or a row lacks a column.
    """
    columns = list(next(iter(table.values()), {}))
    if not columns:
        raise ValueError("there are no scores to draw.")
    figure = Figure(figsize=(2 + 0.45 * len(table) * len(columns), 3.5), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(table)
    for place, (name, scores) in enumerate(table.items()):
        if scores.keys() != set(columns):
            raise ValueError(f"{name}: the scores are for {', '.join(scores)}, not for {', '.join(columns)}.")
        bars = panel.bar(
            np.arange(len(columns)) + place * width, [scores[column] for column in columns], width, label=name
        )
        panel.bar_label(bars, fmt="%.1f", fontsize=7)
    panel.set_xticks(np.arange(len(columns)) + 0.4 - width / 2, columns)
    panel.set_ylabel(ylabel)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def plot_embedding_map(embeddings: np.ndarray, labels: Sequence[str], path: str | Path, title: str) -> None:
    """Draw embeddings in two dimensions (PCA, then t-SNE), coloured by label.

    At most 3,000 points are drawn, a fixed random choice; labels beyond the twelve most frequent share one
    grey.

    Args:
        embeddings: Embeddings (n, dim).
        labels: Label of every embedding, such as its package.
        path: Image to write.
        title: Title of the picture.

    Raises:
        ValueError: There are fewer than three points, or not as many labels as embeddings.
    """
    if len(embeddings) < 3 or len(labels) != len(embeddings):
        raise ValueError(f"need 3 embeddings at least and a label for each, not {len(embeddings)} and {len(labels)}.")
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
    _save(figure, path)


def _two_dimensions(embeddings: np.ndarray) -> np.ndarray:
    """(n, dim) -> (n, 2), the same at every call."""
    dimensions = min(_PCA_DIMENSIONS, *embeddings.shape)
    reduced = PCA(dimensions, random_state=0).fit_transform(embeddings)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    # Half of the default iterations: the picture no longer changes to the eye, and 3,000 points take seconds.
    return TSNE(2, perplexity=perplexity, init="random", max_iter=500, random_state=0).fit_transform(reduced)


def _save(figure: Figure, path: str | Path) -> None:
    """Write beside the target and rename, so that an interrupted write leaves no broken picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        figure.savefig(partial, dpi=150)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
