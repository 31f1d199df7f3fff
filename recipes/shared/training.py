"""What the three stages share around their trainers: resume, train, and leave a whole model behind."""

import os
from collections.abc import Callable
from pathlib import Path

from textfiles.atomic import naming_full_disks
from textfiles.begun import clear_finished, use_alone
from textfiles.commands import one_line_errors
from textfiles.paths import plain_message
from trainers.base import StepTrainer
from trainers.checkpoints import latest_checkpoint
from trainers.resuming import ResumeError

FINAL = "final"


def dropout_settings(dropout: float) -> dict[str, float]:
    """Fields of `NomicBertConfig` for a dropout: the released nomic-bert-2048 says 0.1, the paper trains with 0."""
    return {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}


def train_and_save(trainer: StepTrainer, save: Callable[[Path], None]) -> Path:
    """Train from the newest complete checkpoint of `output_dir`, or from the start, and write `output_dir/final`.

    Args:
        trainer: ready to train.
        save: writes the finished model to the directory that it is given, whole or not at all; called on the main
            process.

    Returns:
        The directory of the finished model.

    Raises:
        SystemExit: the run is finished already, another process is training in `output_dir`, the checkpoint cannot be
            resumed from, or the run met NaN.
    """
    args = trainer.args
    final = Path(str(args.output_dir), FINAL)
    if final.exists():
        if trainer.is_world_process_zero():
            clear_finished(final.parent)
        raise SystemExit(f"error: {final} exists, so this run is finished. Choose another output_dir or remove it.")
    if trainer.is_world_process_zero():
        with one_line_errors():
            use_alone(final.parent)
    checkpoint = args.resume_from_checkpoint or latest_checkpoint(str(args.output_dir))
    if checkpoint:
        print(f"Resuming from {checkpoint}", flush=True)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else os.fspath(checkpoint))
        if trainer.is_world_process_zero():
            with naming_full_disks(final):
                trainer.save_state()
                save(final)
    except (ResumeError, FloatingPointError, OSError) as error:
        raise SystemExit(f"error: {plain_message(error)}") from error
    trainer.accelerator.wait_for_everyone()
    return final
