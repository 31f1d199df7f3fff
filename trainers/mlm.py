"""Stage 1: masked language modelling on packed blocks (paper §4.1)."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from .base import StepArguments, StepTrainer, as_sources, divide_batch, weighted_mean
from .collators import MaskedLMCollator
from .distributed import rank_and_ranks
from .sampling import BatchPlan, EvaluationBatches, TrainBatches

_COLUMNS = ("input_ids", "document_lengths")


@dataclass
class MLMConfig(StepArguments):
    """Settings of `MLMTrainer`, on top of TrainingArguments.

    Where `global_batch_size` is given, `gradient_accumulation_steps` follows from it, from
    `per_device_train_batch_size` and from the number of ranks.

    Attributes:
        mlm_probability: share of ordinary tokens to predict in training.
        eval_mlm_probability: the same at evaluation, where the masks are the same every time.
        attend_across_documents: whether attention runs over whole blocks or stays inside each document.

    Raises:
        ValueError: a global batch that does not divide, or settings that contradict each other.
    """

    mlm_probability: float = field(default=0.30, metadata={"help": "Share of tokens to predict (paper §4.1)."})
    eval_mlm_probability: float = field(default=0.15, metadata={"help": "The same at evaluation, with fixed masks."})
    attend_across_documents: bool = field(
        default=True, metadata={"help": "Attention over whole blocks (the authors' code), or inside each document."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.global_batch_size is None:
            return
        micro_batch = self.per_device_train_batch_size * self.world_size
        accumulation = divide_batch(self, "per_device_train_batch_size x ranks", micro_batch)
        if self.gradient_accumulation_steps not in (1, accumulation):
            raise ValueError(
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} contradicts global_batch_size "
                f"{self.global_batch_size:,}, which asks for {accumulation}. Leave one of them out."
            )
        self.gradient_accumulation_steps = accumulation


class MLMTrainer(StepTrainer):
    """Trains a NomicBertForMaskedLM on blocks.

    Datasets have the columns `input_ids` (the tokens of one block) and `document_lengths` (tokens of each document
    piece in it). The loss is exact under accumulation and over ranks: a sum over the masked tokens of the optimizer
    step, divided by their number. Evaluation gives `eval_loss`, `eval_accuracy` and `eval_perplexity`, over all
    masked tokens of the set.

    Args:
        model: with a masked language modelling head that honours `num_items_in_batch`.
        args: the settings.
        train_dataset: blocks; None: only evaluate.
        eval_dataset: blocks kept aside.
        processing_class: the tokenizer that made the blocks.
        callbacks: as in Trainer.
        optimizers: as in Trainer.

    Raises:
        ValueError: a column is missing, or there are fewer blocks than one global batch.
    """

    args: MLMConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: MLMConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        callbacks: list | None = None,
        optimizers: tuple = (None, None),
    ) -> None:
        self.args, self._tokenizer = args, processing_class  # the batches are made before Trainer sets its own
        super().__init__(
            model,
            args,
            None if train_dataset is None else self._train_batches(train_dataset),
            None if eval_dataset is None else self.evaluation_batches(eval_dataset),
            processing_class,
            callbacks,
            optimizers,
        )
        self.model_accepts_loss_kwargs = True  # counts the masked tokens of a step, over micro-batches and ranks

    def _train_batches(self, dataset: Dataset) -> TrainBatches:
        args = self.args
        sources = as_sources(dataset, "blocks", _COLUMNS)
        rank, ranks = rank_and_ranks()
        batch_size = args.per_device_train_batch_size * ranks * args.gradient_accumulation_steps
        seed = args.seed if args.data_seed is None else args.data_seed
        plan = BatchPlan({name: len(rows) for name, rows in sources.items()}, batch_size, seed)
        collator = MaskedLMCollator(self._tokenizer, args.mlm_probability, args.attend_across_documents, seed)
        return TrainBatches(sources, plan, collator, rank, ranks, args.gradient_accumulation_steps)

    def evaluation_batches(self, dataset: Dataset) -> EvaluationBatches:
        """Blocks with fixed masks, the same in every run."""
        args = self.args
        collator = MaskedLMCollator(
            self._tokenizer, args.eval_mlm_probability, args.attend_across_documents, fixed_masks=True
        )
        sources = as_sources(dataset, "blocks", _COLUMNS)
        return EvaluationBatches(sources, args.per_device_eval_batch_size, collator, 0, *rank_and_ranks())

    def describe(self) -> list[str]:
        """See StepTrainer."""
        batches = self.train_dataset
        assert batches is not None
        blocks = batches.sources["blocks"]
        tokens = len(blocks[0]["input_ids"])
        where = "across documents" if self.args.attend_across_documents else "inside documents"
        return [
            f"Masked language modelling: {len(blocks):,} blocks of {tokens:,} tokens, "
            f"{batches.plan.dropped('blocks'):,} left out of each epoch",
            *super().describe(),
            f"{batches.plan.batch_size * tokens:,} tokens a step, {self.args.mlm_probability:.0%} masked, "
            f"attention {where}",
        ]

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """See Trainer; stops at a loss that is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._stop_unless_finite(loss)
        return loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any] | None,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Sums over the masked tokens of a batch: (1, 2) loss and hits, and (1, 1) their number."""
        sums = torch.zeros(3, device=self.args.device)
        if inputs is not None:
            inputs = self._prepare_inputs(inputs)
            targets = inputs["labels"][inputs["labels"] != -100]
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model(**inputs)
            hits = (output.logits.argmax(dim=-1) == targets).sum()
            sums = torch.stack([output.loss.float() * len(targets), hits.float(), sums[0] + len(targets)])
        return None, sums[None, :2], sums[None, 2:]

    def summarize(self, sums: EvalPrediction) -> dict[str, float]:
        """Loss, accuracy and perplexity over all masked tokens."""
        totals, counts = np.asarray(sums.predictions), np.asarray(sums.label_ids)[:, 0]
        loss, accuracy = weighted_mean(totals[:, 0], counts), weighted_mean(totals[:, 1], counts)
        return {"loss": loss, "accuracy": accuracy, "perplexity": math.exp(min(loss, 700.0))}
