"""The command for GLUE, once its arguments are read."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from evaluation.glue.data import GlueData
from evaluation.glue.protocol import Grid, Protocol, choose_grid
from evaluation.glue.results import ENCODER, SUMMARY, read_runs, summarise, summary_content, summary_table
from evaluation.glue.sweep import Job, Sweep, jobs_of, work
from evaluation.glue.tasks import GLUE
from nomic_bert.checkpoint_files import require_checkpoint
from textfiles.atomic import write_json
from textfiles.commands import one_line_errors


def run_glue(args: argparse.Namespace) -> None:
    """Do all runs that no other process does.

    Raises:
        SystemExit: a run is not finished.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()  # a fresh head is intended, and would be reported 240 times
    transformers.utils.logging.disable_progress_bar()
    use_one_gpu()
    with one_line_errors():
        sweeps = _sweeps(args)
        jobs = jobs_of(sweeps)
        for sweep in sweeps:
            sweep.prepare()
        _print_missing_mnli(sweeps[0])
        finished = sum(sweep.is_finished(run) for sweep, run in jobs)
        with tqdm(desc="GLUE", total=len(jobs), initial=finished, unit="run", smoothing=0) as bar:
            work(jobs, bar)
        for sweep in sweeps:
            _summarise(sweep)
    _exit_if_unfinished(jobs)


def use_one_gpu() -> None:
    """Hide all GPUs but the first: Trainer would use all of them, for a larger batch size."""
    if torch.cuda.device_count() > 1:
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu] or ["0"]
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
        print(f"Using GPU {gpus[0]}. For the others, start the command again with CUDA_VISIBLE_DEVICES.")


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
            save_steps=args.save_steps,
            tokenizer=args.tokenizer,
            trust_remote_code=args.trust_remote_code,
        )
        for model, label in zip(args.models, labels, strict=True)
    ]


def _check(args: argparse.Namespace, grid: Grid) -> None:
    if args.save_steps < 1:
        raise ValueError("--save_steps must be at least 1.")
    if len(args.models) > 1 and (args.label or args.mnli_start):
        raise ValueError("--label and --mnli_start are for a single model; name only one.")
    if args.label and (Path(args.label).name != args.label or args.label.startswith(".")):
        raise ValueError(f"--label {args.label}: must be the name of a directory, without / and a leading dot.")
    if args.mnli_start and not any(GLUE[task].from_mnli for task in grid.tasks):
        raise ValueError("--mnli_start is for rte, stsb and mrpc; none is among the --tasks.")
    for model in [*args.models, *filter(None, [args.mnli_start])]:
        require_checkpoint(model)


def _label(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model.replace("/", "__")


def _split_and_path(text: str) -> tuple[str, Path]:
    split, equals, path = text.partition("=")
    if not equals or not path:
        raise ValueError(f"--file {text}: write SPLIT=PATH, such as stsb_train=stsb_train.tsv.gz.")
    return split, Path(path)


def _print_missing_mnli(sweep: Sweep) -> None:
    start = sweep.start_from_mnli()
    tasks = [task for task in sweep.grid.tasks if GLUE[task].from_mnli]
    if tasks and start is not None and start.text == ENCODER:
        print(
            f"{', '.join(tasks)} start from the model itself; the paper starts them from MNLI. For that add mnli to "
            "--tasks, or give --mnli_start."
        )


def _summarise(sweep: Sweep) -> None:
    sweep.start_from_mnli()  # refuses runs with other starts
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
    raise SystemExit(f"error: {len(unfinished)} of {len(jobs)} runs are not finished; rerun the command.")
