"""The encoder as an OpenVINO graph, built from its weights.

The published .xml file is traced from torch for other programs, and takes a padding mask. This graph is made to be
fast: several texts share a row, rotation tables come in from outside, and products may run in 8 bits.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .configuration_nomic_bert import NomicBertConfig
from .openvino_import import openvino, ops
from .openvino_int8 import QuantizedInput

Weights = Mapping[str, np.ndarray]  # float32, by the names that NomicBertModel gives them


def build_graph(
    config: NomicBertConfig, weights: Weights, quantized: Mapping[str, QuantizedInput] | None = None
) -> openvino.Model:
    """Build the graph of an encoder.

    Its inputs are `input_ids` (rows, tokens) in int64; `cos` and `sin` (rows, 1, tokens, head_dim / 2), the rotation of
    each token; and `mask` (rows, 1, 1 or tokens, tokens), 0 where a token attends and very negative elsewhere. Its
    output is the last hidden state (rows, tokens, hidden).

    Args:
        config: of the encoder.
        weights: shared with the graph unless `quantized` is given, so they must stay until it is compiled.
        quantized: by the name of the linear map, what its input is in 8 bits; None: products run in the precision that
            the graph is compiled for. Divisions by `channels` must already be part of the weights, save those behind a
            layer norm, which are made here.
    """
    parts = _Parts(weights, quantized or {}, config.layer_norm_eps)
    heads, head_dim = config.num_attention_heads, config.head_dim
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    cos = ops.parameter([-1, 1, -1, head_dim // 2], np.float32, name="cos")
    sin = ops.parameter([-1, 1, -1, head_dim // 2], np.float32, name="sin")
    mask = ops.parameter([-1, 1, -1, -1], np.float32, name="mask")
    # in 8 bits nothing else shares the weights' memory, so that a copy of this table frees all of it
    table = ops.constant(weights["embeddings.word_embeddings.weight"], shared_memory=quantized is None)
    hidden = ops.gather(table, ids, _integers(0))
    hidden = ops.add(hidden, ops.constant(weights["embeddings.token_type_embeddings.weight"][:1, None]))
    hidden = parts.norm(hidden, "emb_ln")
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layers.{number}"
        projected = parts.linear(hidden, f"{layer}.attn.Wqkv")
        projected = ops.reshape(projected, _integers(0, 0, 3 * heads, head_dim), True)
        projected = ops.transpose(projected, _integers(0, 2, 1, 3))
        turned, value = ops.variadic_split(projected, _scalar(1), _integers(2 * heads, heads)).outputs()
        query, key = ops.split(_rotate(turned, cos, sin), _scalar(1), 2).outputs()
        attended = ops.scaled_dot_product_attention(query, key, value, mask)
        attended = ops.reshape(ops.transpose(attended, _integers(0, 2, 1, 3)), _integers(0, 0, -1), True)
        hidden = parts.norm(ops.add(parts.linear(attended, f"{layer}.attn.out_proj"), hidden), f"{layer}.norm1")
        gate = ops.swish(parts.linear(hidden, f"{layer}.mlp.fc12"))
        gated = ops.multiply(parts.linear(hidden, f"{layer}.mlp.fc11"), gate)
        hidden = parts.norm(ops.add(parts.linear(gated, f"{layer}.mlp.fc2"), hidden), f"{layer}.norm2")
    return openvino.Model([ops.result(hidden)], [ids, cos, sin, mask], "nomic_bert")


def _rotate(states: Any, cos: Any, sin: Any) -> Any:
    """Rotate the two halves of every head against each other; (rows, heads, tokens, head_dim) in and out."""
    first, second = ops.split(states, _scalar(3), 2).outputs()
    return ops.concat(
        [
            ops.subtract(ops.multiply(first, cos), ops.multiply(second, sin)),
            ops.add(ops.multiply(second, cos), ops.multiply(first, sin)),
        ],
        -1,
    )


class _Parts:
    """The operations that have weights."""

    def __init__(self, weights: Weights, quantized: Mapping[str, QuantizedInput], eps: float) -> None:
        self._weights, self._quantized, self._eps = weights, quantized, eps

    def weight(self, name: str) -> Any:
        return ops.constant(self._weights[f"{name}.weight"], shared_memory=True)

    def norm(self, hidden: Any, name: str) -> Any:
        scaled = ops.mvn(hidden, _integers(-1), True, self._eps, "inside_sqrt")
        scaled = ops.multiply(scaled, ops.constant(self._weights[f"{name}.weight"][None, None]))
        return ops.add(scaled, ops.constant(self._weights[f"{name}.bias"][None, None]))

    def linear(self, hidden: Any, name: str) -> Any:
        quantized = self._quantized.get(name)
        if quantized is None:
            return ops.matmul(hidden, self.weight(name), False, True)
        if name.endswith(("Wqkv", "fc11", "fc12")):  # what a layer norm wrote, which the residual sum reads too
            hidden = ops.multiply(hidden, ops.constant(1 / quantized.channels[None, None]))
        low, high = (ops.constant(np.float32(quantized.step * end)) for end in (-128, 127))
        hidden = ops.fake_quantize(hidden, low, high, low, high, 256)
        weight = self._weights[f"{name}.weight"] * quantized.channels
        steps = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-12) / 127
        integers = ops.convert(ops.constant(np.rint(weight / steps).astype(np.int8)), np.float32)
        return ops.matmul(hidden, ops.multiply(integers, ops.constant(steps)), False, True)


def _integers(*values: int) -> Any:
    return ops.constant(np.array(values, dtype=np.int64))


def _scalar(value: int) -> Any:
    return ops.constant(np.int64(value))
