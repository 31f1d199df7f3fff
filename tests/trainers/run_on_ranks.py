"""Trains toy models on the ranks that the environment describes; called by test_distributed.py, once for each rank."""

from pathlib import Path
from typing import Any

import datasets
import torch

from tests.trainers.toys import KeepGradient, StopAt, contrastive_trainer, logged, mlm_trainer, pairs
from trainers import grad_cache
from trainers.distributed import gather_with_gradient, rank_and_ranks

# 6 rows a step divide by 1, 2 and 3 ranks; 4 steps an epoch
MLM = {"num_train_epochs": 2, "max_grad_norm": 1.0, "optim": "sgd", "global_batch_size": 6}
MLM |= {"per_device_train_batch_size": 1}
CONTRASTIVE = {"num_train_epochs": 2, "max_grad_norm": 1.0, "optim": "sgd", "global_batch_size": 6, "chunk_tokens": 60}
CONTRASTIVE |= {"mask_duplicate_documents": True, "matryoshka_dims": [16, 8]}
SAVING = {"save_strategy": "steps", "save_steps": 5}


def repeating() -> dict[str, datasets.Dataset]:
    """Two sources in which a third of the documents are equal."""
    sources = {"a": pairs(19, seed=1, negatives=[3, 1]), "b": pairs(9, seed=2, negatives=[2])}
    return {
        name: rows.map(lambda row, number: row if number % 3 else {"document": "word1 word2"}, with_indices=True)
        for name, rows in sources.items()
    }


def run(trainer: Any, resume: bool = False) -> dict[str, Any]:
    """Train and evaluate; the first gradient, clipped, what the run logged, and where the weights ended."""
    kept = KeepGradient()
    trainer.add_callback(kept)
    trainer.train(resume_from_checkpoint=resume)
    keys = ("loss", "grad_norm", "accuracy", "accuracy_a", "accuracy_b", "duplicate_documents", "num_input_tokens_seen")
    return {
        "weights": trainer.model.state_dict(),
        "gradient": kept.gradient,
        "logs": {key: logged(trainer, key) for key in keys},
        "eval": trainer.evaluate(),
    }


def closing_loss(output: Path) -> float:
    """The loss that a run gives at its end, when no step was logged."""
    return contrastive_trainer(output, **{**CONTRASTIVE, "logging_steps": 50, "max_steps": 3}).train().training_loss


def count_words(word: str) -> Any:
    """An evaluator that is called on one rank and known to all."""
    return lambda embedder: {word: len(embedder.encode(word)), f"rank_of_{word}": rank_and_ranks()[0]}


def gathered_gradient() -> torch.Tensor:
    """Each rank weighs the gathered rows by (rank + 1) x their number: the gradient is the sum over the ranks."""
    rank, ranks = rank_and_ranks()
    rows = torch.full((2, 1), float(rank), requires_grad=True)
    gathered = gather_with_gradient(rows)
    assert gathered.flatten().tolist() == [float(r) for r in range(ranks) for _ in range(2)]
    (gathered.flatten() * torch.arange(2 * ranks) * (rank + 1)).sum().backward()
    return rows.grad.flatten()


def refusals(output: Path) -> dict[str, str]:
    """What is said where the ranks see other rows, other numbers of rows, or have other settings."""
    rank, said = rank_and_ranks()[0], {}
    unequal = {"text": {"train": {"a": pairs(19, seed=rank)}}, "rows": {"train": {"a": pairs(19 + rank)}}}
    unequal["seed"] = {"train": {"a": pairs(19)}, "seed": 5 + rank}
    for name, settings in unequal.items():
        trainer = contrastive_trainer(output, **{**CONTRASTIVE, "num_hard_negatives": 0, **settings})
        try:
            trainer.train()
        except ValueError as error:
            said[name] = str(error)
    return said


def main(output: str) -> None:
    """Write every result of this rank to `output`/rank<rank>.pt."""
    output = Path(output)
    grad_cache._CPU_ROW_TOKENS = 40  # several rows in a chunk of 60 tokens, so several forward passes before a backward
    results: dict[str, Any] = {
        "output": str(output),
        "contrastive": run(
            contrastive_trainer(
                output / "contrastive",
                train=repeating(),
                evaluators=[count_words("word1"), count_words("word2")],
                **CONTRASTIVE,
                **SAVING,
            )
        ),
        "mlm": run(mlm_trainer(output / "mlm", **MLM, **SAVING)),
        "gathered": gathered_gradient(),
        "closing_loss": closing_loss(output / "closing"),
        "refusals": refusals(output / "unequal"),
    }
    resumed = {"contrastive": (contrastive_trainer, {"train": repeating(), **CONTRASTIVE}), "mlm": (mlm_trainer, MLM)}
    for name, (make, settings) in resumed.items() if rank_and_ranks()[1] == 2 else ():
        killed = make(output / f"{name}-killed", **settings, **SAVING)
        killed.add_callback(StopAt(6))
        try:
            killed.train()
        except KeyboardInterrupt:
            results[f"{name}-resumed"] = run(make(output / f"{name}-killed", **settings, **SAVING), resume=True)
    torch.save(results, output / f"rank{rank_and_ranks()[0]}.pt")
