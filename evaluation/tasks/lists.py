"""Tasks and benchmarks by name: mteb's, with the paper's splits, subsets and lengths, and ours."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import mteb
from mteb.abstasks import AbsTask
from mteb.get_tasks import TASK_LIST

from evaluation.protocol import PAPER_BENCHMARK
from evaluation.tasks.data import with_data_dir
from evaluation.tasks.loco import LOCO_TASKS
from textfiles.settings import near_name

# paper §5.2.3, Table 5. BigPatentClustering as it was then: its successor .v2 has other data and other scores
JINA_LONG_CONTEXT = ("NarrativeQARetrieval", "WikiCitiesClustering", "SciFact", "BigPatentClustering")
LOCO = tuple(LOCO_TASKS)  # paper §5.2.4, Table 6
# Benchmarks that mteb does not have
BENCHMARKS = {"JinaLongContext": JINA_LONG_CONTEXT, "LoCo": LOCO}


def resolve_tasks(names: Sequence[str], *, data_dir: Path | None = None) -> list[AbsTask]:
    """Tasks by their names, each once, in the order given.

    A task that is in MTEB(eng, v1) has its split and subset: test, but dev of MSMARCO, and English. Others are
    evaluated on test if they have it, and on their English subsets if they have some.

    Args:
        names: of tasks in mteb or LoCo.
        data_dir: where data sets are looked for before the hub is asked; see `with_data_dir`.

    Raises:
        ValueError: a name is unknown; the message has a similar one.
        FileNotFoundError: `data_dir` is not a directory.
    """
    of_paper = {task.metadata.name: task for task in mteb.get_benchmark(PAPER_BENCHMARK).tasks}
    tasks = []
    for name in dict.fromkeys(names):
        if name in LOCO_TASKS:
            task: AbsTask = LOCO_TASKS[name]()
        elif name in of_paper:
            task = of_paper[name]
        elif name in mteb_task_names():
            task = _english_test(mteb.get_task(name))
        else:
            raise _unknown("task", name, [*LOCO_TASKS, *mteb_task_names()])
        tasks.append(with_data_dir(task, data_dir))
    return tasks


def benchmark_tasks(name: str, *, data_dir: Path | None = None) -> list[AbsTask]:
    """The tasks of a benchmark.

    Args:
        name: "JinaLongContext", "LoCo", or the name that mteb has for one, such as "MTEB(eng, v1)" or "NanoBEIR".
        data_dir: as in `resolve_tasks`.

    Raises:
        ValueError: the name is unknown; the message has a similar one.
        FileNotFoundError: `data_dir` is not a directory.
    """
    if name in BENCHMARKS:
        return resolve_tasks(BENCHMARKS[name], data_dir=data_dir)
    known = mteb.get_benchmarks()
    names = [*BENCHMARKS, *(alias for benchmark in known for alias in (benchmark.name, *(benchmark.aliases or ())))]
    if name not in names:
        raise _unknown("benchmark", name, names)
    return [with_data_dir(task, data_dir) for task in mteb.get_benchmark(name).tasks]


def mteb_task_names() -> frozenset[str]:
    """Names of all tasks that mteb has."""
    return frozenset(kind.metadata.name for kind in TASK_LIST)


def _english_test(task: AbsTask) -> AbsTask:
    languages = task.metadata.hf_subsets_to_langscripts
    english = [subset for subset in task.hf_subsets if all(code.startswith("eng-") for code in languages[subset])]
    task.hf_subsets = english or task.hf_subsets
    if "test" in task.metadata.eval_splits:
        task.filter_eval_splits(["test"])
    return task


def _unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    near = near_name(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    return ValueError(
        f"unknown {what} {name!r}; {hint}Ours are {', '.join(BENCHMARKS if what == 'benchmark' else LOCO_TASKS)}; "
        f"mteb's are listed by: mteb available-{what}s"
    )
