"""The files of a model's runs, and what rte, stsb and mrpc start from (paper §5.1: MNLI)."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoModel

import nomic_bert  # noqa: F401  so that Auto classes load our checkpoints by our code
from evaluation.checkpoints import readable_checkpoint
from evaluation.glue.protocol import RunSettings
from evaluation.glue.results import ENCODER, RUNS, best_configuration, read_run
from nomic_bert.identity import weights_hash

_STARTS, _WORK = "starts", "work"
_ARCHITECTURE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")


@dataclass(frozen=True)
class RunFiles:
    """The files of the runs in a directory, OUTPUT/<label>."""

    directory: Path

    def result(self, run: RunSettings) -> Path:
        """The result of a finished run."""
        return self.directory / RUNS / f"{run.name}.json"

    def weights(self, run: RunSettings) -> Path:
        """Checkpoint of a finished run that others may start from."""
        return self.directory / _STARTS / run.name

    def work(self, run: RunSettings) -> Path:
        """Checkpoints to resume from."""
        return self.directory / _WORK / run.name

    def lock(self, run: RunSettings) -> Path:
        """Held by the process that trains the run."""
        return self.directory / _WORK / f"{run.name}.lock"

    def error(self, run: RunSettings) -> Path:
        """Traceback of a failed run."""
        return self.directory / _WORK / f"{run.name}.error"

    def remove_work(self, run: RunSettings) -> None:
        """Remove what a finished run no longer needs. A process that has opened its lock finds the result next."""
        shutil.rmtree(self.work(run), ignore_errors=True)
        self.lock(run).unlink(missing_ok=True)

    def forget_errors(self) -> None:
        """Let failed runs be tried again."""
        for error in (self.directory / _WORK).glob("*.error"):
            error.unlink(missing_ok=True)


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        text: as written in results.
        checkpoint: directory or hub name.
    """

    text: str
    checkpoint: str


def given_start(model: str, checkpoint: str, *, trust_remote_code: bool = False) -> Start:
    """A checkpoint that was fine-tuned elsewhere.

    Args:
        model: the model under test.
        checkpoint: directory or hub name.
        trust_remote_code: whether to run the code of their repositories.

    Raises:
        ValueError: it is not of the architecture of `model`.
    """
    with readable_checkpoint(checkpoint):
        tested, given = (
            AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code) for source in (model, checkpoint)
        )
    for name in _ARCHITECTURE:
        expected, found = getattr(tested, name, None), getattr(given, name, None)
        if expected != found:
            raise ValueError(f"--mnli_start {checkpoint} was not made from {model}: {name} is {found}, not {expected}.")
    with readable_checkpoint(checkpoint):
        weights = weights_hash(AutoModel.from_pretrained(checkpoint, trust_remote_code=trust_remote_code))
    return Start(f"mnli checkpoint: {Path(checkpoint).name} ({weights})", checkpoint)


def encoder_start(model: str) -> Start:
    """The model under test."""
    return Start(ENCODER, model)


def best_mnli_start(files: RunFiles, runs: Sequence[RunSettings], needed: bool) -> Start | None:
    """The MNLI run with the median score of the best configuration; None while a run is not finished.

    Of an even number of seeds it is the lower of the middle two. The weights of the other runs are removed.

    Args:
        files: of the model.
        runs: all of MNLI.
        needed: whether a run is going to start from it.

    Raises:
        ValueError: its weights are needed and gone.
    """
    if not all(files.result(run).is_file() for run in runs):
        return None
    best, _ = best_configuration(read_run(files.result(run)) for run in runs)
    median = best[(len(best) - 1) // 2]
    chosen = RunSettings("mnli", median.batch_size, median.learning_rate, median.seed)
    kept = files.weights(chosen)
    if needed and not kept.is_dir():
        raise ValueError(
            f"{kept} is missing: the weights that rte, stsb and mrpc start from (the MNLI run with the median seed of "
            f"the best configuration). Remove {files.result(chosen)} to train that run again."
        )
    for run in runs:
        if run != chosen:
            shutil.rmtree(files.weights(run), ignore_errors=True)
    return Start(f"mnli: {chosen.name}", str(kept))


def check_starts(files: RunFiles, runs: Sequence[RunSettings], start: Start) -> None:
    """Raise a ValueError if a finished run that starts from MNLI started from something else."""
    for run in runs:
        if run.from_mnli and files.result(run).is_file():
            before = read_run(files.result(run)).start
            if before != start.text:
                raise ValueError(
                    f"{files.result(run)} started from {before}, but {run.task} would now start from {start.text}. "
                    "Remove such results to train them again, or choose another --output_dir."
                )
