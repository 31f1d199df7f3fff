"""The commands that run mteb tasks, once their arguments are read."""

import argparse
import json
import logging
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from mteb.abstasks import AbsTask

from evaluation.harness.bm25 import Bm25Search
from evaluation.harness.encoder import ProtocolEncoder, load_encoder
from evaluation.harness.endpoint import Endpoint, open_endpoint
from evaluation.harness.runner import Outcome, run_tasks
from evaluation.protocol import LENGTHS, PAPER_BENCHMARK
from evaluation.tasks.lists import BENCHMARKS, benchmark_tasks, resolve_tasks
from evaluation.tasks.local import read_local_tasks
from nomic_bert.prompts import MTEB_PROMPTS
from textfiles.commands import one_line_errors
from textfiles.markdown import counted


def run_mteb(arguments: argparse.Namespace) -> None:
    """Run tasks to one length, and print their scores."""
    quiet_libraries()
    with one_line_errors():
        tasks = chosen_tasks(arguments)
        if arguments.benchmark or not tasks:
            tasks = benchmark_tasks(arguments.benchmark or PAPER_BENCHMARK, data_dir=arguments.data_dir) + tasks
        model = model_at_length(arguments, arguments.max_seq_length)
        outcome = run_tasks(model, tasks, arguments.output_dir, data_dir=arguments.data_dir)
    show_outcome(model, outcome)
    finish(outcome.failures, arguments.output_dir)


def run_long_context(arguments: argparse.Namespace) -> None:
    """Run tasks to several lengths, and print their scores."""
    quiet_libraries()
    failed_at: dict[tuple[str, str], list[int]] = {}  # a data set is missing at every length: told once
    with one_line_errors():
        if arguments.endpoint is not None and arguments.lengths and arguments.tokenizer is None:
            raise ValueError("--lengths of an --endpoint need --tokenizer, with which texts are truncated to them.")
        for length, tasks in _by_length(arguments).items():
            model = model_at_length(arguments, length)
            reads = model.protocol.max_seq_length if isinstance(model, ProtocolEncoder) else None
            if reads is not None and reads < length:
                print(f"{arguments.model} reads {reads} tokens, not {length}.")
            outcome = run_tasks(model, tasks, arguments.output_dir, data_dir=arguments.data_dir)
            show_outcome(model, outcome)
            for failure in outcome.failures.items():
                failed_at.setdefault(failure, []).append(length)
    failures = {_at_lengths(name, lengths): message for (name, message), lengths in failed_at.items()}
    finish(failures, arguments.output_dir)


def _at_lengths(name: str, lengths: list[int]) -> str:
    return f"{name} ({', '.join(map(str, lengths))} tokens)" if any(lengths) else name


def _by_length(arguments: argparse.Namespace) -> dict[int, list[AbsTask]]:
    """Which tasks are read to which length, the shortest first."""
    groups = [(_lengths_of(task), [task]) for task in chosen_tasks(arguments)]
    if arguments.benchmark or not groups:
        for name in [arguments.benchmark] if arguments.benchmark else LENGTHS:
            groups.append((LENGTHS[name], benchmark_tasks(name, data_dir=arguments.data_dir)))
    by_length: dict[int, list[AbsTask]] = {}
    for lengths, tasks in groups:
        # BM25 reads words, and has no length; an endpoint truncates by itself, or not at all
        whole = arguments.model == "bm25" or (arguments.endpoint is not None and arguments.tokenizer is None)
        for length in [0] if whole else arguments.lengths or lengths:
            by_length.setdefault(length, []).extend(tasks)
    return dict(sorted(by_length.items()))


def _lengths_of(task: AbsTask) -> Sequence[int]:
    for name, tasks in BENCHMARKS.items():
        if task.metadata.name in tasks:
            return LENGTHS[name]
    return sorted({length for lengths in LENGTHS.values() for length in lengths})


def quiet_libraries() -> None:
    """Silence what libraries print about each task: bars of reading files, and notes about newer tasks."""
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", "The task '.*' is superseded")
    logging.getLogger("mteb.abstasks.abstask").setLevel(logging.ERROR)


def model_at_length(arguments: argparse.Namespace, max_seq_length: int) -> ProtocolEncoder | Bm25Search:
    """The model of a command line, with texts truncated to a length in tokens."""
    if arguments.endpoint is not None:
        return open_endpoint(
            Endpoint(url=arguments.endpoint, model=arguments.model, texts_per_request=arguments.texts_per_request),
            max_seq_length=max_seq_length,
            tokenizer=arguments.tokenizer,
            name=arguments.name,
            rules=arguments.rules,
            prompts=_prompts(arguments.prompts),
        )
    if arguments.model == "bm25":
        return Bm25Search()
    return load_encoder(
        arguments.model,
        max_seq_length=max_seq_length,
        name=arguments.name,
        rules=arguments.rules,
        prompts=_prompts(arguments.prompts),
        rotary_scaling_factor=arguments.rotary_scaling_factor,
        tokens_per_batch=arguments.tokens_per_batch,
        device=arguments.device,
        dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        trust_remote_code=arguments.trust_remote_code,
    )


def chosen_tasks(arguments: argparse.Namespace) -> list[AbsTask]:
    """Tasks that are named one by one, and those of one's own files; none if neither is given."""
    tasks = resolve_tasks(arguments.tasks, data_dir=arguments.data_dir) if arguments.tasks else []
    return tasks + (read_local_tasks(arguments.local_tasks) if arguments.local_tasks else [])


def show_outcome(model: ProtocolEncoder | Bm25Search, outcome: Outcome) -> None:
    """Print the main scores."""
    tokens = model.protocol.max_seq_length if isinstance(model, ProtocolEncoder) else None
    length = f", {tokens} tokens" if tokens else ""
    print(f"\n{model.mteb_model_meta.name}{length}")
    width = max(map(len, outcome.scores), default=0)
    for name, (score, metric) in outcome.scores.items():
        print(f"  {name:{width}}  {score:6.2f}  {metric}")
    for name in outcome.elsewhere:
        print(f"  {name}: running in another process")


def finish(failures: dict[str, str], output_dir: Path) -> None:
    """Print where the results are, and which tasks failed.

    Raises:
        SystemExit: a task failed.
    """
    report = f"python -m evaluation.report {shlex.quote(str(output_dir))}"
    print(f"\nresults: {output_dir}; compare them with the paper's:\n  {report}")
    if failures:
        lines = [f"  {name}: {message}" for name, message in failures.items()]
        raise SystemExit(
            "\n".join([f"error: {counted(len(lines), 'task')} failed; the results of the others are kept:", *lines])
        )


def _prompts(given: str | None) -> dict[str, str] | None:
    if given is None:
        return None
    if given in ("none", "nomic"):
        return {} if given == "none" else MTEB_PROMPTS
    try:
        prompts = json.loads(given)
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
            raise ValueError("not a mapping of names to texts")
    except ValueError as error:
        raise ValueError(
            f"""--prompts {given!r}: {error}; use '{{"query": "query: ", ...}}', none or nomic."""
        ) from error
    return prompts
