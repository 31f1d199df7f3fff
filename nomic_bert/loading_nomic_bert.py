"""What the encoder and its heads share: features announced to transformers, and a load that refuses wrong weights."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from .configuration_nomic_bert import NomicBertConfig
from .unpadding_nomic_bert import exports, offsets_of_positions

# A leftover weight of one of these is another head's, which a load may ignore.
_HEAD_WEIGHT = re.compile(r"(cls|classifier|qa_outputs|(bert\.)?pooler)\.")
_WEIGHTS_FILE = re.compile(r"[\w.-]+\.safetensors(\.index\.json)?")


class WrongWeightsError(ValueError, RuntimeError):
    """Weights that are not this model's; a `RuntimeError` too, which transformers raises for misshapen weights."""


class NomicBertPreTrainedModel(PreTrainedModel):
    """What the encoder and its heads share: loading, saving, and the features announced to transformers."""

    config: NomicBertConfig
    config_class = NomicBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["NomicBertEmbeddings", "NomicBertLayer"]

    def __init__(self, config: NomicBertConfig, *args: Any, **kwargs: Any) -> None:
        config.validate()  # from_pretrained(..., key=value) sets fields after the configuration checked itself
        file = getattr(config, "transformers_weights", None)
        if file is not None and not _WEIGHTS_FILE.fullmatch(str(file)):
            raise ValueError(
                f"config.json has transformers_weights={file!r}: weights are read from .safetensors files beside it. "
                "Do not trust this checkpoint, or remove the key."
            )
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as `PreTrainedModel.from_pretrained` does, but refuse a partly random encoder, and pickled weights.

        Weights are read from safetensors alone, unless `use_safetensors=False` asks for a pickle, which can run code.
        A fresh head on a pretrained encoder, and another head's leftover weights, load with the usual notice.

        Raises:
            WrongWeightsError: encoder weights are missing, left over or misshapen, or a head's are misshapen and
                `ignore_mismatched_sizes` is not set; the message lists them.
        """
        kwargs.pop("safe_serialization", None)  # the authors' loader takes it, so public code passes it
        wants_info = kwargs.pop("output_loading_info", False)
        resize_head = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs.setdefault("use_safetensors", True)
        adapter_kwargs = kwargs.pop("adapter_kwargs", None) or {}
        if pretrained_model_name_or_path is not None:  # else there is no directory, and the current one is not meant
            _refuse_foreign_shards(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
            _refuse_adapter(pretrained_model_name_or_path, kwargs)
        # transformers' own refusal of misshapen weights does not name them, so ours below stands in for it
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = cast(tuple[Any, dict[str, Any]], loaded)
        model._refuse_partial_encoder(info, resize_head, str(pretrained_model_name_or_path))
        if "_adapter_model_path" in adapter_kwargs:  # where AutoModel was pointed at one, and has looked up its base
            load_adapter_weights(model, **adapter_kwargs)
        return (model, info) if wants_info else model

    def _init_weights(self, module: nn.Module) -> None:
        if int(transformers.__version__.split(".")[0]) >= 5:
            super()._init_weights(module)
        elif isinstance(module, nn.Linear):  # older releases leave fresh weights to the model
            module.weight.data.normal_(std=self.config.initializer_range)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.data.normal_(std=self.config.initializer_range)
            if module.padding_idx is not None:
                module.weight.data[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does, in files that others may read."""
        # textfiles.replacing's checksums, of the weights that these replace
        Path(save_directory, ".nomic-embed-files.json").unlink(missing_ok=True)
        super().save_pretrained(save_directory, *args, **kwargs)
        give_umask_mode(Path(save_directory))

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers guesses from the model file's text, which dispatches in attention_nomic_bert.py

    def _refuse_packed(self, cu_seq_lens: Any, attention_mask: Tensor | None, position_ids: Tensor | None) -> None:
        if cu_seq_lens is None and not exports():
            cu_seq_lens = offsets_of_positions(attention_mask, position_ids)
        if cu_seq_lens is not None:
            raise ValueError(
                f"{type(self).__name__} takes padded batches, not packed rows: leave out cu_seq_lens_q, and "
                "position_ids that return to 0, as DataCollatorWithFlattening writes them."
            )

    def _refuse_partial_encoder(self, info: dict[str, Any], resize_head: bool, source: str) -> None:
        saved = self.config.architectures or [type(self).__name__]
        fresh_head = resize_head or type(self).__name__ not in saved  # else it is another head's `classifier`
        mismatched = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]
        wrong = {
            "missing": [key for key in info["missing_keys"] if not _HEAD_WEIGHT.match(key)],
            "left over": [key for key in info["unexpected_keys"] if not _HEAD_WEIGHT.match(key)],
            "misshapen": [key for key in mismatched if not (fresh_head and _HEAD_WEIGHT.match(key))],
        }
        found = [f"{what} ({len(keys)}): {', '.join(sorted(keys))}" for what, keys in wrong.items() if keys]
        if found:
            raise WrongWeightsError(
                f"{source} does not hold the weights of this {type(self).__name__}: part of it would be random. "
                f"Check its config.json against its weights. Weights " + "; ".join(found)
            )


