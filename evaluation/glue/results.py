"""GLUE results: reading the runs of a model, and one score a task from them (paper §5.1, Table 2)."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evaluation.glue.protocol import BATCH_SIZES, LEARNING_RATES, SEEDS, Protocol
from evaluation.glue.tasks import GLUE
from textfiles.atomic import read_json
from textfiles.markdown import aligned
from textfiles.settings import is_number

TASKS = {name: task.title for name, task in GLUE.items()}  # Table 2's order and titles
RUNS, SETTINGS, SUMMARY = "runs", "settings.json", "summary.json"
BENCHMARK = "GLUE"  # written in settings.json, by which a directory of results is recognized
ENCODER = "encoder"  # start of a run that starts from the model under test
FROM_MNLI = ("mnli: ", "mnli checkpoint: ")  # how other starts begin: the run that was trained here, or a given one


@dataclass(frozen=True)
class GlueRun:
    """One fine-tuned model's scores; its file also has the history of epochs and the versions of packages.

    Attributes:
        model: label of the model under test.
        weights: hash of its encoder's weights.
        task: GLUE task.
        batch_size: rows of a step.
        learning_rate: at the end of the warmup.
        seed: of head and order.
        epochs: trained.
        start: what training started from: "encoder", or which MNLI checkpoint.
        scores: metric -> fraction, at the end of the last epoch, on the dev set.
        main_metric: the one that Table 2 reports.
        main_score: its value.
        train_rows: rows of the training set.
        dev_rows: rows of the dev set.
        train_loss: mean over the last epoch.
        steps: optimizer steps.
        seconds: of training with the evaluations after each epoch.
        device: what it ran on.
    """

    model: str
    weights: str
    task: str
    batch_size: int
    learning_rate: float
    seed: int
    epochs: int
    start: str
    scores: Mapping[str, float]
    main_metric: str
    main_score: float
    train_rows: int
    dev_rows: int
    train_loss: float
    steps: int
    seconds: float
    device: str


@dataclass(frozen=True)
class GlueTaskSummary:
    """One number of Table 2, and how much of the paper's grid is behind it.

    Attributes:
        task: GLUE task.
        metric: that is reported.
        score: fraction; median over the seeds of the best configuration.
        scores: every metric's median over the same seeds.
        seed_scores: of the best configuration, in ascending order.
        batch_size: of the best configuration.
        learning_rate: of the best configuration.
        seeds: runs of the best configuration.
        configurations: that were compared: those with as many seeds.
        start: what the runs started from.
        epochs: that the runs were trained.
        expected_seeds: in the paper.
        expected_configurations: in the paper.
        expected_start: in the paper, "encoder" or "mnli".
    """

    task: str
    metric: str
    score: float
    scores: Mapping[str, float]
    seed_scores: tuple[float, ...]
    batch_size: int
    learning_rate: float
    seeds: int
    configurations: int
    start: str
    epochs: int
    expected_seeds: int = len(SEEDS)
    expected_configurations: int = len(BATCH_SIZES) * len(LEARNING_RATES)
    expected_start: str = ENCODER

    @property
    def differences(self) -> list[str]:
        """How the number was made differently from the paper's; empty where it was not."""
        found = []
        if self.seeds < self.expected_seeds:
            found.append(f"{self.seeds} of {self.expected_seeds} seeds")
        if self.configurations < self.expected_configurations:
            found.append(f"{self.configurations} of {self.expected_configurations} configurations")
        if self.epochs != Protocol().epochs:
            found.append(f"{self.epochs} of {Protocol().epochs} epochs")
        if self.expected_start != ENCODER and not self.start.startswith(FROM_MNLI):
            found.append(f"started from {self.start}, the paper starts from MNLI")
        return found


def is_glue_directory(directory: Path) -> bool:
    """Whether a directory holds one model's GLUE results."""
    settings = directory / SETTINGS
    if not settings.is_file():
        return False
    try:
        content = read_json(settings, "")
    except ValueError:
        return False
    return content.get("benchmark") == BENCHMARK


def read_runs(directory: Path) -> list[GlueRun]:
    """The finished runs of one model (OUTPUT/<label>), in the order of their names.

    Raises:
        ValueError: a file is not a run's, or is cut off; names it and says what to do.
    """
    files = sorted(file for file in (directory / RUNS).glob("[!.]*.json"))
    return [read_run(file) for file in files]


