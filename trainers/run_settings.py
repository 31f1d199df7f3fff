"""The settings that decide a run's result, and whether two runs are the same: across ranks, and when resuming."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from textfiles.atomic import read_json, write_json
from textfiles.begun import changed_settings

from .adapters import adapter_settings, encoder_of, is_adapted
from .resuming import ResumeError
from .sampling import permute

SETTINGS_FILE = "run_settings.json"
_ROWS_COMPARED = 1024

# Beginnings of the names of arguments that change no weight, or, as the ranks' share of a batch, none beyond float
# noise. `max_steps` and `num_train_epochs` are compared as the number of steps.
_MAY_DIFFER = (
    "max_steps", "num_train_epochs", "per_device_", "gradient_accumulation_steps", "chunk_tokens", "peak_tflops",
    "output_dir", "run_name", "logging_", "log_", "eval_", "save_", "push_to_hub", "hub_", "dataloader_",
    "report_to", "project", "trackio_", "disable_tqdm", "debug", "skip_memory_metrics", "include_", "do_", "use_cpu",
    "ddp_", "deepspeed", "fsdp", "accelerator_config", "parallelism_config", "local_rank", "full_determinism",
    "activation_checkpointing", "gradient_checkpointing", "torch_", "tf32", "use_liger_kernel", "liger_", "use_cache",
    "bf16_full_eval", "fp16_full_eval", "prediction_loss_only", "batch_eval_metrics", "restore_", "remove_unused_",
    "resume_from_checkpoint", "label_names", "length_column_name", "enable_jit_checkpoint", "ignore_data_skip",
)  # fmt: skip
_NOT_OF_THE_MODEL = ("_", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype", "use_cache")


def arguments_that_decide(args: TrainingArguments) -> dict[str, Any]:
    """The settings of a trainer that its result depends on, as JSON values."""
    return {
        each.name: _plain(getattr(args, each.name))
        for each in dataclasses.fields(args)
        if not each.name.startswith(_MAY_DIFFER)
    }


def model_that_decides(model: nn.Module) -> dict[str, Any]:
    """The configuration of a model, and of its adapter, as far as the training depends on it."""
    config = getattr(encoder_of(model), "config", None)
    fields = {} if config is None else config.to_dict()
    settings = {
        name: _plain(value)
        for name, value in fields.items()
        if not name.startswith(_NOT_OF_THE_MODEL) and not name.endswith("token_id")
    }
    return {**settings, **({"adapter": _plain(adapter)} if (adapter := adapter_settings(model)) else {})}


def start_of(model: nn.Module) -> dict[str, Any]:
    """Which weights a model has before training: those of a checkpoint, by their digest, or new ones.

    Only the encoder counts, and of an adapted one what is not trained: a head or an adapter may be new.
    """
    name = str(getattr(encoder_of(model), "name_or_path", ""))
    if not name:
        return {"checkpoint": None}
    encoder = getattr(encoder_of(model), "base_model", model)
    digest = hashlib.sha256()
    for weight, value in encoder.named_parameters():
        if not (is_adapted(model) and value.requires_grad):
            digest.update(weight.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return {"checkpoint": digest.hexdigest()[:16]}


def data_of(sources: Mapping[str, Dataset]) -> dict[str, Any]:
    """Rows and columns of each source, and a digest of its rows, of 1,024 of them where there are more."""
    found = {}
    for name, rows in sources.items():
        sample = np.sort(permute(np.arange(min(len(rows), _ROWS_COMPARED)), len(rows), (0,)))
        content = json.dumps(rows.with_format(None)[sample], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        found[name] = {"rows": len(rows), "columns": sorted(rows.column_names), "digest": digest}
    return found


def words_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of a tokenizer's vocabulary."""
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()[:16]


def require_equal_on_ranks(settings: Mapping[str, Any]) -> None:
    """Compare the settings of all ranks, once; called on every rank.

    Raises:
        ValueError: ranks were started with different settings or see different data; names what differs.
    """
    first, *others = gather_object([settings])
    for rank, other in enumerate(others, 1):
        if changes := changed_settings(first, other):
            raise ValueError(
                f"Rank {rank} has other settings or other data than rank 0: {'; '.join(changes)}. Start all ranks with "
                "one configuration and the same files."
            )


def refuse_other_settings(checkpoint: Path, settings: Mapping[str, Any], step: int) -> list[str]:
    """Refuse to resume a run with settings that would lead to another result than those it was begun with.

    The number of steps may grow, and it may shrink to the step reached or below, which ends the run.

    Args:
        checkpoint: to resume from.
        settings: of this run, as the trainer writes them to `SETTINGS_FILE`.
        step: of the checkpoint.

    Returns:
        What the user should know, one sentence a line.

    Raises:
        ResumeError: names each setting that differs, with its old and its new value.
    """
    file = checkpoint / SETTINGS_FILE
    if not file.is_file():
        return [f"{checkpoint} does not say with which settings it was trained, so they are not compared."]
    remedy = f"Remove {checkpoint} to resume from the one before."
    try:
        old, new = read_json(file, remedy), dict(settings)
    except ValueError as error:
        raise ResumeError(str(error)) from error
    if not all(isinstance(old.get(section, {}), dict) for section in ("arguments", "model")):
        raise ResumeError(f"{file} does not hold the settings of a run. {remedy}")
    for section in ("arguments", "model"):  # a name that one lacks is of another version of the packages
        common = old.get(section, {}).keys() & new[section].keys()
        for each in (old, new):
            each[section] = {name: value for name, value in each.get(section, {}).items() if name in common}
    before, after = old.pop("steps", None), new.pop("steps")
    changes = changed_settings(old, new)
    if before is not None and step < after < before:
        changes.append(f"steps was {before}, is {after}")
    if changes:
        raise ResumeError(
            f"{checkpoint} was trained with other settings: {'; '.join(changes)}. Choose another "
            f"output_dir for a new run, or restore the settings to resume this one."
        )
    if before is None or before == after:
        return []
    if after <= step:
        return [f"The run has reached step {step:,} of now {after:,}: it ends here, without another step."]
    return [
        f"The run goes on to step {after:,} in place of {before:,}. From step {step + 1:,} the learning rate follows "
        f"the schedule of {after:,} steps, so the result is not that of a run begun with {after:,}."
    ]


def write_settings(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run into its checkpoint."""
    write_json(checkpoint / SETTINGS_FILE, settings)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=_name_of))


def _name_of(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))
