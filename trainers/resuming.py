"""A checkpoint to resume from is whole, fits the model, and is data that runs no code when it is read.

Safetensors reads `model.safetensors` or `adapter_model.safetensors`. torch reads `optimizer.pt`, `scheduler.pt`,
`scaler.pt` and `rng_state*.pth` with `weights_only`, which runs no code. The rest is JSON. There is one exception:
DeepSpeed unpickles its own `global_step*` directories, which can run code.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from textfiles.atomic import remove_leftovers
from textfiles.shards import describe_directory, require_unchanged_files

from .adapters import adapter_weights, is_adapted
from .checkpoints import FILES_FILE

_PICKLED_WEIGHTS = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)
_STATES = (OPTIMIZER_NAME, SCHEDULER_NAME)


class ResumeError(ValueError):
    """A checkpoint that must not be resumed from; the message says why and what to do."""


def require_whole(checkpoint: Path, model: nn.Module) -> None:
    """Refuse a checkpoint that lacks a part, holds pickled weights, or holds the weights of another model.

    Args:
        checkpoint: directory that a trainer of this package wrote, not under DeepSpeed.
        model: that is to be trained on.

    Raises:
        ResumeError: names the file or the weights.
    """
    if not checkpoint.is_dir():
        raise ResumeError(
            f"resume_from_checkpoint: {checkpoint} is not a directory; correct the path, or leave it out."
        )
    remedy = _remedy(checkpoint)
    for name in _PICKLED_WEIGHTS:
        if (checkpoint / name).exists():
            raise ResumeError(f"{checkpoint / name} is a pickle, which can run code. Only safetensors are read.")
    expected, file = (adapter_weights(model), ADAPTER_SAFE_WEIGHTS_NAME) if is_adapted(model) else (
        model.state_dict(), SAFE_WEIGHTS_NAME)  # fmt: skip
    try:
        found = _names_in(checkpoint, file)
    except (OSError, SafetensorError, ValueError) as error:
        raise ResumeError(f"{checkpoint}: its weights cannot be read ({error}). {remedy}") from error
    stored = {value.data_ptr() for name, value in expected.items() if name in found}
    missing = [name for name, value in expected.items() if name not in found and value.data_ptr() not in stored]
    if missing or found - set(expected):
        raise ResumeError(
            f"{checkpoint} holds other weights than the model: missing {_shown(missing)}; "
            f"not in the model {_shown(sorted(found - set(expected)))}. {remedy}"
        )
    for name in _STATES:
        if not (checkpoint / name).is_file():
            raise ResumeError(f"{checkpoint} lacks {name}. {remedy}")
    for path in [checkpoint / name for name in (*_STATES, SCALER_NAME)] + sorted(checkpoint.glob("rng_state*.pth")):
        if path.is_file():
            _require_data(path, remedy)


def describe_files(checkpoint: Path) -> None:
    """Write into a checkpoint, as the last of its files, the size and checksum of each of the others."""
    remove_leftovers(checkpoint)  # of a process that was killed while it did this
    describe_directory(checkpoint / FILES_FILE)


def require_unchanged(checkpoint: Path) -> bool:
    """Refuse a checkpoint whose files differ from those that were written.

    Returns:
        Whether the files are described; they are not if the run was killed between its last two files.

    Raises:
        ResumeError: names the files.
    """
    if not (checkpoint / FILES_FILE).exists():
        return False
    try:
        require_unchanged_files(checkpoint / FILES_FILE, _remedy(checkpoint))
    except ValueError as error:
        raise ResumeError(str(error)) from error
    return True


def read_state(checkpoint: Path) -> TrainerState:
    """The state of the trainer in a checkpoint.

    Raises:
        ResumeError: it is damaged.
    """
    path = checkpoint / TRAINER_STATE_NAME
    try:
        state = TrainerState.load_from_json(str(path))
        numbers = (state.global_step, state.max_steps, state.best_global_step or 0)
        if not all(isinstance(number, int) for number in numbers) or not isinstance(state.log_history, list):
            raise ValueError("other values than a trainer writes")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ResumeError(f"{path} cannot be used ({error}). {_remedy(checkpoint)}") from error
    return state


@contextmanager
def naming_what_does_not_fit(checkpoint: str | None) -> Iterator[None]:
    """Name the checkpoint in an error about states that the optimizer, or another part, does not take."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if checkpoint is None:
            raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ResumeError(
            f"{checkpoint}: the state of the optimizer, the schedule or the random numbers does not fit this run "
            f"({reason}). {_remedy(Path(checkpoint))}"
        ) from error


def _remedy(checkpoint: Path) -> str:
    return f"Remove {checkpoint} to resume from the checkpoint before it, or restore it."


def _names_in(checkpoint: Path, file: str) -> set[str]:
    """Names of the weights, in one file or in several with an index; each file is checked to be whole."""
    index = checkpoint / SAFE_WEIGHTS_INDEX_NAME
    if (checkpoint / file).is_file() or file != SAFE_WEIGHTS_NAME or not index.is_file():
        return _names_in_file(checkpoint / file)
    parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if outside := [part for part in parts if Path(part).name != part]:
        raise ValueError(f"{index.name} leads out of the directory, to {outside[0]}")
    return set().union(*(_names_in_file(checkpoint / part) for part in parts))


def _names_in_file(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:  # also compares the file's size with its header
        return set(file.keys())


def _require_data(path: Path, remedy: str) -> None:
    """Refuse a file that torch cannot read as data."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is cut short, or not written by torch")
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds
        reason = str(error).split("\n", 1)[0]
        raise ResumeError(f"{path} is damaged, or is not mere data and would run code ({reason}). {remedy}") from error


def _shown(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"
