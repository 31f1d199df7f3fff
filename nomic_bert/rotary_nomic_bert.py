"""Rotary position embedding (RoPE) and its scaling to long texts (paper §3.4, §3.5), per sequence and stateless.

The authors' code and native transformers compute the scaled base from the longest text of a padded batch and keep
it for later calls. Here every sequence is scaled by its own length, from scratch in every forward pass, so that an
embedding depends on its text alone.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from .configuration_nomic_bert import NomicBertConfig, ntk_base
from .unpadding_nomic_bert import exports

logger = logging.get_logger(__name__)


def length_limit(config: NomicBertConfig) -> int:
    """Tokens that a text may have: the usable length, or without scaling the trained one."""
    return config.n_positions if config.rotary_scaling_factor else config.max_trained_positions


def warn_if_too_long(config: NomicBertConfig, longest: int) -> None:
    """Warn, once, where a text of `longest` tokens is beyond `length_limit`."""
    limit = length_limit(config)
    if longest > limit and config.rotary_scaling_factor:
        logger.warning_once(
            f"A text is longer than the usable length n_positions ({limit:,} tokens): its embedding may be poor. "
            "Truncate it."
        )
    elif longest > limit:
        logger.warning_once(
            f"A text is longer than the trained length ({limit:,} tokens) and RoPE is not scaled: its embedding "
            "may be poor. Load with rotary_scaling_factor=2 (dynamic NTK), or truncate it."
        )


def inverse_frequencies(config: NomicBertConfig, lengths: Tensor) -> Tensor:
    """Inverse frequencies of sequences of the given lengths.

    - plain RoPE: `theta ** (-2i / d)`;
    - "linear", Eq. 3: positions, or equally frequencies, divided by the factor;
    - "ntk", Eq. 4: the base grows by a static factor;
    - "dynamic", Eq. 5: the base grows with the length, beyond `max_trained_positions` tokens only.

    Args:
        config: base, scaling and trained length.
        lengths: tokens per sequence, (sequences,).

    Returns:
        float32 (sequences, head_dim / 2).
    """
    head_dim, factor = config.head_dim, config.rotary_scaling_factor
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=lengths.device) / head_dim
    base = torch.full_like(lengths, config.rotary_emb_base, dtype=torch.float32)
    if factor and config.rotary_scaling_type == "dynamic":
        stretch = factor * lengths.float() / config.max_trained_positions - (factor - 1)
        base = torch.where(
            lengths > config.max_trained_positions, ntk_base(base, stretch.clamp(min=1.0), head_dim), base
        )
    elif factor and config.rotary_scaling_type == "ntk":
        base = ntk_base(base, factor, head_dim)
    frequencies = 1.0 / base[:, None] ** exponents
    if factor and config.rotary_scaling_type == "linear":
        frequencies = frequencies / factor
    return frequencies


def rotary_tables(frequencies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation angles, in float32 whatever the model's precision.

    Args:
        frequencies: (..., head_dim / 2), broadcast against the tokens.
        positions: (...) position of each token in its sequence.

    Returns:
        Two float32 tensors (..., head_dim / 2).
    """
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def apply_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head against each other (the NeoX layout, as released).

    Args:
        states: queries or keys (batch, tokens, ..., head_dim).
        cos: (batch, tokens, head_dim / 2), as `sin`.
        sin: as `cos`.

    Returns:
        The rotated states, in their own shape and precision; the rotation itself runs in float32.
    """
    cos, sin = _beside_heads(cos, states), _beside_heads(sin, states)
    if not is_traced() and not (torch.is_grad_enabled() and states.requires_grad):
        return _rotate(states, cos, sin, 1, torch.empty(states.shape, dtype=states.dtype, device=states.device))
    first, second = states.chunk(2, dim=-1)  # a compiler makes one kernel of it
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(states.dtype)


def rotate_projection(projected: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotate the queries and keys in a fused projection, as `apply_rotary`, for training without a compiler.

    No gradient of a slice is padded with zeros, and only the tables are kept for the backward pass.

    Args:
        projected: queries, keys and values (batch, tokens, 3, heads, head_dim).
        cos: (batch, tokens, head_dim / 2) in float32, as `sin`.
        sin: as `cos`.
        dtype: of the result.

    Returns:
        The same shape.
    """
    rotated: Tensor = _Rotation.apply(projected, _beside_heads(cos, projected), _beside_heads(sin, projected), dtype, 1)
    return rotated


def is_traced() -> bool:
    """Whether the pass is being exported or compiled: then each step must be written as a formula."""
    return exports() or torch.compiler.is_compiling()


class _Rotation(torch.autograd.Function):
    """The gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(projected: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype, direction: int) -> Tensor:
        rotated = torch.empty(projected.shape, dtype=dtype, device=projected.device)
        rotated[:, :, 2] = projected[:, :, 2]
        _rotate(projected[:, :, :2], cos, sin, direction, rotated[:, :, :2])
        return rotated

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        projected, cos, sin, _, ctx.direction = inputs
        ctx.save_for_backward(cos, sin)
        ctx.dtype = projected.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return _Rotation.apply(gradient, *ctx.saved_tensors, ctx.dtype, -ctx.direction), None, None, None, None


def _rotate(states: Tensor, cos: Tensor, sin: Tensor, direction: int, rotated: Tensor) -> Tensor:
    """Into `rotated`, in 4 kernels that read the states and write the result; as a formula it takes 8."""
    first, second = states.chunk(2, dim=-1)
    to_first, to_second = rotated.chunk(2, dim=-1)
    torch.addcmul(first * cos, second, sin, value=-direction, out=to_first)
    torch.addcmul(second * cos, first, sin, value=direction, out=to_second)
    return rotated


def _beside_heads(table: Tensor, states: Tensor) -> Tensor:
    """(batch, tokens, n) -> (batch, tokens, 1, ..., n), which broadcasts against the states."""
    return table.view(*table.shape[:2], *(1,) * (states.dim() - 3), table.shape[-1])
