"""The checkpoints of a run: the newest that is complete, and which ones to keep."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from textfiles.atomic import sync_directory, sync_tree

FILES_FILE = "files.json"  # sizes and checksums of the others, written last


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a training run; None where there is none.

    The trainers here write `trainer_state.json` after every other file of every rank, so a checkpoint is complete if
    that file is whole. A newer incomplete one, left by an interrupted save or a full disk, is passed over with a
    warning that names it. One that was complete once, which its `FILES_FILE` shows, and was damaged since, is not: to
    resume from it is refused, for the user to decide.

    Args:
        output_dir: the run's output directory; it need not exist.
    """
    numbered = _numbered(output_dir)
    for step in sorted(numbered, reverse=True):
        missing = _missing_from(numbered[step], step)
        if missing is None:
            return numbered[step]
        warnings.warn(f"{numbered[step]} cannot be resumed from and is passed over: {missing}.", stacklevel=2)
    return None


def sync_checkpoint(checkpoint: Path) -> None:
    """Wait until a checkpoint, and its name in the output directory, are on the disk."""
    sync_tree(checkpoint)
    sync_directory(checkpoint.parent)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint, if it exists; of a link, what it leads to too. Interrupted, it leaves an incomplete one."""
    if checkpoint.is_dir():
        for name in (FILES_FILE, TRAINER_STATE_NAME):
            (checkpoint / name).unlink(missing_ok=True)
        shutil.rmtree(checkpoint.resolve())
    if checkpoint.is_symlink():
        checkpoint.unlink()


def remove_cut_checkpoints(output_dir: str | Path) -> None:
    """Remove what an interrupted save or removal has left: checkpoints without a whole `trainer_state.json`."""
    for checkpoint in _numbered(output_dir).values():
        if not _is_complete(checkpoint):
            remove_checkpoint(checkpoint)


def remove_older_checkpoints(written: Path, limit: int | None, best: str | None) -> None:
    """Remove checkpoints beyond `limit`, but never the one just written nor the best.

    Incomplete ones, and those of later steps, which a run that was resumed from an earlier step has left behind, go
    first, then the oldest. Times of files decide nothing: copying a directory changes them.

    Args:
        written: the checkpoint that was just written, complete and on the disk.
        limit: `save_total_limit`; None or 0: no limit.
        best: path of the best checkpoint so far, if it is known.
    """
    if not limit:
        return
    kept = {written.resolve()} | ({Path(best).resolve()} if best else set())
    numbered = _numbered(written.parent)
    current = next(step for step, path in numbered.items() if path.resolve() == written.resolve())
    others = [step for step, path in numbered.items() if path.resolve() not in kept]
    incomplete = {step for step in others if not _is_complete(numbered[step])}
    by_worth = sorted(others, key=lambda step: (step not in incomplete, step < current, step))
    surplus = len(others) - max(0, limit - (len(numbered) - len(others)))
    for place, step in enumerate(by_worth):
        if step in incomplete or place < surplus:
            remove_checkpoint(numbered[step])


def _numbered(output_dir: str | Path) -> dict[int, Path]:
    return {
        int(number): path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and (number := path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdigit()
    }


def _is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end, whatever has become of it since."""
    return (checkpoint / FILES_FILE).exists() or _state_of(checkpoint) is not None


def _state_of(checkpoint: Path) -> dict[str, Any] | None:
    """The trainer's state; None where it is missing or cut, and the checkpoint incomplete."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def _missing_from(checkpoint: Path, step: int) -> str | None:
    """What keeps a checkpoint from being resumed; None if nothing does, or what does is damage."""
    if not (checkpoint / FILES_FILE).exists():
        state = _state_of(checkpoint)
        if state is None:
            return f"its {TRAINER_STATE_NAME} is missing or cut short, so the save was interrupted"
        if state.get("global_step") != step:
            return f"its {TRAINER_STATE_NAME} says step {state.get('global_step')}"
    if not any(checkpoint.glob("rng_state*.pth")) and not (checkpoint / SCHEDULER_NAME).exists():
        return "it holds the model without the optimizer's and random states (save_only_model)"
    return None
