"""Trains a toy model under the DeepSpeed settings that accelerate was launched with; run by test_zero2.py."""

import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.ops import __compatible_ops__ as available_operators

from tests.trainers.toys import StopAt, logged, mlm_trainer
from trainers import MLMTrainer
from trainers.distributed import rank_and_ranks

# float32, which the config file's "auto" then means; two epochs of 3 steps, accumulation 2 on 2 ranks
SETTINGS: dict[str, Any] = {"num_train_epochs": 2, "optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-3}
CLIPPING = {"clipped": 0.5, "free": 0.0}


def toy_trainer(output_dir: Path, **settings: Any) -> MLMTrainer:
    """A trainer whose model has biases of some size: at 0 they would end as large as the float noise is compared to."""
    trainer = mlm_trainer(output_dir, **SETTINGS, **settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return trainer


def run(output_dir: Path, resume: bool = False, **settings: Any) -> dict[str, Any]:
    """Train; what was logged and where the weights ended."""
    trainer = toy_trainer(output_dir, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return result(trainer)


def result(trainer: MLMTrainer) -> dict[str, Any]:
    return {
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "logs": {key: logged(trainer, key) for key in ("loss", "accuracy", "num_input_tokens_seen")},
        "distributed_type": trainer.accelerator.distributed_type.value,
        "accumulation": trainer.args.gradient_accumulation_steps,
        "eval_loss": trainer.evaluate()["eval_loss"],
    }


def main(output: Path) -> None:
    """Write every result of this rank to `output`/rank<rank>.pt."""
    # sums by gloo: to build DeepSpeed's own for CPUs takes two minutes, and a GPU's ranks do not use it
    available_operators["deepspeed_shm_comm"] = False
    results = {name: run(output / name, max_grad_norm=norm) for name, norm in CLIPPING.items()}
    saving = {"save_strategy": "steps", "save_steps": 2, "max_grad_norm": CLIPPING["clipped"]}
    killed = toy_trainer(output / "killed", **saving)
    killed.add_callback(StopAt(5))
    try:
        killed.train()
    except KeyboardInterrupt:
        results["resumed"] = run(output / "killed", resume=True, **saving)
    torch.save(results, output / f"rank{rank_and_ranks()[0]}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
