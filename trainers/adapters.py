"""Models with adapters of PEFT, such as LoRA: which are trained, and where their own weights are."""

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is a `peft.PeftModel`."""
    peft = sys.modules.get("peft")  # whoever has a model of it has imported it; nothing else here needs it
    return peft is not None and isinstance(model, peft.PeftModel)


def encoder_of(model: Any) -> Any:
    """The model that PEFT's adapter was put into, with the adapter's layers in it; a model without one as it is."""
    return model.get_base_model() if is_adapted(model) else model


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights by the names under which PEFT saves them."""
    return sys.modules["peft"].get_peft_model_state_dict(model)


def adapter_settings(model: Any) -> dict[str, Any]:
    """What PEFT's configuration of the adapter says, paths aside; empty for a model without one."""
    if not is_adapted(model):
        return {}
    settings = model.peft_config[model.active_adapter].to_dict()
    return {name: value for name, value in settings.items() if name not in ("base_model_name_or_path", "revision")}


def refuse_untrainable(model: Any) -> None:
    """Refuse weights that the trainers cannot train and save as they are.

    Raises:
        ValueError: quantized weights, an adapter of transformers' `add_adapter`, several adapters, one that PEFT does
            not put into the layers (prompt tuning and the like), or no weight that is trained.
    """
    encoder = encoder_of(model)
    if quantization := getattr(encoder, "quantization_method", None):
        raise ValueError(
            f"The model is quantized ({getattr(quantization, 'value', quantization)}), which is not supported in "
            "training. Load it without quantization_config."
        )
    if getattr(encoder, "_hf_peft_config_loaded", False):
        raise ValueError(
            "The model has an adapter of add_adapter or load_adapter, which cannot be resumed. Pass "
            "peft.get_peft_model(model, config) instead."
        )
    if is_adapted(model):
        kinds = [str(getattr(config.peft_type, "value", config.peft_type)) for config in model.peft_config.values()]
        if len(kinds) > 1:
            raise ValueError(f"The model has {len(kinds)} adapters; train one at a time.")
        config = model.peft_config[model.active_adapter]
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise ValueError(
                f"{kinds[0]} adds tokens to each text, which packed texts do not allow. Use an adapter of the layers, "
                "such as peft.LoraConfig."
            )
    weights = [value for value in model.parameters() if value.requires_grad]
    if not weights:
        raise ValueError("No weight of the model is trained: requires_grad is false for all of them.")
    unsupported = {value.dtype for value in model.parameters()} - {torch.float32, torch.bfloat16, torch.float16}
    if unsupported:
        types = ", ".join(sorted(map(str, unsupported)))
        raise ValueError(f"The model has weights of {types}, which is not supported in training.")
