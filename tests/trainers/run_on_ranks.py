"""Trains toy models on the ranks that the environment describes; run by test_distributed.py, once for each rank."""

import sys
from pathlib import Path
from typing import Any

import torch

from tests.trainers.toys import KeepGradient, StopAt, contrastive_trainer, logged, mlm_trainer
from trainers.distributed import gather_with_gradient, rank_and_ranks

CONTRASTIVE = {"num_train_epochs": 2, "max_grad_norm": 1.0, "optim": "sgd", "chunk_tokens": 60}
MLM = {"num_train_epochs": 2, "max_grad_norm": 1.0, "optim": "sgd"}
SAVING = {"save_strategy": "steps", "save_steps": 5}


def run(trainer: Any, resume: bool = False) -> dict[str, Any]:
    """Train and evaluate; the first gradient, clipped, what the run logged, and where the weights ended."""
    kept = KeepGradient()
    trainer.add_callback(kept)
    trainer.train(resume_from_checkpoint=resume)
    keys = ("loss", "grad_norm", "accuracy", "accuracy_a", "accuracy_b", "num_input_tokens_seen")
    return {
        "weights": trainer.model.state_dict(),
        "gradient": kept.gradient,
        "logs": {key: logged(trainer, key) for key in keys},
        "eval": trainer.evaluate(),
    }


def gathered_gradient() -> torch.Tensor:
    """Each rank weighs the gathered rows by (rank + 1) x their number: the gradient is the sum over the ranks."""
    rank, ranks = rank_and_ranks()
    rows = torch.full((2, 1), float(rank), requires_grad=True)
    gathered = gather_with_gradient(rows)
    assert gathered.flatten().tolist() == [float(r) for r in range(ranks) for _ in range(2)]
    (gathered.flatten() * torch.arange(2 * ranks) * (rank + 1)).sum().backward()
    return rows.grad.flatten()


def main(output: Path) -> None:
    """Write every result of this rank to `output`/rank<rank>.pt."""
    results: dict[str, Any] = {
        "output": str(output),
        "contrastive": run(contrastive_trainer(output / "contrastive", **CONTRASTIVE, **SAVING)),
        "mlm": run(mlm_trainer(output / "mlm", **MLM, **SAVING)),
        "gathered": gathered_gradient(),
    }
    for name, make, settings in (("contrastive", contrastive_trainer, CONTRASTIVE), ("mlm", mlm_trainer, MLM)):
        killed = make(output / f"{name}-killed", **settings, **SAVING)
        killed.add_callback(StopAt(6))
        try:
            killed.train()
        except KeyboardInterrupt:
            results[f"{name}-resumed"] = run(make(output / f"{name}-killed", **settings, **SAVING), resume=True)
    torch.save(results, output / f"rank{rank_and_ranks()[0]}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