def read_run(file: Path) -> GlueRun:
    """One run's file; raises as `read_runs` does."""
    remedy = "Remove it and rerun the command."
    content = read_json(file, remedy)
    names = [field.name for field in fields(GlueRun)]
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{file} is not a finished GLUE run: no {', '.join(missing)}. {remedy}")
    if content["task"] not in GLUE:
        raise ValueError(f"{file}: unknown task {content['task']!r}. {remedy}")
    scores = content["scores"].values() if isinstance(content["scores"], dict) else [None]
    for score in (content["main_score"], *scores):
        if not is_number(score, int | float) or not math.isfinite(score):
            raise ValueError(f"{file}: a score is {score!r}, not a number. {remedy}")
    return GlueRun(**{name: content[name] for name in names})


def best_configuration(runs: Iterable[GlueRun]) -> tuple[list[GlueRun], int]:
    """The runs of the batch size and rate with the highest median score over seeds, and how many were compared.

    Only configurations with the most seeds are compared: of an unfinished grid, one lucky seed should not win
    over a median of five. Of equal medians the smaller batch and rate win.

    Args:
        runs: of one task.

    Returns:
        The best configuration's runs in the order of their scores, and the number of configurations compared.
    """
    grouped: dict[tuple[int, float], list[GlueRun]] = {}
    for run in sorted(runs, key=lambda run: (run.batch_size, run.learning_rate, run.main_score, run.seed)):
        grouped.setdefault((run.batch_size, run.learning_rate), []).append(run)
    most = max(map(len, grouped.values()))
    compared = [group for group in grouped.values() if len(group) == most]
    best = max(compared, key=lambda group: statistics.median(run.main_score for run in group))
    return best, len(compared)


def summarise(runs: Iterable[GlueRun]) -> dict[str, GlueTaskSummary]:
    """One number a task, in Table 2's order; tasks without runs are left out.

    Raises:
        ValueError: runs of one task differ in start, model, weights or epochs.
    """
    of_task: dict[str, list[GlueRun]] = {}
    for run in runs:
        of_task.setdefault(run.task, []).append(run)
    return {task: _summarise_task(task, of_task[task]) for task in TASKS if task in of_task}


def _summarise_task(task: str, runs: Sequence[GlueRun]) -> GlueTaskSummary:
    for name in ("model", "weights", "start", "epochs", "main_metric"):
        values = sorted({str(getattr(run, name)) for run in runs})
        if len(values) > 1:
            raise ValueError(
                f"{task}: the runs differ in {name} ({'; '.join(values)}), so they have no common score. Remove the "
                f"unwanted runs ({task}-*.json)."
            )
    best, compared = best_configuration(runs)
    first = best[0]
    return GlueTaskSummary(
        task=task,
        metric=first.main_metric,
        score=statistics.median(run.main_score for run in best),
        scores={name: statistics.median(run.scores[name] for run in best) for name in first.scores},
        seed_scores=tuple(run.main_score for run in best),
        batch_size=first.batch_size,
        learning_rate=first.learning_rate,
        seeds=len(best),
        configurations=compared,
        start=first.start,
        epochs=first.epochs,
        expected_start="mnli" if GLUE[task].from_mnli else ENCODER,
    )


def average(summary: Mapping[str, GlueTaskSummary]) -> float | None:
    """Mean over the eight tasks; None where one is missing, because means over fewer tasks are not comparable."""
    return statistics.fmean(task.score for task in summary.values()) if len(summary) == len(TASKS) else None


def average_note(summary: Mapping[str, GlueTaskSummary]) -> str:
    """The average as text, or why there is none."""
    mean = average(summary)
    return f"{len(summary)} of {len(TASKS)} tasks: no average" if mean is None else f"average {mean:.4f}"


def summary_table(summary: Mapping[str, GlueTaskSummary]) -> str:
    """The summary as lines of text: scores as fractions, the best configuration, differences from the paper."""
    rows = [("task", "score", "metric", "best configuration", "start", "unlike the paper")]
    for name, task in summary.items():
        best = f"batch {task.batch_size}, rate {task.learning_rate:g}"
        rows.append((TASKS[name], f"{task.score:.4f}", task.metric, best, task.start, "; ".join(task.differences)))
    return f"{aligned(rows)}\n{average_note(summary)}"


def summary_content(summary: Mapping[str, GlueTaskSummary]) -> dict[str, Any]:
    """The summary as JSON values."""
    tasks = {}
    for name, task in summary.items():
        tasks[name] = {field.name: getattr(task, field.name) for field in fields(task)}
        tasks[name]["differences"] = task.differences
    return {"tasks": tasks, "average": average(summary), "note": average_note(summary)}
