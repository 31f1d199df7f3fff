"""All GLUE runs of one model: checked before the first, each done once by one process, and resumed."""

import contextlib
import functools
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedTokenizerBase

import nomic_bert  # noqa: F401  so that Auto classes load our checkpoints by our code
from evaluation.glue import starts
from evaluation.glue.data import GlueData, read_file
from evaluation.glue.protocol import STAND_IN, Grid, Protocol, RunSettings
from evaluation.glue.results import BENCHMARK, SETTINGS
from evaluation.glue.settings import begin_directory, versions
from evaluation.glue.starts import RunFiles, Start
from evaluation.glue.tasks import GLUE
from evaluation.glue.training import encode_split, fine_tune
from nomic_bert.identity import weights_hash
from nomic_bert.tokenizer_files import open_tokenizer
from textfiles.atomic import atomic_directory, read_json, write_json
from textfiles.locks import try_lock


@dataclass(kw_only=True)
class Sweep:
    """The GLUE runs of one model.

    Attributes:
        model: directory or hub name under test.
        directory: OUTPUT/<label>, where the results go.
        grid: which runs.
        protocol: what they share.
        data: of the tasks.
        mnli_start: checkpoint that rte, stsb and mrpc begin with, in place of one trained here.
        mnli_stand_in: file of premise, hypothesis and label to train such a checkpoint on.
        save_steps: steps between a run's checkpoints.
    """

    model: str
    directory: Path
    grid: Grid
    protocol: Protocol
    data: GlueData
    mnli_start: str | None = None
    mnli_stand_in: Path | None = None
    save_steps: int
    _start: Start | None = field(default=None, init=False)
    _encoded: tuple[str, dict[str, Dataset]] = field(default=("", {}), init=False)

    @property
    def label(self) -> str:
        """Name of the model in results."""
        return self.directory.name

    @property
    def files(self) -> RunFiles:
        """Where the runs leave their files."""
        return RunFiles(self.directory)

    @functools.cached_property
    def runs(self) -> list[RunSettings]:
        """Every run; first those that decide what others begin with."""
        return [*self._stand_ins, *self.grid.all_runs()]

    @functools.cached_property
    def _stand_ins(self) -> list[RunSettings]:
        grid = self.grid
        run = RunSettings(STAND_IN, grid.batch_sizes[0], grid.learning_rates[-1], grid.seeds[0])
        return [run] if self.mnli_stand_in is not None else []

    def prepare(self) -> None:
        """Check model, data, settings and starts before anything is trained; let failed runs be tried again.

        Raises:
            ValueError: bad data, or a directory that was begun with other settings; says what differs.
            FileNotFoundError: no data, no model.
        """
        torch.manual_seed(0)  # a model with a pooler that the checkpoint lacks has the same hash each time
        weights = weights_hash(AutoModel.from_pretrained(self.model, trust_remote_code=False))
        facts = {"protocol": asdict(self.protocol), "data": self._data_identities(), "versions": versions()}
        begin_directory(self.directory, {"benchmark": BENCHMARK, "model": self.label, "weights": weights, **facts})
        self.start_from_mnli()
        self.files.forget_errors()

    def _data_identities(self) -> dict[str, Any]:
        identities = {}
        splits = [(task, split) for task in self.grid.tasks for split in self.data.splits(task)]
        for task, split in tqdm(splits, desc="Reading GLUE data", unit="split", leave=False, delay=2):
            identities[f"{task}_{split}"] = self.data.read(task, split).identity()
        for run in self._stand_ins:
            assert self.mnli_stand_in is not None
            trained = {"batch_size": run.batch_size, "learning_rate": run.learning_rate, "seed": run.seed}
            identities[STAND_IN] = {**read_file(self.mnli_stand_in, GLUE["mnli"]).identity(), **trained}
        return identities

    def is_finished(self, run: RunSettings) -> bool:
        """Whether a run's result is there."""
        return self.files.result(run).is_file()

    def has_failed(self, run: RunSettings) -> bool:
        """Whether a run ended in an error since the command began."""
        return self.files.error(run).is_file()

    def is_blocked(self, run: RunSettings) -> bool:
        """Whether a run can never begin, since a run failed that it waits for."""
        return self._waits(run) and any(self.has_failed(other) for other in self.runs if other.decides_start)

    def _waits(self, run: RunSettings) -> bool:
        return run.from_mnli and self.start_from_mnli() is None

    def start_from_mnli(self) -> Start | None:
        """What rte, stsb and mrpc begin with; None while the runs that decide it are not finished.

        Raises:
            ValueError: finished runs of these tasks began with something else.
        """
        if self._start is None:
            if self.mnli_start is not None:
                start: Start | None = starts.given_start(self.model, self.mnli_start)
            elif self.mnli_stand_in is not None:
                start = starts.stand_in_start(self.files, self._stand_ins[0], self.mnli_stand_in)
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
        """Do a run if it can begin and no process has it; says whether it was done, or failed, here.

        What goes wrong in a run is printed and kept in its error file, and the other runs go on.
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
                self.files.error(run).write_text(traceback.format_exc(), encoding="utf-8")
                tqdm.write(f"error: {self.label}, {run.name}: {type(error).__name__}: {error}")
                return True
            shutil.rmtree(self.files.work(run), ignore_errors=True)
            lock.unlink()  # a process that has opened it already finds the result next
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
        )
        if run.decides_start and self.mnli_start is None:
            with atomic_directory(self.files.weights(run)) as directory:
                model.save_pretrained(directory)
        write_json(self.files.result(run), self._report(run, start, outcome))

    def _work(self, run: RunSettings, start: Start) -> Path:
        """Directory of a run's checkpoints, without those of a run that began with something else."""
        directory = self.files.work(run)
        note = directory / "start.txt"
        if note.is_file() and note.read_text(encoding="utf-8") != start.text:
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        note.write_text(start.text, encoding="utf-8")
        return directory

    def _report(self, run: RunSettings, start: Start, outcome: dict[str, Any]) -> dict[str, Any]:
        weights = read_json(self.directory / SETTINGS, "Remove it and start the same command again.")["weights"]
        report = {"model": self.label, "weights": weights, **asdict(run), "epochs": self.protocol.epochs}
        report |= {"start": start.text, "scores": outcome["scores"]}
        if run.task in GLUE:
            metric = GLUE[run.task].metric
            report |= {"main_metric": metric, "main_score": outcome["scores"][metric]}
        return {**report, **outcome, "versions": versions()}

    @functools.cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return open_tokenizer(self.model)

    def _splits(self, task: str) -> dict[str, Dataset]:
        """Encoded splits of a task; kept until another task's are asked for."""
        if self._encoded[0] != task:
            if task == STAND_IN:
                assert self.mnli_stand_in is not None
                splits = {"train": read_file(self.mnli_stand_in, GLUE["mnli"])}
            else:
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
