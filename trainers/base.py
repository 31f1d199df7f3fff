"""What both trainers share: exact batches of the step, checkpoints, finite weights, speed, numbers before step 1."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from accelerate.utils import DynamoBackend
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput, SchedulerType, TrainOutput

from nomic_bert.compiling import compile_layers
from nomic_bert.flash_attention import use_flash_attention_3
from nomic_bert.training_record import STAGE_BEFORE, TRAINING_FILE, read_training, write_training

from . import record, run_settings
from .adapters import refuse_untrainable
from .allocator import keep_freed_memory
from .arguments import StepArguments
from .checkpoints import latest_checkpoint
from .cost import CostMeter
from .finite import require_finite_weights
from .interruption import EXIT_CODE, StopAtSigterm, ignore_sigterm
from .safe import SafeTrainer
from .sampling import EvaluationBatches, StepSampler, TrainBatches
from .stopwatch import Stopwatch

_SPEEDS_OF_ROWS = ("_samples_per_second", "_steps_per_second")


def as_sources(
    dataset: Dataset | Mapping[str, Dataset], name: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Dataset]:
    """One dataset or a mapping of them, as source -> dataset, without the columns that nobody reads.

    Args:
        dataset: what the user gave.
        name: the source's name where one dataset was given.
        columns: that every source must have.
        optional: columns to keep where a source has them.

    Raises:
        ValueError: a column is missing; names the source.
        TypeError: not datasets with a length and random access.
    """
    sources = dict(dataset) if isinstance(dataset, Mapping) else {name: dataset}
    for source, rows in sources.items():
        if not isinstance(rows, Dataset):
            raise TypeError(f"Source {source!r} must be a datasets.Dataset, not {type(rows).__name__}.")
        missing = [column for column in columns if column not in rows.column_names]
        if missing:
            raise ValueError(
                f"Source {source!r} lacks the column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, rows.column_names))}."
            )
        wanted = [column for column in (*columns, *optional) if column in rows.column_names]
        if set(wanted) < set(rows.column_names):  # on tables of many pieces it takes seconds
            sources[source] = rows.select_columns(wanted)
    return sources


class StepTrainer(SafeTrainer):
    """A SafeTrainer over TrainBatches and EvaluationBatches; subclasses add the loss.

    `prediction_step` of a subclass returns sums over a batch and their weights, and `summarize` turns the sums over
    the whole evaluation set into metrics, so that no metric is a mean of batch means.

    A training log has `tokens_per_second`, of all ranks, since the last such log; evaluating and saving do not count.
    With `torch_compile` each layer is compiled on a GPU, not the whole model, which would compile anew for every batch
    shape. On a CPU that takes longer than a short run gains, so layers are compiled there only where a
    `torch_compile_backend` is named.

    What is saved carries a record of its training (`nomic_bert.training_record`), that of the start among it.

    Attributes:
        source_details: source -> what the record shall say of it beside what the trainer knows, as JSON values, such as
            `record.hub_details`. Paths of the machine do not belong there, for the record is published.
    """

    args: StepArguments
    host_inputs: ClassVar[frozenset[str]] = frozenset()  # of a batch, what is read on the host
    train_dataset: TrainBatches | None
    source_details: Mapping[str, Mapping[str, Any]]

    def __init__(
        self,
        model: nn.Module,
        args: StepArguments,
        train_batches: TrainBatches | None,
        eval_batches: EvaluationBatches | None,
        processing_class: PreTrainedTokenizerBase,
        callbacks: list | None,
        optimizers: tuple,
    ) -> None:
        refuse_untrainable(model)
        if args.world_size > 1:
            # accelerate then names no device to DistributedDataParallel, which would copy the offsets of packed rows to
            # it, though they are read on the host; all other inputs are there already
            os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"
        self._start_weights = run_settings.start_of(model) if train_batches is not None else {}
        super().__init__(
            model=model,
            args=args,
            data_collator=_only,
            train_dataset=train_batches,
            eval_dataset=eval_batches,
            processing_class=processing_class,
            compute_metrics=self.summarize,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.source_details = {}
        self._earlier_stages, self._start = record.starting_point(model)
        self._own_optimizers = optimizers
        self._devices: dict[str, int] = {}  # none before training
        self._best_loaded = False
        if train_batches is not None:
            self._refuse_zero_rate()
        self._stopwatch, self._tokens_logged, self._tokens_here = Stopwatch(), 0, 0
        self._sigterm = StopAtSigterm(self.accelerator)
        self._cost = CostMeter(args.device, reads_machine=args.local_process_index == 0)
        self.add_callback(self._sigterm)
        self.add_callback(self._cost)
        if args.torch_compile:
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO  # accelerate would compile the whole
        self._in_half = self.accelerator.mixed_precision != "no" or next(model.parameters()).dtype != torch.float32
        self._flash_attention_3 = self._in_half and use_flash_attention_3(args.device)
        if args.compiles:
            compile_layers(model, str(args.torch_compile_backend), args.torch_compile_mode)

    def evaluation_batches(self, dataset: Any) -> EvaluationBatches:
        """Batches of an evaluation set as the user gave it."""
        raise NotImplementedError

    def summarize(self, sums: EvalPrediction) -> dict[str, float]:
        """Metrics from the sums (`predictions`) and weights (`label_ids`) of all batches, one row a batch."""
        raise NotImplementedError

    def before_training(self) -> None:
        """What a subclass measures or sets back before `describe`; called on every rank."""

    def interval_metrics(self, loss: float, seconds: float) -> dict[str, float]:
        """What a training log gains, over the steps since the last one; called on every rank.

        Args:
            loss: of these steps, over all ranks.
            seconds: that these steps took.
        """
        raise NotImplementedError

    def stage_facts(self) -> dict[str, Any]:
        """What only the subclass knows of its stage: `stage`, `sources` and, of the loss, `hyperparameters`."""
        raise NotImplementedError

    def training_stage(self) -> dict[str, Any]:
        """The stage that this trainer has trained, as `nomic_bert.training_record` has it; resumed as uninterrupted.

        The weights are taken to be those of the last step, or of the best one where that was loaded at the end.
        """
        assert self.train_dataset is not None
        args, state, plan, facts = self.args, self.state, self.train_dataset.plan, self.stage_facts()
        step = state.best_global_step if self._best_loaded else state.global_step
        model = self.model
        assert step is not None and model is not None
        optimizer, schedule = self._own_optimizers
        hyperparameters = {
            "global_batch_size": plan.batch_size,
            **record.schedule_facts(args, state.max_steps, schedule),
            **record.optimizer_facts(args, optimizer),
            "precision": record.precision_name(self.accelerator.mixed_precision, model),
            **record.dropout_facts(model),
            **record.adapter_facts(model),
            "seed": args.seed,
            "data_seed": plan.seed,
            **facts["hyperparameters"],
        }
        return {
            "stage": facts["stage"],
            **self._start,
            "sources": facts["sources"],
            "hyperparameters": hyperparameters,
            "steps": step,
            "scheduled_steps": state.max_steps,
            "epochs": step / plan.steps_per_epoch,
            **record.progress_facts(state, step),
            "processes": args.world_size,
            "devices": self._devices,
            "cost": self._cost.content(args.world_size),
            "versions": record.package_versions(),
            "date": record.today(),
        }

    def training_record(self) -> list[dict[str, Any]]:
        """All stages that the weights have been through, oldest first, this one included once it has begun."""
        return [*self._earlier_stages, *([self.training_stage()] if self._devices and self.state.global_step else [])]

    def describe(self) -> list[str]:
        """The effective numbers of a run, one line each, printed before its first step."""
        assert self.train_dataset is not None
        args, plan = self.args, self.train_dataset.plan
        total, steps = plan.steps(args), plan.steps_per_epoch
        share = plan.batch_size // (args.world_size * args.gradient_accumulation_steps)
        return [
            f"global batch {plan.batch_size:,} rows = {args.world_size} ranks x "
            f"{args.gradient_accumulation_steps} accumulated x {share:,}",
            f"{total:,} steps, {steps:,} an epoch; warmup {args.get_warmup_steps(total):,} steps to learning rate "
            f"{args.learning_rate:g}, then {SchedulerType(args.lr_scheduler_type).value}",
            *(["layers compiled by torch"] if args.compiles else []),
            *(["attention by FlashAttention 3"] if self._flash_attention_3 else []),
            f"precision {record.precision_name(self.accelerator.mixed_precision, cast(nn.Module, self.model))}, "
            + ", ".join(
                f"{name.replace('_', ' ')} {value:g}" for name, value in record.dropout_facts(self.model).items()
            ),
        ]

    def _refuse_zero_rate(self) -> None:
        """The first step of a warmup has the learning rate 0: a run of one step would leave the weights as they are."""
        assert self.train_dataset is not None
        is_one_step = self.train_dataset.plan.steps(self.args) == 1
        if is_one_step and self.args.get_warmup_steps(1) and self._own_optimizers[1] is None:
            raise ValueError(
                "The run has 1 step, which is warmup with learning rate 0, so nothing would be learned. Set "
                "warmup_steps to 0, or train on more rows or for more epochs."
            )

    def _run_settings(self) -> dict[str, Any]:
        """What the result of the run depends on, as JSON values."""
        assert self.train_dataset is not None and self.model is not None
        return {
            "steps": self.train_dataset.plan.steps(self.args),
            "start": self._start_weights,
            "model": run_settings.model_that_decides(self.model),
            "arguments": run_settings.arguments_that_decide(self.args),
            "data": run_settings.data_of(self.train_dataset.sources),
            "tokenizer": run_settings.words_of(cast(PreTrainedTokenizerBase, self.processing_class)),
        }

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; `resume_from_checkpoint=True` takes the newest complete checkpoint of `output_dir`.

        SIGTERM, to any rank, ends the run after the current optimizer step, with a checkpoint to resume from.

        Resumed at its last step or beyond, a run ends there without another step.

        Raises:
            SystemExit: stopped by SIGTERM; the code is 143, on every rank.
            ResumeError: the checkpoint is damaged, is not mere data, or was trained with other settings.
            ValueError: asked to resume where there is no complete checkpoint, or the ranks' settings or data differ.
            FloatingPointError: the loss, the gradient norm, a weight or the metric of the best model is not finite.
        """
        if self.train_dataset is None:
            raise ValueError(f"{type(self).__name__}.train() needs a train_dataset.")
        if resume_from_checkpoint is True:
            checkpoint = latest_checkpoint(str(self.args.output_dir))
            if checkpoint is None:
                raise ValueError(f"{self.args.output_dir} holds no complete checkpoint to resume from.")
            resume_from_checkpoint = str(checkpoint)
        if not resume_from_checkpoint and (stages := self.training_record()):
            self._earlier_stages, self._start = stages, {"start": STAGE_BEFORE}  # goes on from what it trained before
        self.stage_facts()  # a mistake in source_details shows now, not when the weights are to be saved
        settings = self._run_settings()
        run_settings.require_equal_on_ranks(settings)
        self._start_safely(settings, resume_from_checkpoint or None)
        self._best_loaded, self._devices = False, record.count_devices(self.args.device)
        if self.args.device.type == "cpu":
            keep_freed_memory()
        self.before_training()
        if self.is_world_process_zero():
            print("\n".join(self.describe()), flush=True)
        self._stopwatch, self._tokens_here = Stopwatch(), 0
        before = read_training(str(resume_from_checkpoint)) if resume_from_checkpoint else []
        self._cost.begin(before[-1].get("cost", {}) if before else {})
        with self._sigterm.listening():
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self._gather_tokens()
        self._cost.gather()
        if self._sigterm.stopped:
            if self.is_world_process_zero():
                print(
                    f"SIGTERM: stopped after step {self.state.global_step:,} of {self.state.max_steps:,} and saved "
                    f"{self._checkpoint_directory()}. Start again to go on from there.",
                    flush=True,
                )
            raise SystemExit(EXIT_CODE)
        require_finite_weights(cast(nn.Module, self.model), f"They are not saved. {self._what_is_left()}")
        return output

    def get_train_dataloader(self) -> DataLoader:
        """This rank's micro-batches. Not prepared by accelerate: the batches are each rank's own already."""
        batches = self.train_dataset
        assert batches is not None
        # global_step is right at the start of every epoch, resumed or not
        sampler = StepSampler(
            batches.micro_steps_per_epoch, lambda: self.state.global_step // batches.plan.steps_per_epoch
        )
        return DataLoader(batches, batch_sampler=sampler, worker_init_fn=ignore_sigterm, **self._loader_settings())

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """See Trainer; the first step's data is where the time of training begins."""
        if not self._stopwatch.runs:
            self._tokens_logged = self.state.num_input_tokens_seen
            self._stopwatch.start()
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # Trainer's copies wait until the device has done all that was queued before them
        return {
            name: value.to(self.args.device, non_blocking=True)
            if isinstance(value, Tensor) and name not in self.host_inputs
            else value
            for name, value in inputs.items()
        }

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        # Trainer gathers after every batch, and waits for it; nobody reads the sum before a log or a save
        self._tokens_here += inputs["input_ids"].numel()

    def _gather_tokens(self) -> None:
        """Add what all ranks have seen since the last call; to be called on every rank."""
        tokens, self._tokens_here = self._tokens_here, 0
        if self.args.world_size > 1:
            tokens = int(self.accelerator.reduce(torch.tensor(tokens, device=self.args.device), reduction="sum"))
        self.state.num_input_tokens_seen += tokens

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """See Trainer; training logs gain tokens a second and `interval_metrics`.

        Trainer's own speed, from `start_time` on, is left out: it counts the time of evaluations.
        """
        self._gather_tokens()
        for name in [name for name, value in logs.items() if name.endswith(_SPEEDS_OF_ROWS) and value == 0]:
            del logs[name]  # there were evaluators and no rows, whose number Trainer divides by the time
        if "loss" in logs and self._stopwatch.runs:
            seconds = self._stopwatch.lap()
            tokens = self.state.num_input_tokens_seen - self._tokens_logged
            self._tokens_logged += tokens
            logs |= {"tokens_per_second": tokens / seconds, **self.interval_metrics(logs["loss"], seconds)}
        super().log(logs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate on `eval_dataset`, or on the one given at the start; in the same form."""
        if eval_dataset is not None:
            eval_dataset = self.evaluation_batches(eval_dataset)
        with self._stopwatch.paused():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This rank's evaluation batches."""
        batches = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(batches, EvaluationBatches):
            raise ValueError(f"{type(self).__name__}: evaluation needs an eval_dataset.")
        self._evaluated = batches
        return DataLoader(
            batches,
            batch_sampler=[[i] for i in range(batches.items_per_rank)],
            worker_init_fn=ignore_sigterm,
            generator=torch.Generator(),  # training draws the same random numbers with and without an evaluation
            **self._loader_settings(),
        )

    def _loader_settings(self) -> dict[str, Any]:
        return {
            "collate_fn": _only,
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory,
            "persistent_workers": self.args.dataloader_persistent_workers,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
            "multiprocessing_context": self.args.dataloader_multiprocessing_context,
        }

    def predict(self, *_: Any, **__: Any) -> PredictionOutput:
        """Not offered: use `evaluate` for metrics, and sentence-transformers' `encode` for embeddings."""
        raise NotImplementedError(
            f"{type(self).__name__} has no predict(): use evaluate(dataset) for metrics, nomic_bert.embedder to embed."
        )

    def rows_of_step(self, step: int) -> str:
        """See SafeTrainer."""
        assert self.train_dataset is not None
        plan = self.train_dataset.plan
        epoch, step = divmod(step, plan.steps_per_epoch)
        source, rows = plan.batch(epoch, step)
        first = ", ".join(map(str, rows[:8]))
        return f"source {source!r}, rows {first}, ... (all: train_dataset.plan.batch({epoch}, {step}))"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._gather_tokens()
        self._cost.gather()
        with self._stopwatch.paused():
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        directory = Path(output_dir or str(self.args.output_dir))
        if stages := self.training_record():
            write_training(directory, stages)
        else:
            (directory / TRAINING_FILE).unlink(missing_ok=True)  # of other weights, which these have replaced

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._best_loaded = True


def weighted_mean(sums: np.ndarray, weights: np.ndarray) -> float:
    """Sum of batch sums over sum of weights, in float64; NaN where nothing was counted."""
    total = weights.sum(dtype=np.float64)
    return float(sums.sum(dtype=np.float64) / total) if total else math.nan


def _only(items: list) -> Any:
    """The batch: an item of the dataset is a whole batch."""
    return items[0]
