"""Trains a toy model that waits, inside a step, for the test to send a signal; called by test_interruption.py.

Arguments: the output directory, the number of the step to wait in (0: never), and data loader workers.
"""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tests.trainers.toys import blocks, contrastive_trainer, mlm, mlm_trainer
from trainers.base import StepTrainer

STEPS = 9
GO_ON = "go_on"
_SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
}


class WaitInside(TrainerCallback):
    """Says that a step has begun, and goes on once the test has made a file."""

    def __init__(self, step: int, go_on: Path) -> None:
        self.step, self.go_on = step, go_on

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait(state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait(state.global_step + 1)

    def _wait(self, step: int) -> None:
        if step == self.step:
            self.step = 0
            print("waiting", flush=True)
            while not self.go_on.exists():
                time.sleep(0.01)


def make(stage: str, output_dir: Path, workers: int = 0) -> StepTrainer:
    """Dropout makes the weights depend on the random state; with evaluations at every step, which must not touch it."""
    if stage == "mlm":
        model = mlm(resid_pdrop=0.1)
        return mlm_trainer(output_dir, model, blocks(26), **_SETTINGS, dataloader_num_workers=workers)
    return contrastive_trainer(output_dir, **_SETTINGS, dataloader_num_workers=workers)


def main(stage: str, output_dir: str, wait: str, workers: str) -> None:
    """Train; `final` is written at the end alone."""
    trainer = make(stage, Path(output_dir), int(workers))
    trainer.add_callback(WaitInside(int(wait), Path(output_dir, GO_ON)))
    try:
        trainer.train()
    except SystemExit as stop:
        # the status of the process can differ on several ranks: gloo's threads now and then abort a Python that ends
        print(f"train() exits with {stop.code}", flush=True)
        raise
    trainer.save_model(f"{output_dir}/final")
