"""Stage 1: masked language modelling on packed blocks (paper §4.1)."""

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from nomic_bert import NomicBertConfig
from nomic_bert.flops import matmul_rate, training_flops
from nomic_bert.training_record import STAGES
from nomic_bert.transfers import to_device

from .arguments import StepArguments, divide_batch
from .base import StepTrainer, as_sources, weighted_mean
from .collators import MaskedLMCollator
from .distributed import rank_and_ranks
from .memory import count_mlm_step, describe_memory
from .record import sources_of_plan
from .sampling import BatchPlan, EvaluationBatches, TrainBatches, permute


@dataclass
class MLMConfig(StepArguments):
    """Settings of `MLMTrainer`, on top of TrainingArguments.

    Where `global_batch_size` is given, `gradient_accumulation_steps` follows from it, from
    `per_device_train_batch_size` and from the number of ranks.

    Attributes:
        mlm_probability: share of ordinary tokens to predict in training (paper §4.1).
        eval_mlm_probability: the same at evaluation, where the masks are the same every time.
        attend_across_documents: whether attention runs over whole blocks, as in the authors' code, or stays inside each
            document.
        peak_tflops: what one device reaches at best, in 10^12 FLOP/s, for the logged `mfu`; None: a product of
            matrices in the precision of training is timed before step 1.

    Raises:
        ValueError: a global batch that does not divide, or settings that contradict each other.
    """

    mlm_probability: float = 0.30
    eval_mlm_probability: float = 0.15
    attend_across_documents: bool = True
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        if self.deepspeed:
            raise ValueError(
                "deepspeed is refused: it would be read before the accumulation is known. Launch with "
                "`accelerate launch --config_file recipes/configs/accelerate/zero2.yaml` instead."
            )
        super().__post_init__()
        for name in ("mlm_probability", "eval_mlm_probability"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be greater than 0 and less than 1, got {getattr(self, name)}.")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError(f"peak_tflops must be greater than 0, got {self.peak_tflops}.")
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

    Datasets have the columns `input_ids` (the tokens of one block) and, where attention stays inside documents,
    `document_lengths` (tokens of each document piece in it) or else a [CLS] token at each document's start. The loss
    is exact under accumulation and over ranks: a sum over the masked tokens of the optimizer step, divided by their
    number. Evaluation gives `eval_loss`, `eval_accuracy` and `eval_perplexity`, over all masked tokens of the set.

    A training log has, over the steps since the last one and all ranks: `loss`; `accuracy`, the share of masked tokens
    that the model puts first; `perplexity`, exp of the loss; `tokens_per_second`; and `mfu`, the share of the devices'
    peak FLOP/s that went into the model (`nomic_bert.flops.training_flops`).

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
    host_inputs = frozenset({"cu_seq_lens_q"})  # the model reads offsets on the host without waiting for a GPU

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
        self._peak: float | None = None  # FLOP/s of all ranks
        # since the last log, on this rank: hits, masked tokens, tokens, and lengths attended over summed over tokens
        self._tally = torch.zeros(4, dtype=torch.int64)
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

    def _blocks(self, dataset: Dataset) -> dict[str, Dataset]:
        """Without `document_lengths` where attention runs across documents; raises where documents cannot be found."""
        inside = not self.args.attend_across_documents
        sources = as_sources(dataset, "blocks", ("input_ids",), ("document_lengths",) if inside else ())
        if inside and "document_lengths" not in sources["blocks"].column_names and self._tokenizer.cls_token_id is None:
            raise ValueError(
                "Source 'blocks' lacks the column 'document_lengths', and the tokenizer has no [CLS] token to find "
                "documents by. Set attend_across_documents, or pack the corpus with recipes/pack_corpus.py."
            )
        return sources

    def _train_batches(self, dataset: Dataset) -> TrainBatches:
        args = self.args
        sources = self._blocks(dataset)
        if not args.attend_across_documents and "document_lengths" not in sources["blocks"].column_names:
            self._warn_of_short_documents(sources["blocks"])
        rank, ranks = rank_and_ranks()
        batch_size = args.per_device_train_batch_size * ranks * args.gradient_accumulation_steps
        seed = args.seed if args.data_seed is None else args.data_seed
        plan = BatchPlan({name: len(rows) for name, rows in sources.items()}, batch_size, seed)
        collator = MaskedLMCollator(self._tokenizer, args.mlm_probability, args.attend_across_documents, seed)
        return TrainBatches(sources, plan, collator, rank, ranks, args.gradient_accumulation_steps)

    def _warn_of_short_documents(self, blocks: Dataset) -> None:
        """The authors' packed data has a [CLS] at each sentence of its books, so nothing longer would be attended."""
        sample = blocks[permute(np.arange(min(len(blocks), 64)), len(blocks), (0,))]["input_ids"]
        documents = sum(1 + ids[1:].count(self._tokenizer.cls_token_id) for ids in sample)
        mean = sum(map(len, sample)) / documents
        warnings.warn(
            f"The blocks have no column 'document_lengths', so a document is taken to start at each [CLS]. These are "
            f"{mean:,.0f} tokens long on average in {len(sample)} blocks, and attention reaches no further. Set "
            "attend_across_documents if that is shorter than your documents.",
            stacklevel=5,
        )

    def evaluation_batches(self, dataset: Dataset) -> EvaluationBatches:
        """Blocks with fixed masks, the same in every run."""
        args = self.args
        collator = MaskedLMCollator(
            self._tokenizer, args.eval_mlm_probability, args.attend_across_documents, fixed_masks=True
        )
        sources = self._blocks(dataset)
        return EvaluationBatches(sources, args.per_device_eval_batch_size, collator, 0, *rank_and_ranks())

    def describe(self) -> list[str]:
        """See StepTrainer."""
        batches = self.train_dataset
        assert batches is not None
        blocks = batches.sources["blocks"]
        tokens = len(blocks[0]["input_ids"])
        where = "across documents" if self.args.attend_across_documents else "inside documents"
        if not self.args.attend_across_documents and "document_lengths" not in blocks.column_names:
            where += ", which start at each [CLS]"
        source = "measured" if self.args.peak_tflops is None else "as set"
        return [
            f"Masked language modelling: {len(blocks):,} blocks of {tokens:,} tokens, "
            f"{batches.plan.dropped('blocks'):,} left out of each epoch",
            *super().describe(),
            f"{batches.plan.batch_size * tokens:,} tokens a step, {self.args.mlm_probability:.0%} masked, "
            f"attention {where}",
            *describe_memory(
                self,
                partial(count_mlm_step, cast(Any, self.model).config, self.args, tokens, self.args.world_size),
                "lower per_device_train_batch_size, which changes no result",
            ),
            *([] if self._peak is None else [f"peak {self._peak / 1e12:,.3g} TFLOP/s of all ranks, {source}"]),
        ]

    def stage_facts(self) -> dict[str, Any]:
        """See StepTrainer."""
        args, batches = self.args, self.train_dataset
        assert batches is not None
        block_size = len(batches.sources["blocks"][0]["input_ids"])
        return {
            "stage": STAGES[0],
            "sources": sources_of_plan(batches.plan, self.source_details, {"blocks": {"block_size": block_size}}),
            "hyperparameters": {
                "mlm_probability": args.mlm_probability,
                "eval_mlm_probability": args.eval_mlm_probability,
                "attend_across_documents": args.attend_across_documents,
            },
        }

    def before_training(self) -> None:
        """Find the peak that `mfu` is a share of; see StepTrainer."""
        self._peak = self._find_peak()
        self._tally = torch.zeros(4, dtype=torch.int64, device=self.args.device)

    def _find_peak(self) -> float:
        """FLOP/s of all ranks; measured on all at once, for on a CPU they share it."""
        args = self.args
        if args.peak_tflops is not None:
            return args.peak_tflops * 1e12 * args.world_size
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}
        precision = half.get(self.accelerator.mixed_precision, cast(PreTrainedModel, self.model).dtype)
        rate = matmul_rate(args.device, precision)
        return float(self.accelerator.reduce(torch.tensor(rate, device=args.device), reduction="sum"))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        labelled = (inputs["labels"].flatten() != -100).nonzero().flatten()  # here nothing waits to know their number
        return super()._prepare_inputs({**inputs, "masked_places": to_device(labelled, self.args.device)})

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        # Trainer's copies to the device, and back of it, wait for it
        if not batch_samples:
            return None
        labelled = torch.stack([(batch["labels"] != -100).sum() for batch in batch_samples]).sum()
        if self.args.world_size == 1:
            return labelled
        return self.accelerator.gather(to_device(labelled, device)).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See Trainer; counts what the next log says of these tokens."""
        labels = inputs["labels"]
        loss, output = super().compute_loss(model, {**inputs, "score_only": True}, True, num_items_in_batch)
        lengths = inputs["cu_seq_lens_q"].diff().long() if "cu_seq_lens_q" in inputs else None
        self._tally[0] += output["hits"]
        self._tally[1] += len(inputs["masked_places"])
        self._tally[2] += labels.numel()
        self._tally[3] += labels.numel() * labels.shape[1] if lengths is None else lengths.square().sum()
        return (loss, output) if return_outputs else loss

    def interval_metrics(self, loss: float, seconds: float) -> dict[str, float]:
        """Masked accuracy, perplexity, and share of peak FLOP/s; see StepTrainer."""
        hits, labelled, tokens, attended = self.accelerator.reduce(self._tally, reduction="sum").tolist()
        self._tally = torch.zeros_like(self._tally)
        assert self._peak is not None
        config = cast(NomicBertConfig, cast(PreTrainedModel, self.model).config)
        return {
            "accuracy": hits / max(labelled, 1),
            "perplexity": _perplexity(loss),
            "mfu": training_flops(config, tokens, attended, labelled) / seconds / self._peak,
        }

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """See Trainer."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss += loss
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
            labelled = len(inputs["masked_places"])
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model(**inputs, score_only=True)
            sums = torch.stack([output.loss.float() * labelled, output.hits.float(), sums[0] + labelled])
        return None, sums[None, :2], sums[None, 2:]

    def summarize(self, sums: EvalPrediction) -> dict[str, float]:
        """Loss, accuracy and perplexity over all masked tokens."""
        totals, counts = np.asarray(sums.predictions), np.asarray(sums.label_ids)[:, 0]
        loss, accuracy = weighted_mean(totals[:, 0], counts), weighted_mean(totals[:, 1], counts)
        return {"loss": loss, "accuracy": accuracy, "perplexity": _perplexity(loss)}


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # beyond, a float overflows
