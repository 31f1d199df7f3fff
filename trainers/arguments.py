"""TrainingArguments without the settings that would mean something other than they say."""

import enum
import math
from dataclasses import dataclass

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from nomic_bert.cpu_nomic_bert import has_fast_bfloat16
from textfiles.settings import did_you_mean

_REFUSED = {
    "auto_find_batch_size": "it would change the batch size without being asked",
    "ignore_data_skip": "it would train on rows twice, and skipping rows costs nothing here",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint without it, on all ranks at the same step",
    "label_smoothing_factor": "neither loss of the paper smooths its labels, and it would be ignored",
    "hub_token": "it would be written to logs and checkpoints in plain text; set the environment variable HF_TOKEN",
}
# TrainingArguments refuses other words without a name of the setting.
_WORDS: dict[str, type[enum.Enum]] = {
    "lr_scheduler_type": SchedulerType,
    "optim": OptimizerNames,
    "logging_strategy": IntervalStrategy,
    "eval_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
    "hub_strategy": HubStrategy,
}


@dataclass
class StepArguments(TrainingArguments):
    """What both trainers' settings share, on top of TrainingArguments.

    Attributes:
        global_batch_size: rows of an optimizer step, over all ranks and accumulated micro-batches.
        half_precision: whether to compute in half precision where it is faster: on a GPU bf16 from compute capability 8
            on and fp16 before, on a CPU bf16 if it has instructions for it (AVX512-BF16, AMX). The weights stay in
            float32.
        remove_unused_columns: false, for the collators name the columns that they read.
        logging_nan_inf_filter: true would hide a NaN loss.
        ddp_find_unused_parameters: false, for every parameter is used in every step.
        ddp_timeout: seconds that ranks wait for one another: the first start copies or downloads all sources.
        torch_compile: compile the layers, on a GPU; on a CPU only where `torch_compile_backend` is named too.
        include_num_input_tokens_seen: how tokens are counted; none is padding here.

    Raises:
        ValueError: a setting is refused or invalid.
    """

    global_batch_size: int | None = None
    half_precision: bool = False
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = False
    ddp_find_unused_parameters: bool | None = False
    ddp_timeout: int = 86_400
    include_num_input_tokens_seen: str | bool = "all"
    torch_compile: bool = False

    def __post_init__(self) -> None:
        for name, reason in _REFUSED.items():
            if getattr(self, name):
                raise ValueError(f"{name} is refused: {reason}.")
        for name, kind in _WORDS.items():
            word, known = getattr(self, name), [each.value for each in kind]
            if word not in known:
                raise ValueError(f"{name}: there is no {word!r}; {did_you_mean(str(word), known, 'values')}")
        if self.half_precision:
            self._choose_half()
        self._refuse_half_without_gpu()
        if not torch.accelerator.is_available():
            self.use_cpu = True  # unless it is told, accelerate takes ranks without a GPU for unrelated processes
        self._backend_named = self.torch_compile_backend is not None
        super().__post_init__()
        if self.train_sampling_strategy != "random":
            raise ValueError("train_sampling_strategy is refused: batches are a function of (seed, epoch, step).")
        if not self.average_tokens_across_devices:
            raise ValueError("average_tokens_across_devices is refused: the loss would depend on the number of ranks.")
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs. Start one process for each (`accelerate launch`), or show it "
                "one (CUDA_VISIBLE_DEVICES=0)."
            )
        self._refuse_invalid()

    def _choose_half(self) -> None:
        if self.bf16 or self.fp16:
            raise ValueError("half_precision chooses between bf16 and fp16; leave these out.")
        if torch.cuda.is_available() and not self.use_cpu:
            self.bf16 = torch.cuda.get_device_capability() >= (8, 0)
            self.fp16 = not self.bf16
        elif self.use_cpu or not torch.accelerator.is_available():
            self.bf16 = has_fast_bfloat16()
            self.use_cpu = self.use_cpu or self.bf16  # transformers wants it said

    def _refuse_half_without_gpu(self) -> None:
        if not self.use_cpu and torch.accelerator.is_available():
            return
        if self.fp16:
            raise ValueError(
                "fp16 is for GPUs; on a CPU set half_precision to true instead, for bf16 where it is fast."
            )
        if self.bf16 and not self.use_cpu:  # transformers would refuse it without a key to set
            slow = "" if has_fast_bfloat16() else ", and bf16 to false, for which it has no instructions"
            raise ValueError(f"bf16 is set, and torch sees no GPU. To train on this CPU, set use_cpu to true{slow}.")

    @property
    def compiles(self) -> bool:
        """Whether layers are compiled: as `torch_compile` asks, on this device."""
        return bool(self.torch_compile) and (self.device.type != "cpu" or self._backend_named)

    def _refuse_invalid(self) -> None:
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps must be at least 1, or -1 for num_train_epochs; got {self.max_steps}.")
        above_zero = ["learning_rate", "adam_epsilon"] + (["num_train_epochs"] if self.max_steps == -1 else [])
        for name in above_zero:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}.")
        batches = ("per_device_train_batch_size", "per_device_eval_batch_size")
        for name in (*batches, *(["save_steps"] if self.save_strategy == SaveStrategy.STEPS else [])):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}.")
        for name in ("weight_decay", "max_grad_norm", "warmup_steps", "save_total_limit", "dataloader_num_workers"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ValueError(f"{name} must be 0 or greater, got {getattr(self, name)}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}.")


def divide_batch(args: StepArguments, parts_name: str, parts: int) -> int:
    """`global_batch_size` over a number of parts.

    Raises:
        ValueError: it does not divide.
    """
    total = args.global_batch_size
    assert total is not None
    if total < 1 or total % parts:
        raise ValueError(f"global_batch_size {total:,} does not divide by {parts_name} ({parts:,}).")
    return total // parts
