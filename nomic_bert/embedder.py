"""A checkpoint directory as a `SentenceTransformer`: mean pooling, unit length, the task prefixes as prompts."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, Transformer
from transformers import AutoConfig, PreTrainedTokenizerBase

from textfiles.atomic import atomic_directory, write_json
from textfiles.hub_names import is_hub_name

from . import NomicBertConfig, NomicBertModel
from .prompts import PROMPTS
from .tokenizer_files import make_tokenizer_portable
from .training_record import read_training, write_training


def load_embedder(
    checkpoint: str | os.PathLike,
    *,
    max_seq_length: int | None = None,
    device: str | None = None,
    layer_norm: bool | None = None,
    rotary_scaling_factor: float | None = None,
    dtype: torch.dtype | None = None,
) -> SentenceTransformer:
    """Wrap any checkpoint of ours, of the authors', or of native transformers as an embedder.

    The embedding of a text is the mean of its token vectors, prefix and special tokens included, at unit length
    (paper §4.2.2 and §5.2.1). No prefix is added unless asked for: use `encode_query`, `encode_document` or
    `encode(prompt_name=...)` with one of `nomic_bert.prompts.PROMPTS`.

    Args:
        checkpoint: local directory or hub name of an encoder, or of a head, whose encoder is taken.
        max_seq_length: tokens after which texts are cut; None: the configuration's `n_positions` (8,192).
        device: where to put the model; None: sentence-transformers' choice.
        layer_norm: whether the mean is normalized without parameters before it is brought to unit length, as a model
            with `matryoshka_dims` is trained; `truncate_dim` then cuts what was trained to be cut. None: as the
            directory's modules say, or where it has none, its training record; else not.
        rotary_scaling_factor: alpha of Eq. 5, for texts beyond the trained length; None: as the configuration says,
            which in the released checkpoints is no scaling.
        dtype: of the weights; None: as they are stored.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
        ValueError: the checkpoint is another architecture, or its encoder is incomplete.
    """
    checkpoint = str(checkpoint)
    require_checkpoint(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    if config.model_type != NomicBertConfig.model_type:
        raise ValueError(f"{checkpoint} is a {config.model_type!r} checkpoint; this embedder wraps 'nomic_bert' ones.")
    max_seq_length = max_seq_length or config.n_positions
    transformer = Transformer(
        checkpoint,
        model_kwargs={} if dtype is None else {"dtype": dtype},
        processor_kwargs={"model_max_length": max_seq_length},
        config_kwargs={} if rotary_scaling_factor is None else {"rotary_scaling_factor": rotary_scaling_factor},
    )
    transformer.max_seq_length = max_seq_length
    modules = [transformer, Pooling(config.hidden_size, pooling_mode="mean")]
    if layer_norm or (layer_norm is None and _has_layer_norm(Path(checkpoint))):
        modules.append(LayerNorm(config.hidden_size))
    modules.append(Normalize())
    return SentenceTransformer(modules=modules, prompts=dict(PROMPTS), similarity_fn_name="cosine", device=device)


def _has_layer_norm(checkpoint: Path) -> bool:
    file = checkpoint / "modules.json"
    if file.is_file():
        return any(module["type"].endswith(".LayerNorm") for module in json.loads(file.read_text(encoding="utf-8")))
    stages = read_training(checkpoint)
    return bool(stages and (stages[-1].get("hyperparameters") or {}).get("matryoshka_dims"))


def embedder_around(
    model: NomicBertModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_seq_length: int | None = None,
    layer_norm: bool = False,
) -> SentenceTransformer:
    """Wrap an encoder in memory as `load_embedder` wraps a checkpoint; the weights are shared, not copied.

    Args:
        model: without a head. It is left in evaluation mode by encoding.
        tokenizer: of the model.
        max_seq_length: as in `load_embedder`.
        layer_norm: likewise.
    """
    with tempfile.TemporaryDirectory() as directory:
        model.config.save_pretrained(directory)
        save_model(model, str(Path(directory, "model.safetensors")), metadata={"format": "pt"})  # on any rank
        tokenizer.save_pretrained(directory)
        device = str(model.device)
        embedder = load_embedder(directory, max_seq_length=max_seq_length, device=device, layer_norm=layer_norm)
    embedder[0].model = model
    return embedder


def require_checkpoint(checkpoint: str) -> None:
    """Refuse what is neither a directory with a model nor shaped like a hub name (`owner/name`).

    Raises:
        FileNotFoundError: names the path; transformers would only say that it is no repository.
    """
    local = Path(checkpoint)
    if (local.exists() or not is_hub_name(checkpoint)) and not (local / "config.json").is_file():
        raise FileNotFoundError(
            f"{checkpoint} is not a checkpoint: it has no config.json. Give a directory that has one."
        )


def save_embedder(
    embedder: SentenceTransformer, directory: str | os.PathLike, *, training: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write an embedder that every reader opens: weights, code, tokenizer, and sentence-transformers' files.

    The directory appears whole or not at all; an earlier embedder there is replaced.

    Args:
        embedder: of a NomicBertModel.
        directory: where to write.
        training: the stages that the weights have been through, as `nomic_bert.training_record` has them.

    Raises:
        FileExistsError: the directory exists and is not an embedder.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()) and not (directory / "modules.json").is_file():
        raise FileExistsError(f"{directory} exists and is not an embedder; choose another directory or remove it.")
    with atomic_directory(directory) as written:
        embedder.save_pretrained(str(written), create_model_card=False)
        _write_portable_module_files(embedder, written)
        make_tokenizer_portable(written, embedder.max_seq_length)
        if training:
            write_training(written, training)


def _write_portable_module_files(embedder: SentenceTransformer, directory: Path) -> None:
    """Restate the module files in the form that sentence-transformers before 6 and llama.cpp's converter read too."""
    modules = json.loads((directory / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rsplit(".", 1)[-1]
        if module["type"].endswith(".Pooling"):
            pooling = {
                "word_embedding_dimension": embedder.get_embedding_dimension(),
                # text-embeddings-inference requires these four; vLLM takes the first that is true
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
                "include_prompt": True,
            }
            write_json(directory / module["path"] / "config.json", pooling)
    write_json(directory / "modules.json", modules)
    # sentence-transformers caps the length at max_position_embeddings, the trained length, unless it is said here
    settings = json.loads((directory / "sentence_bert_config.json").read_text())
    write_json(
        directory / "sentence_bert_config.json",
        {**settings, "max_seq_length": embedder.max_seq_length, "do_lower_case": False},
    )
