"""The tables and the plot of embedding_size.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.measure import markdown_table
from benchmarks.quality.contrastive_scores import Draws, EvaluationSets, interval
from benchmarks.quality.quantized_scores import CANDIDATES, PRECISIONS, bytes_per_vector

WITH_LAYER_NORM, WITHOUT_LAYER_NORM = "with layer norm", "without layer norm"
_KINDS = {"similarity": "STS, mean", "retrieval": "retrieval, mean"}
_PLOTTED = {"float32": ("o", "-"), "int8": ("s", "--"), "binary": ("^", ":"), "binary, rescored": ("v", "-.")}


@dataclass(frozen=True)
class Size:
    """What embeddings are brought to: so many dimensions, in one of `PRECISIONS`."""

    dimension: int
    precision: str

    def __str__(self) -> str:
        """As draws are named."""
        return f"{self.dimension} {self.precision}"


@dataclass(frozen=True)
class Measured:
    """A model at every size.

    Attributes:
        name: of the model.
        dimensions: the full width first.
        has_layer_norm: whether a layer norm without parameters is the last it does.
        draws: size, or dimension and with or without a layer norm -> set -> draws.
    """

    name: str
    dimensions: list[int]
    has_layer_norm: bool
    draws: Mapping[str, Mapping[str, Draws]]


class Report:
    """Scores by size, and their differences to the full width in float32.

    Args:
        measured: the models.
        sets: that were scored.
    """

    def __init__(self, measured: Sequence[Measured], sets: EvaluationSets) -> None:
        self._measured = measured
        self._sizes = sets.sizes()
        self._sets = {"similarity": list(sets.similarity), "retrieval": list(sets.retrieval)}

    def _mean(self, draws: Mapping[str, Draws], kind: str) -> Draws | None:
        names = self._sets[kind]
        return np.mean([draws[name] for name in names], axis=0) if all(name in draws for name in names) else None

    def rows(self) -> list[dict[str, Any]]:
        """A row for each model and size: bytes, scores by set, and both means beside those of the full float32."""
        rows = []
        for model in self._measured:
            full = model.draws[str(Size(model.dimensions[0], "float32"))]
            for size in [Size(dimension, precision) for dimension in model.dimensions for precision in PRECISIONS]:
                draws = model.draws[str(size)]
                row = {"model": model.name, "dimension": size.dimension, "precision": size.precision}
                row["bytes"] = bytes_per_vector(size.precision, size.dimension)
                row["scores"] = {name: float(values[0]) for name, values in draws.items()}
                rows.append(row | {kind: self._beside(draws, full, kind) for kind in _KINDS})
        return rows

    def layer_norm_rows(self) -> list[dict[str, Any]]:
        """A row for each model and dimension in float32: means without a layer norm, and what one changes."""
        rows = []
        for model in self._measured:
            for dimension in model.dimensions:
                one, other = (model.draws[f"{dimension} {each}"] for each in (WITH_LAYER_NORM, WITHOUT_LAYER_NORM))
                row = {"model": model.name, "has_layer_norm": model.has_layer_norm, "dimension": dimension}
                rows.append(row | {kind: self._beside(one, other, kind) for kind in _KINDS})
        return rows

    def _beside(self, draws: Mapping[str, Draws], other: Mapping[str, Draws], kind: str) -> dict[str, Any] | None:
        """A mean, that of another size, their difference with its 95 % interval, and their ratio; None: not scored."""
        own, beside = self._mean(draws, kind), self._mean(other, kind)
        if own is None or beside is None:
            return None
        difference, low, high = interval(own - beside)
        return {
            "score": float(own[0]), "beside": float(beside[0]), "percent": 100 * float(own[0] / beside[0]),
            "difference": difference, "low": low, "high": high,
        }  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """Everything that the tables show, and the score of every set, as JSON values."""
        return {"sets": self._sets, "sizes": self._sizes, "rows": self.rows(), "layer_norm": self.layer_norm_rows()}

    def markdown(self, tokens: int) -> str:
        """Both tables, with what a reader should know about them."""
        pairs, queries = (
            ", ".join(f"{name} ({self._sizes[name]:,})" for name in names) for names in self._sets.values()
        )
        header = ["model", "dimensions", "precision", "bytes"]
        for label in _KINDS.values():
            header += [label, "% of full", "difference"]
        cells = []
        for row in self.rows():
            first = [row["model"], str(row["dimension"]), row["precision"], f"{row['bytes']:,}"]
            cells.append(first + [cell for kind in _KINDS for cell in _shown(row[kind])])
        parts = [
            f"Means of Spearman's correlation with judgements on {pairs} pairs, and of nDCG@10 on {queries} queries, "
            f"in percent. {tokens} tokens of a text are read. Embeddings are those of `encode(truncate_dim=..., "
            "normalize_embeddings=True)` and of its `precision`, which was checked first. Full is the model's own "
            "width in float32; differences to it have 95 % intervals by resampling pairs or queries, those of one "
            "document together.",
            "int8: cosine of codes, which part the values of each dimension of the documents (of both sides of the "
            "pairs) into 255 steps. binary: the number of signs that agree. rescored: of the documents, the "
            f"{CANDIDATES} that are nearest by codes, in the order of the float query's product with the same codes, "
            "or with int8 codes kept beside them. Bytes: all codes of one document.",
            markdown_table(header, cells),
            "The same in float32, with a layer norm without parameters before the cut and without. Models trained to "
            "be cut have one; a difference above 0 says that it helps:",
            self._layer_norm_table(),
        ]
        return "\n\n".join(parts)

    def _layer_norm_table(self) -> str:
        header = ["model", "has it", "dimensions"]
        for label in _KINDS.values():
            header += [f"{label}, without", "with", "difference"]
        cells = []
        for row in self.layer_norm_rows():
            first = [row["model"], "yes" if row["has_layer_norm"] else "no", str(row["dimension"])]
            for kind in _KINDS:
                score, _, difference = _shown(row[kind])
                first += [f"{row[kind]['beside']:.1f}", score, difference]
            cells.append(first)
        return markdown_table(header, cells)

    def plot(self, path: Path) -> None:
        """A panel of each mean over the bytes of a vector: a colour for each model, a line for each precision."""
        figure = Figure(figsize=(11, 5), layout="constrained")
        panels = figure.subplots(1, 2)
        for panel, (kind, label) in zip(panels, _KINDS.items(), strict=True):
            for (name, precision), points in self._lines(kind).items():
                colour = f"C{[model.name for model in self._measured].index(name)}"
                marker, line = _PLOTTED[precision]
                style = {"marker": marker, "linestyle": line, "color": colour, "markersize": 4.5, "linewidth": 1.2}
                panel.plot(*zip(*points, strict=True), label=f"{name}, {precision}", **style)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.set(xlabel="bytes a vector", ylabel=f"{label}, %")
            panel.grid(alpha=0.3)
        handles, labels = panels[-1].get_legend_handles_labels()  # retrieval has every line
        figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(self._measured))
        figure.savefig(path, dpi=150)

    def _lines(self, kind: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
        """Model and precision -> bytes and score at each dimension."""
        lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for row in self.rows():
            if row[kind] and row["precision"] in _PLOTTED:
                points = lines.setdefault((row["model"], row["precision"]), [])
                points.append((row["bytes"], row[kind]["score"]))
        return lines


def _shown(mean: Mapping[str, Any] | None) -> list[str]:
    """Score, percent of the other, and difference to it; nothing where nothing was scored or it is the other itself."""
    if mean is None:
        return ["", "", ""]
    difference = f"{mean['difference']:+z.1f} [{mean['low']:+z.1f}, {mean['high']:+z.1f}]"
    itself = mean["low"] == mean["high"] == 0
    return [f"{mean['score']:.1f}", f"{mean['percent']:.1f}", "" if itself else difference]
