"""All GLUE runs of one model: checked before the first, each trained by one process, and resumed."""

import contextlib
import functools
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedTokenizerBase

import nomic_bert  # noqa: F401  so that Auto classes load our checkpoints by our code
from evaluation.checkpoints import readable_checkpoint
from evaluation.glue import starts
from evaluation.glue.data import GlueData
from evaluation.glue.protocol import Grid, Protocol, RunSettings
from evaluation.glue.results import BENCHMARK, SETTINGS
from evaluation.glue.settings import begin_directory, versions
from evaluation.glue.starts import RunFiles, Start
from evaluation.glue.tasks import GLUE
from evaluation.glue.training import encode_split, fine_tune, open_classifier_tokenizer
from nomic_bert.identity import weights_hash
from textfiles.atomic import read_json, write_json, write_text
from textfiles.locks import try_lock
from textfiles.replacing import replaceable_directory

_POLL_SECONDS = 2.0


@dataclass(kw_only=True)
class Sweep:
    """The GLUE runs of one model.

    Attributes:
        model: directory or hub name under test.
        directory: OUTPUT/<label>, where the results go.
        grid: which runs.
        protocol: what they share.
        data: of the tasks.
        mnli_start: checkpoint that rte, stsb and mrpc start from, in place of one trained here.
        save_steps: steps between a run's checkpoints.
        tokenizer: directory or hub name; None: the model's own.
        trust_remote_code: whether to run the code of the model's repository.
    """

    model: str
    directory: Path
    grid: Grid
    protocol: Protocol
    data: GlueData
    mnli_start: str | None = None
    save_steps: int
    tokenizer: str | None = None
    trust_remote_code: bool = False
    _start: Start | None = field(default=None, init=False)
    _encoded: tuple[str, dict[str, Dataset]] = field(default=("", {}), init=False)

    @property
    def label(self) -> str:
        """Name of the model in results."""
        return self.directory.name

    @property
    def files(self) -> RunFiles:
        """The files of the runs."""
        return RunFiles(self.directory)

    @functools.cached_property
    def runs(self) -> list[RunSettings]:
        """Every run; first those that decide what others start from."""
        return self.grid.all_runs()

    def prepare(self) -> None:
        """Check model, data, settings and starts before anything is trained; let failed runs be tried again.

        Raises:
            ValueError: the data are bad, the model is damaged, or the directory was begun with other settings.
            FileNotFoundError: there are no data, or there is no model.
        """
        torch.manual_seed(0)  # a model with a pooler that the checkpoint lacks has the same hash each time
        with readable_checkpoint(self.model):
            weights = weights_hash(AutoModel.from_pretrained(self.model, trust_remote_code=self.trust_remote_code))
        tokenizer = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        facts = {"protocol": asdict(self.protocol) | tokenizer, "data": self._data_identities(), "versions": versions()}
        begin_directory(self.directory, {"benchmark": BENCHMARK, "model": self.label, "weights": weights, **facts})
        self.start_from_mnli()
        self.files.forget_errors()
        for run in filter(self.is_finished, self.runs):
            self.files.remove_work(run)  # a process may have been killed between the result and this

    def _data_identities(self) -> dict[str, Any]:
        identities = {}
        splits = [(task, split) for task in self.grid.tasks for split in self.data.splits(task)]
        for task, split in tqdm(splits, desc="Reading GLUE data", unit="split", leave=False, delay=2):
            identities[f"{task}_{split}"] = self.data.read(task, split).identity()
        return identities

    def is_finished(self, run: RunSettings) -> bool:
        """Whether a run's result is there."""
        return self.files.result(run).is_file()

    def has_failed(self, run: RunSettings) -> bool:
        """Whether a run ended in an error since the command was started."""
        return self.files.error(run).is_file()

    def is_blocked(self, run: RunSettings) -> bool:
        """Whether a run can never start, because a run failed that it waits for."""
        return self._waits(run) and any(self.has_failed(other) for other in self.runs if other.task == "mnli")

    def _waits(self, run: RunSettings) -> bool:
        return run.from_mnli and self.start_from_mnli() is None

    def start_from_mnli(self) -> Start | None:
        """What rte, stsb and mrpc start from; None while the runs that decide it are not finished.

        Raises:
            ValueError: finished runs of these tasks started from something else.
        """
        if self._start is None:
            if self.mnli_start is not None:
                start: Start | None = starts.given_start(
                    self.model, self.mnli_start, trust_remote_code=self.trust_remote_code
                )
            elif "mnli" in self.grid.tasks:
                needed = any(GLUE[task].from_mnli for task in self.grid.tasks)
                start = starts.best_mnli_start(self.files, self.grid.runs("mnli"), needed)
            else:
                start = starts.encoder_start(self.model)
            if start is not None:
                starts.check_starts(self.files, self.runs, start)
            self._start = start
        return self._start

    def attempt(self, run: RunSettings, show_epochs: bool = False) -> bool:
        """Do a run if it can start and no other process has it; returns whether it was done, or failed, here.

        An error in a run is printed and kept in its error file, and the other runs continue.
        """
        if self._waits(run):
            return False
        lock = self.files.lock(run)
        with try_lock(lock) as mine:
            if not mine or self.is_finished(run) or self.has_failed(run):
                return False
            try:
                with _epoch_bar(run, self.protocol.epochs, show_epochs) as bar:
                    self._train(run, bar)
            except Exception as error:
                tqdm.write(f"error: {self.label}, {run.name}: {type(error).__name__}: {error}")
                write_text(self.files.error(run), traceback.format_exc())  # after it was said: the disk may be full
                return True
            self.files.remove_work(run)
        return True

    def _train(self, run: RunSettings, bar: tqdm | None) -> None:
        start = self.start_from_mnli() if run.from_mnli else starts.encoder_start(self.model)
        assert start is not None
        splits = self._splits(run.task)
        model, outcome = fine_tune(
            run,
            start.checkpoint,
            self._tokenizer,
            splits["train"],
            {name: rows for name, rows in splits.items() if name != "train"},
            self.protocol,
            self._work(run, start),
            save_steps=self.save_steps,
            bar=bar,
            trust_remote_code=self.trust_remote_code,
        )
        if run.task == "mnli" and self.mnli_start is None:
            with replaceable_directory(self.files.weights(run)) as directory:
                model.save_pretrained(directory)
        write_json(self.files.result(run), self._report(run, start, outcome))

    def _work(self, run: RunSettings, start: Start) -> Path:
        """Directory of a run's checkpoints, without those of a run that started from something else."""
        directory = self.files.work(run)
        note = directory / "start.txt"
        if note.is_file() and note.read_text(encoding="utf-8") != start.text:
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(note, start.text)
        return directory

    def _report(self, run: RunSettings, start: Start, outcome: dict[str, Any]) -> dict[str, Any]:
        weights = read_json(self.directory / SETTINGS, "Remove it and rerun the command.")["weights"]
        report = {"model": self.label, "weights": weights, **asdict(run), "epochs": self.protocol.epochs}
        metric = GLUE[run.task].metric
        report |= {"start": start.text, "main_metric": metric, "main_score": outcome["scores"][metric]}
        return {**report, **outcome, "versions": versions()}

    @functools.cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return open_classifier_tokenizer(self.model, self.tokenizer, trust_remote_code=self.trust_remote_code)

    def _splits(self, task: str) -> dict[str, Dataset]:
        """Encoded splits of a task, kept until those of another task are needed."""
        if self._encoded[0] != task:
            splits = {split: self.data.read(task, split) for split in self.data.splits(task)}
            length = self.protocol.max_seq_length
            self._encoded = (task, {name: encode_split(rows, self._tokenizer, length) for name, rows in splits.items()})
        return self._encoded[1]


