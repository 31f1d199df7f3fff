"""Which checkpoint to resume from: the newest that was written to its end."""

import json
import warnings
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a training run; None where there is none.

    The trainers here write `trainer_state.json` after every other file of every rank, so a checkpoint is complete if
    that file is whole. A newer incomplete one, left by an interrupted save or a full disk, is passed over with a
    warning that names it.

    Args:
        output_dir: the run's output directory; it need not exist.
    """
    numbered = {
        int(number): path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and (number := path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdigit()
    }
    for step in sorted(numbered, reverse=True):
        missing = _missing_from(numbered[step], step)
        if missing is None:
            return numbered[step]
        warnings.warn(f"{numbered[step]} cannot be resumed from and is passed over: {missing}.", stacklevel=2)
    return None


def _missing_from(checkpoint: Path, step: int) -> str | None:
    """What keeps a checkpoint from being resumed; None if nothing does."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return f"its {TRAINER_STATE_NAME} is missing or cut short, so the save was interrupted"
    if state.get("global_step") != step:
        return f"its {TRAINER_STATE_NAME} says step {state.get('global_step')}"
    if not any(checkpoint.glob("rng_state*.pth")):
        return "it holds the model without the optimizer's and random states (save_only_model)"
    return None
