"""Run mteb tasks for one model: finished tasks are kept, processes share the tasks, failures are reported last."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mteb
import torch
from mteb.abstasks import AbsTask
from tqdm.auto import tqdm

from evaluation.harness.bm25 import Bm25Search
from evaluation.harness.encoder import ProtocolEncoder
from evaluation.harness.result_cache import AtomicResultCache
from evaluation.tasks.data import loading_error
from textfiles.atomic import remove_leftovers
from textfiles.locks import try_lock


@dataclass
class Outcome:
    """What became of the tasks.

    Attributes:
        scores: of every finished task, in this run or an earlier one: main score in percent, and its name.
        failures: task -> what went wrong.
        elsewhere: tasks that are running in another process.
    """

    scores: dict[str, tuple[float, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)


def run_tasks(
    model: ProtocolEncoder | Bm25Search, tasks: Sequence[AbsTask], output_dir: Path, *, data_dir: Path | None = None
) -> Outcome:
    """Evaluate a model and write results to `output_dir`, task by task, as `AtomicResultCache` does.

    A task with a result is not run again unless its data have another revision, which mteb would overlook. One that
    was interrupted resumes with the embeddings that it had. Several processes with one `output_dir` share the tasks.
    A task that fails does not stop the others.

    Args:
        model: see `evaluation.harness.encoder.load_encoder`.
        tasks: of mteb, or made by `evaluation.tasks`.
        output_dir: root of the results.
        data_dir: where data was looked for, for the message if there are none.

    Raises:
        ValueError: the model cannot do one of the tasks.
    """
    _refuse_unfit(model, tasks)
    remove_leftovers(output_dir)
    cache = AtomicResultCache(output_dir)
    meta = model.mteb_model_meta
    if isinstance(model, ProtocolEncoder):
        cache.write_protocol(meta, model.protocol)
    outcome = Outcome()
    with tqdm(tasks, unit="task") as progress:
        for task in progress:
            name = task.metadata.name
            progress.set_description(name)
            work = output_dir / ".work" / meta.model_name_as_path() / str(meta.revision)
            with try_lock(work / f"{name}.lock") as mine:
                if not mine:
                    outcome.elsewhere.append(name)
                    continue
                if isinstance(model, ProtocolEncoder):
                    model.kept_embeddings = work / name
                _run_task(model, task, cache, outcome, data_dir)
                if name in outcome.scores:
                    shutil.rmtree(work / name, ignore_errors=True)
    return outcome


def _run_task(model: Any, task: AbsTask, cache: AtomicResultCache, outcome: Outcome, data_dir: Path | None) -> None:
    name = task.metadata.name
    try:
        kept = cache.load_task_result(name, model.mteb_model_meta)
    except ValueError as error:
        outcome.failures[name] = str(error)
        return
    try:
        evaluated = mteb.evaluate(
            model,
            task,
            cache=cache,
            co2_tracker=False,
            encode_kwargs={"show_progress_bar": True},
            overwrite_strategy="always" if kept and kept.dataset_revision != task.metadata.revision else "only-missing",
        )
        score = evaluated.task_results[0].get_score(splits=list(task.eval_splits))
        outcome.scores[name] = (100 * score, task.metadata.main_score)
    except torch.OutOfMemoryError as error:
        outcome.failures[name] = f"out of memory; use a smaller --tokens_per_batch ({error})."
    except Exception as error:  # data sets fail in many ways, and hours of other tasks are waiting
        outcome.failures[name] = loading_error(task, error, data_dir).removeprefix(f"{name}: ")


def _refuse_unfit(model: ProtocolEncoder | Bm25Search, tasks: Sequence[AbsTask]) -> None:
    if isinstance(model, Bm25Search):
        unfit = sorted(task.metadata.name for task in tasks if task.metadata.type != "Retrieval")
        if unfit:
            raise ValueError(
                f"BM25 is for retrieval tasks, not {', '.join(unfit)}; name retrieval tasks alone, with --tasks or in "
                "the file of --local_tasks."
            )