@contextlib.contextmanager
def _epoch_bar(run: RunSettings, epochs: int, shown: bool) -> Iterator[tqdm | None]:
    """A bar of one run's epochs."""
    if not shown:
        yield None
        return
    with tqdm(desc=run.name, total=epochs, unit="epoch", leave=False, position=1, mininterval=1) as bar:
        yield bar


Job = tuple[Sweep, RunSettings]


def jobs_of(sweeps: Sequence[Sweep]) -> list[Job]:
    """Every run of every model."""
    return [(sweep, run) for sweep in sweeps for run in sweep.runs]


def work(jobs: Sequence[Job], bar: tqdm) -> None:
    """Do runs until all are finished, or failed, or wait for one that has failed.

    Runs that other processes have are waited for. If such a process ends early, this one takes over the run.

    Args:
        jobs: of all models.
        bar: counts finished runs, those of other processes too.
    """
    waiting = False
    while pending := [(sweep, run) for sweep, run in jobs if not sweep.is_finished(run) and not sweep.has_failed(run)]:
        done = 0
        for sweep, run in pending:
            done += sweep.attempt(run, show_epochs=True)
            bar.update(sum(sweep.is_finished(run) for sweep, run in jobs) - bar.n)
        if done:
            continue
        if all(sweep.is_blocked(run) for sweep, run in pending):
            return
        if not waiting:
            tqdm.write(f"Waiting for runs of other processes ({len(pending)} are not finished).")
            waiting = True
        time.sleep(_POLL_SECONDS)
