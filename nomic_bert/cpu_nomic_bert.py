"""How a CPU computes. Without training: products by oneDNN, and so many tokens at once as its caches hold.

In training: attention in the precision whose backward pass is the faster.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .unpadding_nomic_bert import Sequences, exports

# Tokens at once: whole sequences by all layers, and of a longer one SwiGLU.
CPU_ROW, CPU_CHUNK = 2_048, 1_024
_ONEDNN_WORTH = 65_536  # values of a weight: with so few, oneDNN takes longer to begin than it saves
# Tokens of the longest sequence up to which SDPA is faster in float32. In bfloat16 its backward pass takes several
# times as long on sequences of 48 tokens, as long on 256, and half as long on 1,024.
_SHORT = 192

_HAS_ONEDNN = (  # both are in every build for x86 CPUs, where torch multiplies float32 matrices by MKL
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def is_cpu_inference(module: nn.Module, hidden: Tensor) -> bool:
    """Whether a pass may choose kernels and parts freely: on a CPU, and neither trained nor traced.

    GradCache's pass without gradients belongs to training: it must draw the dropout of the pass that follows it.
    """
    traced = exports() or torch.compiler.is_compiling()
    return hidden.device.type == "cpu" and not (module.training or torch.is_grad_enabled() or traced)


def linear_map(linear: nn.Module, hidden: Tensor) -> Tensor:
    """`linear(hidden)`; on an x86 CPU, where no gradient is needed, computed by oneDNN in place of MKL.

    On an AMD processor this takes two thirds of MKL's time for a short query, and about nine tenths for many tokens.
    The modules themselves stay plain `nn.Linear`, which quantization looks for; a module that replaces one, or that
    somebody hooked, is called.

    Args:
        linear: a linear map without bias.
        hidden: (..., in).

    Returns:
        (..., out).
    """
    if _suits_onednn(linear, hidden):
        return torch.ops.mkldnn._linear_pointwise(hidden, linear.weight, None, "none", [], "")
    return linear(hidden)


def _suits_onednn(linear: nn.Module, hidden: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and is_cpu_inference(linear, hidden)
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and is_plain_product(linear)
        and type(linear.weight) is nn.Parameter  # not a quantized or a distributed one
        and linear.weight.numel() > _ONEDNN_WORTH
        and linear.weight.device.type == "cpu"
        and hidden.dtype == linear.weight.dtype == torch.float32
    )


def is_plain_product(linear: nn.Module) -> bool:
    """Whether calling the module multiplies by its weight and does nothing else: no bias, no adapter, no hook."""
    return (
        type(linear) is nn.Linear
        and not (linear._forward_pre_hooks or linear._forward_hooks or "forward" in vars(linear))
        and linear.bias is None
    )


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own (AVX512-BF16 or AMX)."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def rotated_dtype(projected: Tensor, sequences: Sequences | None) -> torch.dtype:
    """The precision that attention trains in: the projection's, except on a CPU over short texts in bfloat16.

    Args:
        projected: queries, keys and values.
        sequences: of a packed row, whose lengths decide; None: a padded batch.
    """
    short = sequences is not None and sequences.max_length <= _SHORT
    in_full = short and projected.device.type == "cpu" and projected.dtype == torch.bfloat16
    return torch.float32 if in_full else projected.dtype
