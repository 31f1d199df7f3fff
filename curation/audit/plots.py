"""Pictures of an audit: token lengths of every source, and the documents that sources share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from curation.audit.counting import LIMITS
from textfiles.atomic import write_figure

_TITLES = {"query": "Queries", "document": "Documents", "negatives": "Hard negatives"}
_ANNOTATED_SOURCES = 15  # numbers in more cells could not be read
_SMALLEST_SHARE = 0.01  # percent: where the colours begin


def plot_lengths(lengths: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Draw the lengths of every source's texts as boxes, one panel for queries, documents and hard negatives each.

    Boxes run from the 25th to the 75th percentile, whiskers from the 1st to the 99th; a dot is the longest text.

    Args:
        lengths: source -> `query`, `document` and maybe `negatives` -> lengths in tokens (n,).
        path: image to write; the suffix chooses the format.
    """
    names = list(lengths)
    sides = [side for side in _TITLES if any(len(found.get(side, ())) for found in lengths.values())]
    figure = Figure(figsize=(2 + 4 * len(sides), 1.6 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(sides), squeeze=False, sharey=True, sharex=True)[0]
    for panel, side in zip(panels, sides, strict=True):
        for place, name in enumerate(names):
            values = lengths[name].get(side, ())
            if len(values):
                panel.boxplot(
                    [np.asarray(values)],
                    positions=[place],
                    orientation="horizontal",
                    whis=(1, 99),
                    widths=0.6,
                    showfliers=False,
                    medianprops={"color": "C1"},
                )
                panel.plot(np.max(values), place, ".", color="grey", markersize=4)
        for limit in LIMITS:
            panel.axvline(limit, color="grey", linewidth=0.8, linestyle=":")
        panel.set(title=_TITLES[side], xlabel="length (tokens)", xscale="log")
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    limits = ", ".join(f"{limit:,}" for limit in LIMITS)
    figure.suptitle(f"box: 25% to 75%, line: median, whiskers: 1% to 99%, dot: longest; dotted at {limits}", fontsize=8)
    write_figure(path, figure)


def plot_shared(shared: np.ndarray, names: Sequence[str], kind: str, path: Path) -> None:
    """Draw how much of each source's queries or documents each other source has too.

    Args:
        shared: distinct texts that two sources share (n, n); on the diagonal each source's own.
        names: of the sources.
        kind: `query` or `document`.
        path: image to write; the suffix chooses the format.
    """
    texts = _TITLES[kind].lower()
    sizes = np.maximum(np.diag(shared), 1)[:, None]
    percent = 100 * shared / sizes
    hidden = np.eye(len(names), dtype=bool) | (shared == 0)
    side = 3.5 + 0.35 * len(names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    panel = figure.subplots()
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="whitesmoke")
    norm = LogNorm(_SMALLEST_SHARE, 100)
    image = panel.imshow(np.ma.masked_array(np.maximum(percent, _SMALLEST_SHARE), hidden), norm=norm, cmap=colours)
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    panel.set(xlabel="... that this source has too", ylabel=f"distinct {texts} of this source ...")
    panel.set_title(f"{_TITLES[kind]} that sources share")
    bar = figure.colorbar(image, format="{x:g}")
    bar.set_label(f"share of the row's {texts} (%); blank: none")
    if len(names) <= _ANNOTATED_SOURCES:
        for row, column in zip(*np.nonzero(~hidden), strict=True):
            value = percent[row, column]
            text = f"{value:.2g}" if value >= _SMALLEST_SHARE else f"<{_SMALLEST_SHARE}"
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color="w" if value < 2 else "k")
    write_figure(path, figure)
