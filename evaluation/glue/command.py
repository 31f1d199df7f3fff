"""What the command line of GLUE does, once its arguments are read."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from evaluation.glue.data import GlueData
from evaluation.glue.protocol import Grid, Protocol, choose_grid
from evaluation.glue.results import ENCODER, SUMMARY, read_runs, summarise, summary_content, summary_table
from evaluation.glue.sweep import Sweep
from evaluation.glue.tasks import GLUE
from evaluation.glue.workers import Job, jobs_of, progress_bar, work, work_in_processes
from nomic_bert.checkpoint_files import require_checkpoint
from textfiles.atomic import write_json
from textfiles.commands import one_line_errors


def run_glue(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Do all runs, or the share of a worker.

    Args:
        args: the command line, read.
        argv: the same as words, for the workers.

    Raises:
        SystemExit: a run is not finished.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()  # a fresh head is meant, and would be told of 240 times
    transformers.utils.logging.disable_progress_bar()
    with one_line_errors():
        sweeps = _sweeps(args)
        jobs = jobs_of(sweeps)
        if args.worker:
            work(jobs)
            return
        for sweep in sweeps:
            sweep.prepare()
        _say_where_mnli_is_missing(sweeps[0])
        _run(jobs, args.processes, argv)
        for sweep in sweeps:
            _summarise(sweep)
    _exit_if_unfinished(jobs)


def _sweeps(args: argparse.Namespace) -> list[Sweep]:
    grid = choose_grid(args.tier, args.tasks, args.batch_sizes, args.learning_rates, args.seeds)
    protocol = Protocol(epochs=args.epochs, max_seq_length=args.max_seq_length, weight_decay=args.weight_decay)
    _check(args, grid)
    labels = [args.label or _label(model) for model in args.models]
    if repeated := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"two models have the label {min(repeated)!r}; run them one by one with --label.")
    data = GlueData(grid.tasks, args.data_dir, dict(map(_split_and_path, args.file)))
    return [
        Sweep(
            model=model,
            directory=args.output_dir / label,
            grid=grid,
            protocol=protocol,
            data=data,
            mnli_start=args.mnli_start,
            mnli_stand_in=args.mnli_stand_in,
            save_steps=args.save_steps,
        )
        for model, label in zip(args.models, labels, strict=True)
    ]


def _check(args: argparse.Namespace, grid: Grid) -> None:
    if args.save_steps < 1 or (args.processes is not None and args.processes < 1):
        raise ValueError("--save_steps and --processes must be at least 1.")
    if len(args.models) > 1 and (args.label or args.mnli_start):
        raise ValueError("--label and --mnli_start belong to one model; give one.")
    if args.label and (Path(args.label).name != args.label or args.label.startswith(".")):
        raise ValueError(f"--label {args.label}: a name of a directory is needed, without / and a leading dot.")
    if args.mnli_stand_in and "mnli" in grid.tasks:
        raise ValueError("--mnli_stand_in is for where mnli is not among the --tasks.")
    if (args.mnli_start or args.mnli_stand_in) and not any(GLUE[task].from_mnli for task in grid.tasks):
        raise ValueError("--mnli_start and --mnli_stand_in are for rte, stsb and mrpc; none is among the --tasks.")
    if args.mnli_stand_in and not args.mnli_stand_in.is_file():
        raise FileNotFoundError(f"--mnli_stand_in {args.mnli_stand_in}: no such file.")
    for model in [*args.models, *filter(None, [args.mnli_start])]:
        require_checkpoint(model)


def _label(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model.replace("/", "__")


def _split_and_path(text: str) -> tuple[str, Path]:
    split, equals, path = text.partition("=")
    if not equals or not path:
        raise ValueError(f"--file {text}: write SPLIT=PATH, such as stsb_train=stsb_train.tsv.gz.")
    return split, Path(path)


def _say_where_mnli_is_missing(sweep: Sweep) -> None:
    start = sweep.start_from_mnli()
    tasks = [task for task in sweep.grid.tasks if GLUE[task].from_mnli]
    if tasks and start is not None and start.text == ENCODER:
        print(
            f"{', '.join(tasks)} start from the model itself; the paper starts them from MNLI. For that add mnli to "
            "--tasks, or give --mnli_start or --mnli_stand_in."
        )


def _run(jobs: Sequence[Job], processes: int | None, argv: Sequence[str]) -> None:
    gpus = torch.cuda.device_count()
    processes = processes or max(gpus, 1)
    if processes == 1 and gpus < 2:  # of several GPUs Trainer would use all, for another batch size
        with progress_bar(jobs) as bar:
            work(jobs, bar)
    else:
        work_in_processes(jobs, processes, [sys.executable, "-m", "evaluation.glue", *argv, "--worker"])


def _summarise(sweep: Sweep) -> None:
    sweep.start_from_mnli()  # refuses runs with other starts than those of now
    summary = summarise(read_runs(sweep.directory))
    write_json(sweep.directory / SUMMARY, {"model": sweep.label, **summary_content(summary)})
    print(f"\n{sweep.label}\n{summary_table(summary)}\n{sweep.directory / SUMMARY}")


def _exit_if_unfinished(jobs: Sequence[Job]) -> None:
    unfinished = [(sweep, run) for sweep, run in jobs if not sweep.is_finished(run)]
    if not unfinished:
        return
    for sweep, run in unfinished:
        reason = f"failed, see {sweep.files.error(run)}" if sweep.has_failed(run) else "not run"
        print(f"{sweep.label}, {run.name}: {reason}", file=sys.stderr)
    raise SystemExit(f"error: {len(unfinished)} of {len(jobs)} runs are not finished; start the command again.")
