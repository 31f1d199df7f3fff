"""Processes that share the runs of GLUE: each takes the next run that no other has."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from evaluation.glue.protocol import RunSettings
from evaluation.glue.sweep import Sweep
from textfiles.commands import end_at_sigterm, end_child, ignore_ctrl_c

_POLL_SECONDS = 2.0

Job = tuple[Sweep, RunSettings]


def jobs_of(sweeps: Sequence[Sweep]) -> list[Job]:
    """Every run of every model."""
    return [(sweep, run) for sweep in sweeps for run in sweep.runs]


def work(jobs: Sequence[Job], bar: tqdm | None = None) -> None:
    """Do runs until all are finished, or failed, or wait for one that has failed.

    Runs that other processes have are waited for: should such a process end, this one takes the run over.

    Args:
        jobs: of all models.
        bar: counts finished runs, those of other processes too; with it each run shows its epochs.
    """
    waiting = False
    while pending := [job for job in jobs if _is_open(job)]:
        done = 0
        for sweep, run in pending:
            done += sweep.attempt(run, show_epochs=bar is not None)
            if bar is not None:
                count_finished(jobs, bar)
        if done:
            continue
        if all(sweep.is_blocked(run) for sweep, run in pending):
            return
        if bar is not None and not waiting:
            tqdm.write(f"Waiting for runs of other processes ({len(pending)} are not finished).")
            waiting = True
        time.sleep(_POLL_SECONDS)


def _is_open(job: Job) -> bool:
    sweep, run = job
    return not sweep.is_finished(run) and not sweep.has_failed(run)


def count_finished(jobs: Sequence[Job], bar: tqdm) -> None:
    """Move a bar to the number of finished runs."""
    bar.update(sum(sweep.is_finished(run) for sweep, run in jobs) - bar.n)


def progress_bar(jobs: Sequence[Job]) -> tqdm:
    """A bar over the runs that are not finished yet."""
    finished = sum(sweep.is_finished(run) for sweep, run in jobs)
    return tqdm(desc="GLUE", total=len(jobs), initial=finished, unit="run", smoothing=0)


def work_in_processes(jobs: Sequence[Job], processes: int, command: Sequence[str]) -> None:
    """Start workers, one to a GPU in turn, and wait until they end.

    Args:
        jobs: of all models.
        processes: how many.
        command: that starts one worker.
    """
    end_at_sigterm()
    workers = [
        subprocess.Popen(command, env=_environment(index, processes), preexec_fn=ignore_ctrl_c)
        for index in range(processes)
    ]
    try:
        with progress_bar(jobs) as bar:
            while any(worker.poll() is None for worker in workers):
                count_finished(jobs, bar)
                time.sleep(_POLL_SECONDS)
            count_finished(jobs, bar)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            end_child(worker)
    for worker in workers:
        if worker.returncode < 0:
            print(f"A worker (process {worker.pid}) was ended by signal {-worker.returncode}.", file=sys.stderr)


def _environment(index: int, processes: int) -> dict[str, str]:
    """A worker sees one GPU; without GPUs, the workers share the cores."""
    environment = {**os.environ}
    if gpus := _gpus():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    elif "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    return environment


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process sees."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(index) for index in range(torch.cuda.device_count())]
