"""Results of the published weights, and of no others, from report.json of `python -m evaluation.report`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from textfiles.markdown import escaped, number

Report = Mapping[str, Any]
Run = Mapping[str, Any]
_TITLES = {
    "overview": "Overview",
    "mteb": "MTEB",
    "jina_long_context": "Jina's long-context benchmark",
    "loco": "LoCo",
}


def evaluated_models(report: Report, weights: str) -> list[Mapping[str, Any]]:
    """The report's models of these weights; several where they were asked in several ways.

    Raises:
        ValueError: there are none; names the weights and those that the report has.
    """
    models = [model for model in report.get("models") or [] if model.get("weights")]
    found = [model for model in models if model["weights"] == weights]
    if not found:
        there = ", ".join(f"{model['weights']} ({model['label']})" for model in models) or "none"
        raise ValueError(
            f"the report has no results of the weights {weights}; it has {there}. Evaluate this directory and rebuild "
            "the report, or give the report of these weights."
        )
    return found


@dataclass(frozen=True)
class Results:
    """One model of a report: these weights, asked in one way.

    Attributes:
        report: the whole report, for the paper's rows and the notes.
        model: its entry in the report's `models`.
    """

    report: Report
    model: Mapping[str, Any]

    @property
    def runs(self) -> Sequence[Run]:
        """One for each length."""
        return self.model["runs"]

    @property
    def local_tasks(self) -> list[str]:
        """Tasks on files of the evaluator's own."""
        return sorted({task for run in self.runs for task, score in run["scores"].items() if _is_local(score)})

    @property
    def is_on_mteb(self) -> bool:
        """Whether the report's table of MTEB has this model."""
        return any(True for _ in self._own_rows("mteb"))

    def protocols(self) -> list[tuple[Mapping[str, Any], list[str]]]:
        """How the model was asked, with the lengths of the runs that differ in nothing else."""
        found: list[tuple[Mapping[str, Any], Mapping[str, Any], list[str]]] = []
        for run in self.runs:
            protocol = run.get("protocol") or {}
            shown = {name: protocol.get(name) for name in ("prompts", "rules", "rotary_scaling_factor", "dtype",
                                                           "versions")}  # fmt: skip
            for _, other, lengths in found:
                if other == shown:
                    lengths.append(run_length(run))
                    break
            else:
                found.append((protocol, shown, [run_length(run)]))
        return [(protocol, lengths) for protocol, _, lengths in found]

    def paper_tables(self) -> Iterator[dict[str, Any]]:
        """Tables of the paper with this model's rows beside the reported ones."""
        for key, title in _TITLES.items():
            own = list(self._own_rows(key))
            if not own:
                continue
            content = self.report["tables"][key]
            lengths = {row["length"] for row in own}
            reported = [row for row in content["rows"] if row["reported"]]
            # the paper's other lengths say nothing here, unless its table has a length for each model
            shown = own + ([row for row in reported if row["length"] in lengths] or reported)
            with_average = any(row["average"] for row in shown)
            yield {
                "title": title,
                "paper_table": content["paper_table"],
                "header": ["model", "length", *map(escaped, content["columns"]), *["average"] * with_average],
                "rows": [_table_row(row, list(content["columns"]), with_average) for row in shown],
                "tasks": sum(len(tasks) for tasks in content["columns"].values()),
                "incomplete": [row for row in own if row.get("missing")],
            }

    def task_rows(self) -> list[list[str]]:
        """Each task with its metric and its score at each length."""
        tasks = {task: score.get("metric") for run in self.runs for task, score in run["scores"].items()}
        return [
            [escaped(task), escaped(metric or "")]
            + [f"{run['scores'][task]['score']:.2f}" if task in run["scores"] else "" for run in self.runs]
            for task, metric in sorted(tasks.items())
        ]

    def notes(self) -> list[str]:
        """The report's notes that name this model, without the other models that they name."""
        own = {_described(self.model["label"], run["length"]): run["length"] for run in self.runs}
        others = [_described(model["label"], run["length"]) for model in self.report["models"] for run in model["runs"]]
        begins = re.compile("(" + "|".join(map(re.escape, sorted(others, key=len, reverse=True))) + ")(?:, |: )")
        found: set[str] = set()
        for note in (note for notes in (self.report.get("notes") or {}).values() for note in notes):
            named: list[str] = []
            rest = note
            while match := begins.match(rest):
                named, rest = [*named, match[1]], rest[match.end() :]
            lengths = [own[name] for name in named if name in own]
            if lengths:
                at = ", ".join("at an unrecorded length" if n is None else f"at {n:,}" for n in lengths)
                found.add(f"{at}: {escaped(rest)}")
        return sorted(found)

    def hub_scores(self) -> Iterator[EvalResult]:
        """Scores on data sets of the hub, for the metadata; runs with the most tasks first.

        A score counts where the report names its data set (`dataset`, a hub name) and task type (`task_type`), and the
        data came from there: those of local files have the revision `local`.
        """
        for run in sorted(self.runs, key=lambda run: (-len(run["scores"]), run["length"] or 0)):
            for task, score in run["scores"].items():
                if _is_local(score) or not score.get("dataset") or not score.get("task_type"):
                    continue
                yield EvalResult(
                    task_type=score["task_type"],
                    dataset_type=score["dataset"],
                    dataset_name=f"MTEB {task}",
                    dataset_config=score.get("subset") or "default",
                    dataset_split=score.get("split") or "test",
                    dataset_revision=score["dataset_revision"],
                    metric_type=score.get("metric") or "main_score",
                    metric_value=score["score"],
                    metric_args={"max_seq_length": run["length"]} if run["length"] else None,
                )

    def _own_rows(self, table: str) -> Iterator[Mapping[str, Any]]:
        rows = ((self.report.get("tables") or {}).get(table) or {}).get("rows") or []
        return (row for row in rows if not row["reported"] and row["model"] == self.model["label"])


def run_length(run: Run) -> str:
    """The length at which a run truncated texts, for people."""
    length, asked = run.get("length"), (run.get("protocol") or {}).get("requested_length")
    if length is None:
        return "an unrecorded length"
    return f"{length:,} tokens" + (f" ({asked:,} were asked for)" if asked and asked != length else "")


def _table_row(row: Mapping[str, Any], columns: Sequence[str], with_average: bool) -> list[str]:
    model = f"{escaped(row['model'])} (paper)" if row["reported"] else "this model"
    cells = [row["cells"][column] for column in columns] + [row["average"]] * with_average
    return [model, number(row["length"] or ""), *map(_cell, cells)]


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell["score"] is None and 0 < cell["present"] < cell["total"]:
        return f"{cell['present']} of {cell['total']} tasks"
    note = f" {escaped(cell['note'])}" if cell.get("note") else ""
    return escaped(cell["shown"]) + note


def _is_local(score: Mapping[str, Any]) -> bool:
    """Whether the data were files, of whatever revision; they may be the hub's by name alone."""
    return str(score.get("dataset_revision") or "local").startswith("local")


def _described(label: str, length: int | None) -> str:
    return label if length is None else f"{label} at {length:,}"
