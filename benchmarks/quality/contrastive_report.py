"""The tables and the plot of contrastive.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.measure import markdown_table
from benchmarks.quality.contrastive_runs import STAGE_2_ABLATIONS, STAGE_3_ABLATIONS
from benchmarks.quality.contrastive_scores import Draws, EvaluationSets, interval

_MEANS = {"similarity": "STS, mean", "retrieval": "retrieval, mean"}
_STAGES = ("stage 1", "stage 2", "stage 3")
_ABLATIONS = {
    "stage 2": STAGE_2_ABLATIONS,
    "stage 3": {name: changed for name, (changed, _) in STAGE_3_ABLATIONS.items()},
}


class Report:
    """Scores of stages over their seeds, of references and of ablations, and the differences between them.

    Args:
        draws: model -> set -> draws. Models are `stage1-SEED` to `stage3-SEED`, ablations and references; those that
            have not all sets of a kind have no mean of it.
        seeds: the first is the ablations'.
        references: models that were not trained here.
        sets: that were scored.
    """

    def __init__(
        self,
        draws: Mapping[str, Mapping[str, Draws]],
        seeds: Sequence[int],
        references: Sequence[str],
        sets: EvaluationSets,
    ) -> None:
        self._sizes = sets.sizes()
        kinds = {_MEANS["similarity"]: list(sets.similarity), _MEANS["retrieval"]: list(sets.retrieval)}
        self._columns = [column for mean, names in kinds.items() for column in (*names, mean)]
        self._draws: dict[str, dict[str, Draws]] = {}
        for model, by_set in draws.items():
            means = {
                m: np.mean([by_set[s] for s in names], axis=0)
                for m, names in kinds.items()
                if by_set.keys() >= {*names}
            }
            self._draws[model] = {**by_set, **means}
        self._references = references
        self._members = {stage: [f"stage{stage[-1]}-{seed}" for seed in seeds] for stage in _STAGES}
        for stage, members in self._members.items():
            self._draws[stage] = {c: np.mean([self._draws[name][c] for name in members], axis=0) for c in self._columns}

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Row -> column -> `score`, and for a stage, whose score is its seeds' mean, `least` and `most` of them."""
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for name in (*_STAGES, *self._references):
            rows[name] = {}
            for column, draws in self._draws[name].items():
                members = [float(self._draws[member][column][0]) for member in self._members.get(name, [name])]
                rows[name][column] = {"score": float(draws[0]), "least": min(members), "most": max(members)}
        return rows

    def differences(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """`A - B` -> column -> difference and its 95 % interval, of stages' means over seeds."""
        pairs = [("stage 2", "stage 1"), ("stage 3", "stage 2"), *(("stage 3", name) for name in self._references)]
        return {f"{one} - {other}": self._difference(one, other) for one, other in pairs}

    def ablations(self) -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
        """Stage -> ablation -> column -> difference to the first seed's model, and its 95 % interval."""
        return {
            stage: {n: self._difference(n, self._members[stage][0]) for n in names if n in self._draws}
            for stage, names in _ABLATIONS.items()
        }

    def seed_ranges(self) -> dict[str, dict[str, float]]:
        """Stage -> column -> most less least score of its seeds."""
        scores = self.scores()
        return {
            stage: {column: cell["most"] - cell["least"] for column, cell in scores[stage].items()} for stage in _STAGES
        }

    def _difference(self, one: str, other: str) -> dict[str, tuple[float, float, float]]:
        first, second = self._draws[one], self._draws[other]
        return {c: interval(first[c] - second[c]) for c in self._columns if c in first and c in second}

    def figures(self) -> dict[str, Any]:
        """Everything that the tables show, and each model's scores, as JSON values."""
        models = {name: {c: float(d[0]) for c, d in by_set.items()} for name, by_set in self._draws.items()}
        parts = {"scores": self.scores(), "differences": self.differences(), "ablations": self.ablations()}
        return {"models": models, **parts, "seed_ranges": self.seed_ranges()}

    def markdown(self, tokens: int) -> str:
        """The three tables, with what a reader should know about them."""
        seeds = len(self._members["stage 1"])
        header = ["", *self._columns]
        rows = [["pairs or queries", *(f"{self._sizes[c]:,}" if c in self._sizes else "" for c in self._columns)]]
        for name, cells in self.scores().items():
            rows.append([name, *(_score(cells[c]) if c in cells else "" for c in self._columns)])
        differences = [[n, *self._cells(cells)] for n, cells in self.differences().items()]
        changed = []
        for stage, ablations in self.ablations().items():
            ranges = self.seed_ranges()[stage]
            changed.append([f"{stage}: range of {seeds} seeds", *(f"{ranges[c]:.1f}" for c in self._columns)])
            changed += [[f"{stage}: {_ABLATIONS[stage][n]}", *self._cells(c)] for n, c in ablations.items()]
        return "\n\n".join(
            [
                "Spearman's correlation of cosines with judgements for STS, nDCG@10 for retrieval, both in percent; "
                "judgements of retrieval are binary, so Cranfield's grades count alike. Stages: mean of "
                f"{seeds} seeds (least to most). All embedders read {tokens} tokens of a text; BM25 reads all.",
                markdown_table(header, rows),
                "Differences, with 95 % intervals by resampling pairs or queries, those of one document together; "
                "scores are averaged over the seeds first, so the intervals do not hold the chance of a seed:",
                markdown_table(header, differences),
                "One change each, from the first seed, less the model of that seed without the change. One run says "
                "little where a difference is not larger than the range of the seeds:",
                markdown_table(header, changed),
            ]
        )

    def _cells(self, cells: Mapping[str, tuple[float, float, float]]) -> list[str]:
        shown = {column: f"{d:+.1f} [{low:+.1f}, {high:+.1f}]" for column, (d, low, high) in cells.items()}
        return [shown.get(column, "") for column in self._columns]

    def plot(self, path: Path) -> None:
        """Scores by set, and for both means the ablations' differences with the range of the seeds as a band."""
        figure = Figure(figsize=(15, 4.2), layout="constrained")
        left, *others = figure.subplots(1, 3, width_ratios=(1.6, 1, 1))
        for place, (name, cells) in enumerate(self.scores().items()):
            columns = [c for c in self._columns if c in cells]
            across = [self._columns.index(c) + 0.13 * (place - 2) for c in columns]
            shown = [cells[c] for c in columns]
            bars = [[c["score"] - c["least"] for c in shown], [c["most"] - c["score"] for c in shown]]
            marker = "o^sDx+"[place % 6]
            left.errorbar(across, [c["score"] for c in shown], bars, label=name, fmt=marker, markersize=5, elinewidth=1)
        left.set_xticks(range(len(self._columns)), self._columns, rotation=35, ha="right", fontsize=8)
        left.set(ylabel="Spearman or nDCG@10, %")
        left.grid(alpha=0.3)
        left.legend(fontsize=8)
        for number, (panel, column) in enumerate(zip(others, _MEANS.values(), strict=True)):
            self._plot_ablations(panel, column, named=number == 0)
        figure.savefig(path, dpi=150)

    def _plot_ablations(self, panel: Any, column: str, named: bool) -> None:
        labels: list[str] = []
        for stage, ablations in self.ablations().items():
            reach, start = self.seed_ranges()[stage][column], len(labels)
            for name, cells in ablations.items():
                value, low, high = cells[column]
                panel.errorbar(value, -len(labels), xerr=[[value - low], [high - value]], fmt="o", color="tab:blue")
                labels.append(f"{stage}: {_ABLATIONS[stage][name]}")
            if ablations:
                panel.fill_betweenx([0.4 - start, 0.6 - len(labels)], -reach, reach, color="grey", alpha=0.2)
        panel.axvline(0, color="grey", linewidth=1)
        panel.set_yticks([-place for place in range(len(labels))], labels if named else [""] * len(labels), fontsize=8)
        panel.set(title=column, xlabel="difference; grey: range of the seeds")
        panel.grid(alpha=0.3, axis="x")


def _score(cell: Mapping[str, float]) -> str:
    if cell["least"] == cell["most"]:
        return f"{cell['score']:.1f}"
    return f"{cell['score']:.1f} ({cell['least']:.1f} to {cell['most']:.1f})"
