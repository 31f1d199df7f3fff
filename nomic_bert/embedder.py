"""A checkpoint directory as a `SentenceTransformer`: mean pooling, unit length, the task prefixes as prompts."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, Transformer
from sentence_transformers.util import get_device_name, load_file_path
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from textfiles.atomic import naming_full_disks, read_json
from textfiles.replacing import replaceable_directory

from . import NomicBertConfig, NomicBertModel
from .checkpoint_files import named_on_hub, named_settings, refuse_damage, require_checkpoint
from .embedder_files import (
    TEXT_ALONE,
    ModuleFiles,
    read_module_files,
    write_portable_module_files,
)
from .flash_attention import use_flash_attention_3
from .loading_nomic_bert import give_umask_mode, load_adapter_weights
from .openvino_encoder import OpenVINOEncoder
from .openvino_int8 import MAXIMA_FILE, measure_input_maxima, read_input_maxima, sample_texts
from .prompts import PROMPTS
from .text_length import require_text_length
from .tokenizer_files import make_tokenizer_portable, require_tokenizer_files, require_words
from .training_record import read_training, write_training


def load_embedder(
    checkpoint: str | os.PathLike,
    *,
    max_seq_length: int | None = None,
    device: str | None = None,
    layer_norm: bool | None = None,
    rotary_scaling_factor: float | None = None,
    dtype: torch.dtype | str | None = None,
    backend: Literal["torch", "openvino"] = "torch",
) -> SentenceTransformer:
    """Open any checkpoint of ours, of the authors', or of native transformers as an embedder.

    A directory with sentence-transformers' files (modules.json) is read by sentence-transformers: pooling, prompts,
    length, similarity and further modules are as its files say. Without them, the embedding of a text is the mean of
    its token vectors, prefix and special tokens included, at unit length (paper §4.2.2 and §5.2.1).

    No prefix is added unless asked for: use `encode_query`, `encode_document` or `encode(prompt_name=...)` with one of
    `nomic_bert.prompts.PROMPTS`. Embedders that take the mean and whose files name no prompts have these too.

    Args:
        checkpoint: local directory or hub name of an encoder, of a head, whose encoder is taken, or of a PEFT adapter,
            whose base model is opened first (needs `peft`).
        max_seq_length: tokens after which texts are truncated; None: as the directory says, else the configuration's
            `n_positions` (8,192), which it may not exceed.
        device: where to put the model; None: sentence-transformers' choice.
        layer_norm: whether the mean is normalized without parameters before it is brought to unit length, as a model
            with `matryoshka_dims` is trained; `truncate_dim` then cuts what was trained to be cut. None: as the
            directory's modules say, or where it has none, its training record; else not.
        rotary_scaling_factor: alpha of Eq. 5, for texts beyond the trained length; None: as the configuration says,
            which in the released checkpoints is no scaling.
        dtype: of the weights, as a torch.dtype or its name; None: on a CUDA GPU half precision, bfloat16 from compute
            capability 8 on and float16 before; elsewhere as they are stored, and in OpenVINO bfloat16 where the CPU has
            instructions for it. "int8" is for OpenVINO. To train or save the embedder, give "float32".
        backend: what computes the encoder. "openvino" is for CPUs, and only encodes. It runs as many threads as
            `torch.get_num_threads()` says now.

    Raises:
        FileNotFoundError: the directory has no checkpoint, or no tokenizer.
        ModuleNotFoundError: it is an adapter, and peft is not installed.
        ValueError: the checkpoint is another architecture, its encoder is incomplete, its tokenizer is another
            model's, its files need what is not supported, the length cannot be, or the backend does not have the device
            or dtype; the message names the file or argument.
    """
    if backend == "openvino":
        if device is not None and torch.device(device).type != "cpu":
            raise ValueError(f'backend="openvino" computes on the CPU, not on {str(device)!r}.')
        embedder = _load_in_torch(checkpoint, max_seq_length, "cpu", layer_norm, rotary_scaling_factor, torch.float32)
        compute_in_openvino(embedder, checkpoint, None if dtype is None else str(dtype).removeprefix("torch."))
        return embedder
    if backend != "torch":
        raise ValueError(f'backend must be "torch" or "openvino", not {backend!r}.')
    if isinstance(dtype, str):
        dtype = _torch_dtype(dtype)
    if dtype is None:
        dtype = _half_of_gpu(device or get_device_name())
    if dtype in (torch.float16, torch.bfloat16):
        use_flash_attention_3(torch.device(device or get_device_name()))
    return _load_in_torch(checkpoint, max_seq_length, device, layer_norm, rotary_scaling_factor, dtype)


def load_other_embedder(
    checkpoint: str, device: str | None, dtype: torch.dtype, *, trust_remote_code: bool
) -> SentenceTransformer:
    """Open any sentence-transformers model as that library does, with `load_embedder`'s checks of files and tokenizer.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: a file is damaged, or the tokenizer is another model's.
    """
    if Path(checkpoint).is_dir():
        if not any(Path(checkpoint, name).is_file() for name in ("modules.json", "config.json", "adapter_config.json")):
            raise FileNotFoundError(f"{checkpoint} is not a model: it has neither modules.json nor config.json.")
        refuse_damage(checkpoint)
    with named_on_hub(checkpoint), named_settings(checkpoint):
        embedder = SentenceTransformer(
            checkpoint, device=device, trust_remote_code=trust_remote_code, model_kwargs={"dtype": dtype}
        )
    require_words(embedder, checkpoint)
    return embedder


def _torch_dtype(name: str) -> torch.dtype:
    """The type that "float32", "float16" or "bfloat16" names."""
    if name == "int8":
        raise ValueError('dtype="int8" needs backend="openvino".')
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f'dtype={name!r} must be "float32", "float16", "bfloat16" or, in OpenVINO, "int8".')
    return dtype


def _half_of_gpu(device: str) -> torch.dtype | None:
    """The half precision in which a CUDA GPU is fast; None for any other device."""
    if torch.device(device).type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _load_in_torch(
    checkpoint: str | os.PathLike,
    max_seq_length: int | None,
    device: str | None,
    layer_norm: bool | None,
    rotary_scaling_factor: float | None,
    dtype: torch.dtype | None,
) -> SentenceTransformer:
    checkpoint = str(checkpoint)
    require_checkpoint(checkpoint)
    modules = read_module_files(checkpoint)
    adapter_file = find_adapter_config_file(checkpoint)
    if adapter_file is not None and modules is None:
        base = _base_of_adapter(checkpoint, adapter_file)
        if layer_norm is None:
            layer_norm = _recorded_layer_norm(checkpoint)
        embedder = _load_in_torch(base, max_seq_length, device, layer_norm, rotary_scaling_factor, dtype)
        load_adapter_weights(cast(Any, embedder[0]).model, checkpoint)
        return embedder
    source = checkpoint if adapter_file is None else _base_of_adapter(checkpoint, adapter_file)
    with named_on_hub(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type != NomicBertConfig.model_type:
        raise ValueError(f"{checkpoint} is a {config.model_type!r} checkpoint; this embedder wraps 'nomic_bert' ones.")
    if max_seq_length is not None:
        require_text_length(max_seq_length, config)
    if Path(checkpoint).is_dir():
        require_tokenizer_files(checkpoint)
    settings: dict[str, Any] = {
        "model_kwargs": {} if dtype is None else {"dtype": dtype},
        "config_kwargs": {} if rotary_scaling_factor is None else {"rotary_scaling_factor": rotary_scaling_factor},
    }
    if modules is None:
        embedder = _mean_embedder(checkpoint, max_seq_length or config.n_positions, layer_norm, device, settings)
    else:
        embedder = _saved_embedder(checkpoint, modules, max_seq_length, layer_norm, device, settings)
    require_words(embedder, checkpoint)
    return embedder


def compute_in_openvino(embedder: SentenceTransformer, checkpoint: str | os.PathLike, precision: str | None) -> None:
    """Put an `OpenVINOEncoder` in the place of an embedder's model.

    Args:
        embedder: in torch; changed in place.
        checkpoint: where it was opened from. For int8, the ranges in it are taken; where it has none, they are measured
            on a few pages of Python's help, in some seconds.
        precision: as in `OpenVINOEncoder`.

    Raises:
        ValueError: as in `OpenVINOEncoder`, or the model holds an adapter, or the directory's ranges are damaged.
    """
    transformer = cast(Any, embedder[0])
    if any(".base_layer." in name for name, _ in transformer.model.named_parameters()):
        raise ValueError(
            f'{checkpoint} is an adapter, which backend="openvino" cannot open; merge it: hub_upload.py does.'
        )
    maxima = None
    if precision == "int8":
        file = load_file_path(str(checkpoint), MAXIMA_FILE)
        if file is None:
            maxima = measure_input_maxima(embedder, sample_texts(cast(dict[str, str], embedder.prompts).values()))
        else:
            maxima = read_input_maxima(file, transformer.model.config)
    transformer.model = OpenVINOEncoder(transformer.model, precision, maxima)


def _mean_embedder(
    checkpoint: str, max_seq_length: int, layer_norm: bool | None, device: str | None, settings: dict[str, Any]
) -> SentenceTransformer:
    """Put together the modules that a checkpoint without sentence-transformers' files does not name."""
    settings["model_kwargs"]["trust_remote_code"] = settings["config_kwargs"]["trust_remote_code"] = False
    transformer = Transformer(
        checkpoint,
        processor_kwargs={"model_max_length": max_seq_length, "trust_remote_code": False},
        **TEXT_ALONE,
        **settings,
    )
    transformer.max_seq_length = max_seq_length
    width = transformer.get_embedding_dimension()
    modules = [transformer, Pooling(width, pooling_mode="mean")]
    if _recorded_layer_norm(checkpoint) if layer_norm is None else layer_norm:
        modules.append(LayerNorm(width))
    modules.append(Normalize())
    return SentenceTransformer(modules=modules, prompts=dict(PROMPTS), similarity_fn_name="cosine", device=device)


