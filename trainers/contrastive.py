"""Stages 2 and 3: contrastive training on pairs, with or without hard negatives (paper §4.2)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput

from nomic_bert.embedder import embedder_around
from nomic_bert.training_record import STAGES

from .adapters import encoder_of, is_adapted
from .base import StepTrainer, as_sources, weighted_mean
from .chunk_budget import CPU_CHUNK_TOKENS, fitting_tokens, free_memory, peak_memory
from .collators import PairCollator
from .contrastive_config import ContrastiveConfig
from .distributed import gather_with_gradient, rank_and_ranks
from .encoders import require_encoder, require_packing
from .grad_cache import PackedTexts, backward_through_chunks, encode
from .losses import LOSS_BYTES, pooled_loss
from .memory import count_contrastive_step, describe_memory
from .negatives import have_negatives
from .record import sources_of_plan
from .sampling import BatchPlan, EvaluationBatches, TrainBatches

Evaluator = Callable[[SentenceTransformer], Mapping[str, float]]


class ContrastiveTrainer(StepTrainer):
    """Trains an encoder with InfoNCE over single-source global batches.

    Datasets have the columns `query` and `document`, and `negatives` (a list of texts) where hard negatives are used.
    The gradient equals that of the whole global batch in one piece, for any `chunk_tokens` and number of ranks. Logs
    the loss and the in-batch accuracy by source, the share of texts that were cut, and tokens a second. Evaluation
    gives `eval_loss` and `eval_accuracy` over pools of `global_batch_size` rows of one source, both by source, and what
    the evaluators give; `metric_for_best_model` may name any of these.

    Args:
        model: an encoder without a head that keeps packed texts apart, or a `peft.PeftModel` of one, of which the
            adapter is trained and saved; `last_hidden_state` is mean-pooled.
        args: the settings.
        train_dataset: one dataset, called "pairs", or source -> dataset; None: only evaluate.
        eval_dataset: likewise.
        processing_class: a fast tokenizer.
        evaluators: called with the model as a SentenceTransformer at every evaluation, such as those of
            sentence-transformers; the ranks share them out. Their metrics are logged under `eval_`.
        callbacks: as in Trainer.
        optimizers: as in Trainer.

    Raises:
        ValueError: a column or prefix is missing, a source is smaller than a global batch, a row has no hard negative,
            or the model has a head, ignores `cu_seq_lens_q`, or has weights that cannot be trained.
        TypeError: a source is not a datasets.Dataset, or the model is a SentenceTransformer.
    """

    args: ContrastiveConfig
    host_inputs = frozenset({"input_ids", "lengths"})  # rows are put together on the host

    def __init__(
        self,
        model: PreTrainedModel,
        args: ContrastiveConfig,
        train_dataset: Dataset | Mapping[str, Dataset] | None = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        evaluators: Sequence[Evaluator] = (),
        callbacks: list | None = None,
        optimizers: tuple = (None, None),
    ) -> None:
        require_encoder(model)
        if args.matryoshka_dims and max(args.matryoshka_dims) > model.config.hidden_size:
            raise ValueError(
                f"matryoshka_dims {args.matryoshka_dims}: the model has {model.config.hidden_size} dimensions."
            )
        self.args = args  # the batches are made before Trainer sets its own
        # truncating leaves traces in a tokenizer: the one that is saved must not depend on how often it was used
        self._tokenizer = copy.deepcopy(processing_class)
        self._tallies: dict[str, Tensor] = {}
        self._chunk_tokens = args.chunk_tokens or CPU_CHUNK_TOKENS
        self._evaluators = evaluators
        if eval_dataset is None and evaluators:
            eval_dataset = {}  # Trainer wants a set to evaluate on
        super().__init__(
            model,
            args,
            None if train_dataset is None else self._train_batches(train_dataset),
            None if eval_dataset is None else self.evaluation_batches(eval_dataset),
            processing_class,
            callbacks,
            optimizers,
        )
        require_packing(model, args.device, self.accelerator.autocast(), self._in_half)

    def _collator(self, prompts: dict[str, dict[str, str]], num_hard_negatives: int, seed: int) -> PairCollator:
        args = self.args
        lengths = (args.query_max_length, args.document_max_length)
        with_keys = args.mask_duplicate_documents
        return PairCollator(self._tokenizer, prompts, *lengths, num_hard_negatives, seed, with_keys)

    def _train_batches(self, dataset: Dataset | Mapping[str, Dataset]) -> TrainBatches:
        args = self.args
        columns = ("query", "document", "negatives") if args.num_hard_negatives else ("query", "document")
        sources = as_sources(dataset, "pairs", columns)
        self._skipped = dict.fromkeys(sources, 0)
        if args.num_hard_negatives:
            sources = {source: self._with_negatives(source, rows) for source, rows in sources.items()}
        seed = args.seed if args.data_seed is None else args.data_seed
        counts = {name: len(rows) for name, rows in sources.items()}
        plan = BatchPlan(counts, args.global_batch_size, seed, args.source_weights or {})
        prompts = args.prompts_by_source(list(sources), all_used=True)
        return TrainBatches(sources, plan, self._collator(prompts, args.num_hard_negatives, seed), *rank_and_ranks())

    def _with_negatives(self, source: str, rows: Dataset) -> Dataset:
        found = have_negatives(rows)
        self._skipped[source] = missing = len(rows) - int(found.sum())
        if not missing:
            return rows
        if self.args.rows_without_negatives == "error":
            first = ", ".join(map(str, np.flatnonzero(~found)[:5]))
            raise ValueError(
                f"Source {source!r}: {missing:,} of {len(rows):,} rows have no hard negative other than their own "
                f"document (counted from 0: {first}{', ...' if missing > 5 else ''}). Mine some, or leave these rows "
                "out with rows_without_negatives: skip."
            )
        return rows.select(np.flatnonzero(found))

    def evaluation_batches(self, dataset: Dataset | Mapping[str, Dataset]) -> EvaluationBatches:
        """Pools of pairs, the same in every run; with hard negatives where every source has them."""
        wanted = ("negatives",) if self.args.num_hard_negatives else ()
        sources = as_sources(dataset, "pairs", ("query", "document"), wanted)
        prompts = self.args.prompts_by_source(list(sources), all_used=False)
        mined = all("negatives" in rows.column_names for rows in sources.values())
        collator = self._collator(prompts, self.args.num_hard_negatives if mined else 0, seed=0)
        return EvaluationBatches(sources, self.args.global_batch_size, collator, 0, *rank_and_ranks())

    def before_training(self) -> None:
        """Find the chunk that fits the memory, where none is set; see StepTrainer."""
        if self.args.chunk_tokens is None and self.args.device.type == "cuda":
            self._chunk_tokens = self._fitting_tokens()

    def _fitting_tokens(self) -> int:
        """Tokens of a chunk that this GPU holds beside the optimizer's state, gradients on their way and the loss."""
        args, device = self.args, self.args.device
        model = cast(PreTrainedModel, self.model)
        longest = max(args.query_max_length, args.document_max_length)
        trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
        vectors = args.global_batch_size * (2 + args.num_hard_negatives) * model.config.hidden_size * 4
        # two moments of Adam, and where there are ranks buckets of gradients; vectors of the batch and their
        # gradients, normalized and not, gathered and not
        reserved = (2 + (args.world_size > 1)) * trained + 8 * vectors + LOSS_BYTES

        def encode_and_return(tokens: int) -> None:
            lengths = torch.tensor([longest] * (tokens // longest) + [tokens % longest] * (tokens % longest > 0))
            texts = PackedTexts(torch.zeros(tokens, dtype=torch.long), lengths, device)
            with self.accelerator.autocast():
                pooled = encode(model, texts, tokens)
            pooled.sum().backward()
            model.zero_grad()

        was_training = model.training
        model.train()
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                encode_and_return(128)  # libraries begin, and layers are compiled
                return fitting_tokens(
                    lambda tokens: peak_memory(partial(encode_and_return, tokens), device),
                    free_memory(device),
                    reserved,
                )
        finally:
            model.train(was_training)

    def describe(self) -> list[str]:
        """See StepTrainer."""
        batches, args = self.train_dataset, self.args
        assert batches is not None and isinstance(batches.collator, PairCollator)
        plan = batches.plan
        lines = [
            "Contrastive training: rows, batches an epoch, rows left out of each epoch, prefixes by source",
            *super().describe(),
            f"scale {args.scale:g} (temperature {1 / args.scale:g}), {args.num_hard_negatives} hard negatives a row, "
            f"scope {args.hard_negative_scope}; texts to {args.query_max_length:,} and "
            f"{args.document_max_length:,} tokens, in chunks of {self._chunk_tokens:,}"
            + (" (fit the free memory)" if args.chunk_tokens is None and args.device.type != "cpu" else "")
            + f"; equal documents "
            f"{'are masked' if args.mask_duplicate_documents else 'are negatives'}"
            + (f"; at {', '.join(map(str, args.matryoshka_dims))} dimensions" if args.matryoshka_dims else ""),
            *describe_memory(
                self,
                partial(
                    count_contrastive_step,
                    cast(Any, self.model).config,
                    args,
                    args.world_size,
                    chunk_tokens=self._chunk_tokens,
                ),
                "lower chunk_tokens, which changes no result",
            ),
        ]
        for source, rows in plan.rows.items():
            prompts, weight = batches.collator.prompts[source], plan.weight(source)
            lines.append(
                f"  {source}: {rows:,} rows"
                + (f" x {weight:g}" if weight != 1 else "")
                + f", {plan.batches(source):,} batches, {plan.dropped(source):,} left out, "
                + (f"{self._skipped[source]:,} more without hard negatives, " if self._skipped[source] else "")
                + f"{prompts['query']!r} -> {prompts['document']!r}"
            )
        return lines

    def stage_facts(self) -> dict[str, Any]:
        """See StepTrainer."""
        batches, args = self.train_dataset, self.args
        assert batches is not None and isinstance(batches.collator, PairCollator)
        of_source = {
            source: {
                "query_prefix": prompts["query"],
                "document_prefix": prompts["document"],
                "hard_negatives": args.num_hard_negatives,
                "rows_without_negatives": self._skipped[source],
            }
            for source, prompts in batches.collator.prompts.items()
        }
        return {
            "stage": STAGES[2 if args.num_hard_negatives else 1],
            "sources": sources_of_plan(batches.plan, self.source_details, of_source),
            "hyperparameters": {
                "temperature": 1 / args.scale,
                "query_max_length": args.query_max_length,
                "document_max_length": args.document_max_length,
                "hard_negative_scope": args.hard_negative_scope if args.num_hard_negatives else None,
                "mask_duplicate_documents": args.mask_duplicate_documents,
                "matryoshka_dims": args.matryoshka_dims,
            },
        }

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Loss and gradient of this rank's share of the global batch.

        Raises:
            FloatingPointError: the loss is not finite; names step and source.
        """
        model.train()
        if callable(train_mode := getattr(self.optimizer, "train", None)):
            train_mode()  # schedule-free optimizers have two modes
        inputs = self._prepare_inputs(inputs)
        duplicates = torch.zeros((), device=self.args.device)
        if self.args.mask_duplicate_documents:
            inputs["document_keys"] = keys = self.accelerator.gather(inputs["document_keys"])
            ordered = keys.sort().values
            duplicates += (ordered[1:] == ordered[:-1]).sum()  # unique() would wait for the device
        loss, accuracy = backward_through_chunks(
            model,
            PackedTexts(inputs["input_ids"], inputs["lengths"], self.args.device),
            partial(self._loss, inputs=inputs, gather=True),
            self._chunk_tokens,
            self.accelerator.backward,
            partial(self.accelerator.no_sync, model),
        )
        self._step_loss += loss
        tally = torch.cat([torch.stack([torch.ones_like(loss), loss, accuracy, duplicates]), inputs["truncated"]])
        source = inputs["source"]
        self._tallies[source] = self._tallies.get(source, 0) + tally
        return loss

    def _loss(self, pooled: Tensor, inputs: dict[str, Any], gather: bool) -> tuple[Tensor, Tensor]:
        """As `pooled_loss`; at evaluation nothing is gathered, for every rank has whole pools of its own."""
        args = self.args
        return pooled_loss(
            pooled,
            inputs["num_queries"],
            args.scale,
            args.hard_negative_scope,
            args.matryoshka_dims,
            inputs.get("document_keys"),
            gather_with_gradient if gather else None,
            rank_and_ranks()[0],
        )

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any] | None,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Sums over the queries of a pool: (1, 2) loss and hits, and (1, 2) their number and the source's place."""
        if inputs is None:
            return None, torch.zeros(1, 2, device=self.args.device), torch.zeros(1, 2, device=self.args.device)
        inputs = self._prepare_inputs(inputs)
        texts = PackedTexts(inputs["input_ids"], inputs["lengths"], self.args.device)
        with torch.no_grad():
            loss, accuracy = self._loss(encode(model, texts, self._chunk_tokens), inputs, gather=False)
        queries = inputs["num_queries"]
        place = list(self._evaluated.sources).index(inputs["source"])
        weights = torch.tensor([[queries, place]], dtype=torch.float32, device=self.args.device)
        return None, torch.stack([loss, accuracy])[None] * queries, weights

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """See Trainer; the metrics of the evaluators are added."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        assert output.metrics is not None
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self._call_evaluators().items()})
        return output

    @cached_property
    def _embedder(self) -> SentenceTransformer:
        model = self.accelerator.unwrap_model(self.model)
        encoder = plain = encoder_of(model)
        if is_adapted(model):
            with torch.random.fork_rng():  # evaluations change no training
                plain = type(encoder)(encoder.config)
        embedder = embedder_around(
            plain,
            self._tokenizer,
            max_seq_length=min(
                max(self.args.query_max_length, self.args.document_max_length), plain.config.n_positions
            ),
            layer_norm=bool(self.args.matryoshka_dims),
        )
        embedder[0].model = encoder  # an adapter's layers are in it
        return embedder.to(encoder.device)

    def _call_evaluators(self) -> dict[str, float]:
        if not self._evaluators:
            return {}
        rank, ranks = rank_and_ranks()
        found: dict[str, float] = {}
        with self.accelerator.autocast():
            for evaluator in self._evaluators[rank::ranks]:
                found |= {name: float(value) for name, value in evaluator(self._embedder).items()}
        return {name: value for part in gather_object([found]) for name, value in part.items()}

    def summarize(self, sums: EvalPrediction) -> dict[str, float]:
        """In-batch loss and accuracy over all queries, and by source where there are several."""
        totals, (weights, places) = np.asarray(sums.predictions), np.asarray(sums.label_ids).T
        metrics = {}
        for column, name in enumerate(("loss", "accuracy")):
            metrics[name] = weighted_mean(totals[:, column], weights)
            if len(self._evaluated.sources) > 1:
                for place, source in enumerate(self._evaluated.sources):
                    own = places == place
                    metrics[f"{name}_{source}"] = weighted_mean(totals[own, column], weights[own])
        return metrics

    def interval_metrics(self, loss: float, seconds: float) -> dict[str, float]:
        """In-batch accuracy and truncation, and by source loss and accuracy; see StepTrainer."""
        assert self.train_dataset is not None
        sources = sorted(self._tallies)  # the same on every rank: a step has one source
        tallies = torch.stack([self._tallies[source] for source in sources])
        tallies = self.accelerator.reduce(tallies, reduction="sum").cpu()
        self._tallies = {}
        total = tallies.sum(dim=0)
        names = ("accuracy", "duplicate_documents", "truncated_queries", "truncated_documents")
        metrics = dict(zip(names, (total[2:] / total[0]).tolist(), strict=True))
        if not self.args.mask_duplicate_documents:
            del metrics["duplicate_documents"]  # not counted
        if len(self.train_dataset.sources) > 1:
            for source, (steps, loss, accuracy, *_) in zip(sources, tallies.tolist(), strict=True):
                metrics[f"loss_{source}"], metrics[f"accuracy_{source}"] = loss / steps, accuracy / steps
        return metrics
