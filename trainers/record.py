"""What a run says of itself to those who get its weights: the parts of a stage in `nomic_bert.training_record`."""

import datetime
import math
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from torch import nn
from torch.optim import Optimizer
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from nomic_bert.training_record import STAGE_BEFORE, TRAINING_FILE, UNRECORDED, read_training
from textfiles.hub_names import is_hub_name

from .adapters import adapter_settings
from .sampling import BatchPlan

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "sentence-transformers", "nomic-embed-hf")
_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
_OF_SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def starting_point(model: nn.Module) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The stages that a model has been through, and what the next one says of its start.

    A local path is not recorded: the directory's own record is continued, where it has one. A name counts as one of
    the hub only if the hub's cache holds it: a relative path may look alike.

    Raises:
        ValueError: the start's record cannot be read.
    """
    name = str(getattr(model, "name_or_path", ""))
    if not name:
        return [], {"start": None}
    if Path(name).is_dir():
        if stages := read_training(name):
            return stages, {"start": STAGE_BEFORE}
        return [], {"start": None if Path(name, TRAINING_FILE).is_file() else UNRECORDED}
    if not is_hub_name(name) or not (commits := _cached_commits(name)):
        return [], {"start": UNRECORDED}
    revision = {"start_revision": commits[0]} if len(commits) == 1 else {}  # of several, which was loaded is not known
    return [], {"start": name, **revision}


def _cached_commits(name: str) -> list[str]:
    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots")
    return sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []


def sources_of_plan(
    plan: BatchPlan, details: Mapping[str, Mapping[str, Any]], of_trainer: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What was trained on, by source.

    Args:
        plan: of the run.
        details: source -> what the caller knows, such as its data set on the hub.
        of_trainer: source -> what the trainer knows beside the plan.

    Raises:
        ValueError: `details` name a source that is not trained on.
    """
    if unknown := sorted(set(details) - set(plan.rows)):
        raise ValueError(f"source_details names unknown sources {unknown}; there are {sorted(plan.rows)}.")
    return [
        {
            "name": name,
            "rows": rows,
            "weight": plan.weight(name),
            "batches_per_epoch": plan.batches(name),
            **of_trainer[name],
            **details.get(name, {}),
        }
        for name, rows in plan.rows.items()
    ]


def optimizer_facts(args: TrainingArguments, given: Optimizer | None) -> dict[str, Any]:
    """How weights are updated; for an optimizer that the caller made, the settings it was made with."""
    if given is not None:
        names = {"lr": "learning_rate", "weight_decay": "weight_decay", "momentum": "momentum", "eps": "adam_epsilon"}
        found = {name: given.defaults[key] for key, name in names.items() if key in given.defaults}
        betas = dict(zip(_ADAM, given.defaults.get("betas", ()), strict=False))
        facts = {"optimizer": type(given).__name__, **found, **betas}
    else:
        name = OptimizerNames(args.optim).value
        facts = {"optimizer": name, "learning_rate": args.learning_rate, "weight_decay": args.weight_decay}
        facts |= {key: getattr(args, key) for key in _ADAM if "adam" in name}
    return {**facts, "max_grad_norm": args.max_grad_norm}


def schedule_facts(args: TrainingArguments, total_steps: int, given: Any) -> dict[str, Any]:
    """How the learning rate changes; a schedule that the caller made is known by its name alone."""
    if given is not None:
        return {"schedule": type(given).__name__}
    facts = {
        "warmup_steps": args.get_warmup_steps(total_steps),
        "schedule": SchedulerType(args.lr_scheduler_type).value,
    }
    return {**facts, **({"schedule_settings": args.lr_scheduler_kwargs} if args.lr_scheduler_kwargs else {})}


def dropout_facts(model: nn.Module | None) -> dict[str, float]:
    """Dropout that a model trains with, of the hidden states and of the attention probabilities."""
    config = getattr(model, "config", None)
    names = {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
    return {name: getattr(config, field) for name, field in names.items() if hasattr(config, field)}


def adapter_facts(model: nn.Module) -> dict[str, str]:
    """The adapter that is trained in place of the weights; none for a model without one."""
    settings = adapter_settings(model)
    if not settings:
        return {}
    kind = getattr(settings["peft_type"], "value", settings["peft_type"])
    numbers = [f"{name} {settings[name]}" for name in ("r", "lora_alpha", "lora_dropout") if name in settings]
    return {"adapter": ", ".join([str(kind), *numbers, "on " + " ".join(sorted(settings.get("target_modules") or []))])}


def precision_name(mixed_precision: str, model: nn.Module) -> str:
    """`bf16 mixed` and the like, or the type that the weights are trained in."""
    if mixed_precision in ("bf16", "fp16"):
        return f"{mixed_precision} mixed"
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def progress_facts(state: TrainerState, step: int) -> dict[str, Any]:
    """Tokens, loss and scores of the weights after a step, which on a resumed run count from its beginning.

    Args:
        state: of the trainer.
        step: not after `state.global_step`; before it where the best checkpoint was loaded at the end.
    """
    history = [entry for entry in state.log_history if entry.get("step", 0) <= step]
    tokens: float = state.num_input_tokens_seen
    if step < state.global_step:
        tokens = max((entry.get("num_input_tokens_seen", 0) for entry in history), default=0)
    facts: dict[str, Any] = {"tokens": int(tokens)} if tokens else {}
    for entry in history:
        if "loss" in entry and math.isfinite(entry["loss"]):
            facts["training_loss"] = {"step": entry["step"], "value": entry["loss"]}
        if metrics := _scores(entry):
            facts["evaluation"] = {"step": entry["step"], "metrics": metrics}
    return facts


def _scores(entry: Mapping[str, Any]) -> dict[str, float]:
    metrics = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    return {
        key: value
        for key, value in metrics.items()
        if key not in _OF_SPEED and isinstance(value, int | float) and math.isfinite(value)
    }


def count_devices(device: torch.device) -> dict[str, int]:
    """Device name -> number of processes on such a one; to be called on every process."""
    module = torch.get_device_module(device)
    find = getattr(module, "get_device_name", None)
    name = find(device) if find else f"{device.type.upper()} ({platform.machine()})"
    return dict(Counter(gather_object([name])))


def package_versions() -> dict[str, str]:
    """Versions of the packages that the result may depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # run from a checkout
    return found


def today() -> str:
    """The date, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def hub_details(
    dataset: str, subset: str | None = None, split: str | None = None, revision: str | None = None
) -> dict[str, str]:
    """What `source_details` says of a source on the hub."""
    details = {"dataset": dataset, "subset": subset, "split": split, "revision": revision}
    return {key: value for key, value in details.items() if value is not None}