def _saved_embedder(
    checkpoint: str,
    files: ModuleFiles,
    max_seq_length: int | None,
    layer_norm: bool | None,
    device: str | None,
    settings: dict[str, Any],
) -> SentenceTransformer:
    """Open a directory with sentence-transformers' files by sentence-transformers, which then runs our model class."""
    length = {} if max_seq_length is None else {"model_max_length": max_seq_length}
    prompts: Any = dict(PROMPTS) if files.is_mean and not files.has_prompts else None
    with named_settings(checkpoint):
        embedder = SentenceTransformer(
            checkpoint, device=device, trust_remote_code=False, prompts=prompts, processor_kwargs=length, **settings
        )
    given = list(embedder)
    if layer_norm is None or layer_norm == any(isinstance(module, LayerNorm) for module in given):
        return embedder
    if not files.is_mean:
        raise ValueError(f"{checkpoint}: layer_norm is for embedders that take the mean; leave it out.")
    modules = [module for module in given if not isinstance(module, LayerNorm)]
    if layer_norm:
        modules.insert(2, LayerNorm(cast(Any, given[1]).embedding_dimension))
    return SentenceTransformer(
        modules=modules,
        prompts=cast(Any, embedder.prompts),
        default_prompt_name=embedder.default_prompt_name,
        similarity_fn_name=embedder.similarity_fn_name,
        device=str(embedder.device),
    )


