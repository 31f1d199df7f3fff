"""`torch.compile` by layer: compiled once for texts of any lengths, and names of weights stay as they are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(model: nn.Module, backend: str = "inductor", mode: str | None = None) -> int:
    """Compile each layer in place, when it is next called. The whole model would be compiled anew for every shape.

    All layers share what is compiled: three graphs around attention, which stays as it is, for each of training,
    encoding without gradients and inference. One row of one token is computed uncompiled, because torch compiles for
    a size of 1 anew.

    Args:
        model: of transformers' layers.
        backend: as in torch.compile.
        mode: likewise; None: the default.

    Returns:
        How many layers there are.
    """
    # DistributedDataParallel's buckets would cut the graphs further, to reduce gradients between them; each layer is
    # a piece of its own already.
    torch._dynamo.config.optimize_ddp = False
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend, mode=mode)
        layer._compiled_call_impl = _unless_one_token(layer._call_impl, layer._compiled_call_impl)  # type: ignore[assignment]
    return len(layers)


def _unless_one_token(plain: Callable[..., Any], compiled: Any) -> Callable[..., Any]:
    def call(*inputs: Any, **named: Any) -> Any:
        is_one = bool(inputs) and isinstance(inputs[0], Tensor) and inputs[0].shape[1] == 1
        return (plain if is_one else compiled)(*inputs, **named)

    return call
