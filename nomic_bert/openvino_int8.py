"""Products in 8 bits with fixed ranges, so that an embedding depends neither on its neighbours nor on earlier calls.

Ranges are measured once, on texts. Channels that are much larger than others would cost them their precision, so each
is divided by a factor of its own, which the weights are multiplied by (SmoothQuant, https://arxiv.org/abs/2211.10438).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from textfiles.atomic import atomic_file

from .configuration_nomic_bert import NomicBertConfig

MAXIMA_FILE = "openvino/input_maxima.safetensors"

_MAPS = ("attn.Wqkv", "attn.out_proj", "mlp.fc11", "mlp.fc2")  # fc12 reads what fc11 does
_LEAST = 1e-5  # of a maximum: a channel that is always 0 has no range
_PAGES, _CHARACTERS = 16, 800  # of the help that is read


@dataclass(frozen=True)
class QuantizedInput:
    """What linear maps read, in 8 bits: integers from -128 to 127 times `step`.

    Attributes:
        step: of the integers.
        channels: (in,) what the input was divided by beforehand, and the weights are multiplied by.
    """

    step: float
    channels: np.ndarray


def measure_input_maxima(embedder: SentenceTransformer, texts: Iterable[str]) -> dict[str, np.ndarray]:
    """Find how large the inputs of linear maps are when a model reads typical texts.

    Args:
        embedder: of a NomicBertModel in torch.
        texts: with their prefixes.

    Returns:
        Name of the linear map -> the largest magnitude of each channel of its input, (in,).
    """
    model = cast(Any, embedder[0]).model
    maxima: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def keep(_: Any, inputs: tuple[Tensor, ...]) -> None:
            found = inputs[0].detach().flatten(0, -2).abs().amax(dim=0).float().cpu()
            maxima[name] = torch.maximum(maxima[name], found) if name in maxima else found

        return keep

    names = _map_names(model.config)
    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        embedder.encode(list(texts), prompt="", batch_size=1, show_progress_bar=False)  # no default prompt either
    finally:
        for handle in handles:
            handle.remove()
    return {name: value.numpy() for name, value in maxima.items()}


def sample_texts(prompts: Iterable[str]) -> list[str]:
    """Texts to measure on where there are no better ones: Python's help, after the prompts.

    Lines and paragraphs of it, and what people embed by mistake, whose inputs are larger: nothing, and one word again
    and again.
    """
    from pydoc_data.topics import topics

    pages = sorted(topics.values(), key=len, reverse=True)[:_PAGES]
    parts = [part for page in pages for part in (page[:_CHARACTERS], page.strip().split("\n", 1)[0])]
    parts += ["", *(word * 64 for word in ("a", "z", "word ", "0"))]
    return [prompt + part for prompt, part in zip(cycle([*dict.fromkeys(prompts)] or [""]), parts, strict=False)]


def save_input_maxima(maxima: Mapping[str, np.ndarray], directory: str | Path) -> None:
    """Write what `measure_input_maxima` found into an embedder's directory."""
    file = Path(directory, MAXIMA_FILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as written:
        save_file(dict(maxima), written)


def read_input_maxima(file: str | Path, config: NomicBertConfig) -> dict[str, np.ndarray]:
    """Read what `save_input_maxima` wrote.

    Raises:
        ValueError: the file is damaged, or is of another model.
    """
    try:
        maxima = load_file(file)
    except (SafetensorError, OSError, TypeError) as error:  # the last: bfloat16, which numpy has not
        raise ValueError(f"{file} cannot be read ({error}). Copy it again, or delete it.") from error
    wanted = {name: _input_width(name, config) for name in _map_names(config)}
    found = {name: value.shape[0] for name, value in maxima.items() if value.ndim == 1 and value.dtype == np.float32}
    if found != wanted or not all(np.isfinite(value).all() and value.min() >= 0 for value in maxima.values()):
        raise ValueError(f"{file} is of another model, or damaged. Delete it, and publish the model again.")
    return maxima


def quantize(
    config: NomicBertConfig, weights: Mapping[str, np.ndarray], maxima: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, QuantizedInput]]:
    """Choose the factor of every channel and the step of every input.

    Args:
        config: of the encoder.
        weights: by name, in float32.
        maxima: as `measure_input_maxima` found them.

    Returns:
        The weights, with the factors of channels that a linear map wrote divided out of that map; and by the name of
        each linear map, what `build_graph` needs.
    """
    weights = dict(weights)
    inputs: dict[str, QuantizedInput] = {}
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layers.{number}"
        qkv, out, fc11, fc12, fc2 = (
            f"{layer}.{name}" for name in ("attn.Wqkv", "attn.out_proj", "mlp.fc11", "mlp.fc12", "mlp.fc2")
        )
        inputs[qkv] = _quantized_input(maxima[qkv], weights[f"{qkv}.weight"])
        inputs[out] = _quantized_input(maxima[out], weights[f"{out}.weight"])
        both = np.concatenate([weights[f"{fc11}.weight"], weights[f"{fc12}.weight"]])
        inputs[fc11] = inputs[fc12] = _quantized_input(maxima[fc11], both)
        inputs[fc2] = _quantized_input(maxima[fc2], weights[f"{fc2}.weight"])
        # attention averages values, and the gate multiplies, channel by channel: there the factors pass through
        query_key, value = np.split(weights[f"{qkv}.weight"], [-len(inputs[out].channels)])
        weights[f"{qkv}.weight"] = np.concatenate([query_key, value / inputs[out].channels[:, None]])
        weights[f"{fc11}.weight"] = weights[f"{fc11}.weight"] / inputs[fc2].channels[:, None]
    return weights, inputs


def _quantized_input(maxima: np.ndarray, weight: np.ndarray) -> QuantizedInput:
    """Share the unevenness of channels between input and weight (out, in), each as its square root."""
    columns = np.abs(weight).max(axis=0)
    channels = np.sqrt(np.maximum(maxima, _LEAST) / np.maximum(columns, _LEAST)).astype(np.float32)
    return QuantizedInput(float((maxima / channels).max() or _LEAST) / 127, channels)


def _map_names(config: NomicBertConfig) -> list[str]:
    return [f"encoder.layers.{number}.{name}" for number in range(config.num_hidden_layers) for name in _MAPS]


def _input_width(name: str, config: NomicBertConfig) -> int:
    return config.intermediate_size if name.endswith("fc2") else config.hidden_size
