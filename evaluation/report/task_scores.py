"""The score of a task: mteb's main score over one split and the English part, as in its benchmark."""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import mteb
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.results import TaskResult

from evaluation.protocol import PAPER_BENCHMARK
from evaluation.tasks.lists import LOCO, mteb_task_names, resolve_tasks
from evaluation.tasks.local_data import LEFT_OUT

AGGREGATE = "CQADupstackRetrieval"  # one of its tasks, the mean of twelve
# A file does not say which of its metrics is the main one; these are the candidates.
_MAIN_METRICS = (
    "ndcg_at_10",
    "cosine_spearman",
    "accuracy",
    "v_measure",
    "max_ap",
    "map_at_1000",
    "max_over_subqueries_map_at_1000",
)


@dataclass(frozen=True)
class TaskScore:
    """The score of a task.

    Attributes:
        score: main score in percent, over the split and the English part that the benchmark uses.
        metric: which one that is, if known.
        dataset_revision: of the data.
        mteb_version: which evaluated.
        dataset: hub name of the data that the task is about; None for a task on own files.
        task_type: as mteb has it; None likewise.
        split: that counts, or the first of several.
        subset: likewise.
        left_out: what of the user's own files was left out, by its names in `LEFT_OUT`.
    """

    score: float
    metric: str | None
    dataset_revision: str
    mteb_version: str | None
    dataset: str | None
    task_type: str | None
    split: str
    subset: str
    left_out: Mapping[str, int] = field(default_factory=dict)


def task_score(result: TaskResult) -> TaskScore:
    """The score of a task by its benchmark: other splits and languages in the same file do not count.

    Tasks are taken as `evaluation.tasks.lists.resolve_tasks` has them: those of `MTEB(eng, v1)` as in that benchmark
    (MSMARCO on dev), others on test and in English where they have that. Tasks on own files have a single part.

    Raises:
        ValueError: a part of that is missing; says which.
    """
    found = {(split, row["hf_subset"]): row for split, rows in result.scores.items() for row in rows}
    wanted = _evaluated_parts(result.task_name, found)
    values = []
    for split, subset in wanted:
        value = found.get((split, subset), {}).get("main_score")
        if value is None or not math.isfinite(value):
            raise ValueError(f"no score of the split {split!r}" + (f", {subset}" if subset != "default" else ""))
        values.append(float(value))
    first = found[wanted[0]]
    metric = next((name for name in _MAIN_METRICS if first.get(name) == first["main_score"]), None)
    score = 100 * sum(values) / len(values)
    task = known_task(result.task_name)
    split, subset = wanted[0]
    return TaskScore(
        score=score,
        metric=metric,
        dataset_revision=result.dataset_revision,
        mteb_version=result.mteb_version,
        dataset=None if task is None else str(task.metadata.dataset["path"]),
        task_type=None if task is None else str(task.metadata.type),
        split=split,
        subset=subset,
        left_out={name: int(first[name]) for name in LEFT_OUT if name in first},
    )


@functools.cache
def paper_tasks() -> dict[str, AbsTask]:
    """The 56 tasks of `MTEB(eng, v1)`."""
    return {task.metadata.name: task for task in mteb.get_benchmark(PAPER_BENCHMARK).tasks}


@functools.cache
def aggregate_parts() -> tuple[str, ...]:
    """The twelve parts of CQADupstackRetrieval."""
    aggregate = paper_tasks()[AGGREGATE]
    assert isinstance(aggregate, AbsTaskAggregate)
    return tuple(task.metadata.name for task in aggregate.metadata.tasks)


@functools.cache
def known_task(name: str) -> AbsTask | None:
    """A task with the split and the subsets that count; None if neither mteb nor this package has it."""
    if name in paper_tasks():
        return paper_tasks()[name]
    if name in LOCO or name in mteb_task_names():
        return resolve_tasks([name])[0]
    return None


def _evaluated_parts(name: str, found: Collection[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Split and subset of everything that counts."""
    task = known_task(name)
    if task is not None:
        return [(split, subset) for split in task.eval_splits for subset in task.hf_subsets]
    if len(found) != 1:
        raise ValueError(f"its file has {len(found)} splits and subsets, and which of them count is not known")
    return list(found)