def _recorded_layer_norm(checkpoint: str) -> bool | None:
    """Whether the last recorded stage trained with the layer norm; None where nothing is recorded."""
    stages = read_training(checkpoint)
    return bool((stages[-1].get("hyperparameters") or {}).get("matryoshka_dims")) if stages else None


def _base_of_adapter(checkpoint: str, file: str) -> str:
    """The model that a PEFT adapter was trained on: a directory or hub name."""
    if find_spec("peft") is None:
        raise ModuleNotFoundError(f"{checkpoint} is a PEFT adapter, which needs peft: pip install peft", name="peft")
    base = read_json(file, "Copy it again from where the adapter is from.").get("base_model_name_or_path")
    try:
        require_checkpoint(str(base))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{checkpoint} is an adapter of {base}, which is not a checkpoint here. Correct base_model_name_or_path in "
            "its adapter_config.json."
        ) from error
    return str(base)


def embedder_around(
    model: NomicBertModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_seq_length: int | None = None,
    layer_norm: bool = False,
) -> SentenceTransformer:
    """Wrap an encoder in memory as `load_embedder` opens a checkpoint; the weights are shared, not copied.

    Args:
        model: without a head. It is left in evaluation mode by encoding.
        tokenizer: of the model.
        max_seq_length: as in `load_embedder`.
        layer_norm: likewise.
    """
    with tempfile.TemporaryDirectory() as directory, naming_full_disks(directory):
        model.config.save_pretrained(directory)
        save_model(model, str(Path(directory, "model.safetensors")), metadata={"format": "pt"})  # on any rank
        tokenizer.save_pretrained(directory)
        device, dtype = str(model.device), model.dtype
        embedder = load_embedder(
            directory, max_seq_length=max_seq_length, device=device, layer_norm=layer_norm, dtype=dtype
        )
    embedder[0].model = model
    return embedder


def save_embedder(
    embedder: SentenceTransformer, directory: str | os.PathLike, *, training: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write an embedder that every reader opens: weights, code, tokenizer, and sentence-transformers' files.

    The directory appears whole or not at all. What this function or `hub_upload.py` wrote there is replaced; any
    other directory is refused.

    Args:
        embedder: of a NomicBertModel.
        directory: where to write.
        training: the stages that the weights have been through, as `nomic_bert.training_record` describes them.

    Raises:
        FileExistsError: files were added or changed since the directory was written; the message names them.
        ValueError: the embedder has settings that its files cannot say.
    """
    _refuse_split_weights(cast(Any, embedder[0]).model)
    with replaceable_directory(Path(directory)) as written:
        embedder.save_pretrained(str(written), create_model_card=False)
        write_portable_module_files(embedder, written)
        make_tokenizer_portable(written, embedder.max_seq_length)
        give_umask_mode(written)
        if training:
            write_training(written, training)


def _refuse_split_weights(model: Any) -> None:
    """Refuse the inside of a PeftModel, which would be saved with the names of the adapter's layers."""
    saves_adapter = getattr(model, "_hf_peft_config_loaded", False) or type(model).__module__.startswith("peft.")
    if not saves_adapter and any(".base_layer." in name for name, _ in model.named_parameters()):
        raise ValueError(
            "The model has an adapter's layers in it. Save the adapter with PeftModel.save_pretrained, or merge it by "
            "PeftModel.merge_and_unload first."
        )