def _refuse_foreign_shards(directory: Path) -> None:
    """Refuse an index that leads out of its local directory or to a pickle; of the hub's, transformers does so."""
    for index in directory.glob("*.safetensors.index*.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            damaged = not all(isinstance(name, str) for name in shards)
        except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or another kind of it
            damaged = True
        if damaged:
            raise ValueError(
                f"{index} is damaged: its weight_map must name a file for each weight. "
                "Copy the checkpoint again from where it is from."
            )
        wrong = sorted(name for name in shards if Path(name).name != name or not name.endswith(".safetensors"))
        if wrong:
            raise ValueError(f"{index} names {', '.join(wrong)}: shards are .safetensors beside it; do not trust this.")


def give_umask_mode(directory: Path) -> None:
    """Give the mode of the configuration to weights: safetensors makes files that their owner alone may read."""
    configuration = next(directory.glob("*config.json"), None)
    if configuration is not None:
        for file in (*directory.glob("*.safetensors"), *directory.glob("*/*.safetensors")):
            shutil.copymode(configuration, file)


def _refuse_adapter(source: Any, kwargs: dict[str, Any]) -> None:
    """Refuse a PEFT adapter: transformers would not say which weights its base model lacks, and may read a pickle."""
    where = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}
    if find_adapter_config_file(source, subfolder=kwargs.get("subfolder") or "", **where) is not None:
        raise ValueError(
            f"{source} has a PEFT adapter. An adapter alone opens with AutoModel, sentence-transformers or "
            "nomic_bert.embedder.load_embedder; a model with an adapter in one directory is not supported."
        )


def load_adapter_weights(model: PreTrainedModel, _adapter_model_path: str, **hub_kwargs: Any) -> None:
    """Add a PEFT adapter to a model, from safetensors alone.

    Args:
        model: an encoder or head.
        _adapter_model_path: directory or hub name of the adapter, named as transformers names it.
        hub_kwargs: revision, token and the like.

    Raises:
        ValueError: the adapter has no safetensors, or its weights are not all found in the model.
    """
    name, adapter = "adapter_model.safetensors", _adapter_model_path
    local = Path(adapter)
    if not ((local / name).is_file() if local.is_dir() else cached_file(adapter, name, **hub_kwargs)):
        raise ValueError(f"{adapter} has no {name}; a pickle is not read. Save the adapter again with PEFT.")
    info = cast(Any, model).load_adapter(adapter, adapter_kwargs=hub_kwargs)
    wrong = sorted({*getattr(info, "missing_keys", ()), *getattr(info, "unexpected_keys", ())})
    if wrong:
        raise ValueError(f"{adapter} does not fit {type(model).__name__}. Weights missing or left over: {wrong}")
