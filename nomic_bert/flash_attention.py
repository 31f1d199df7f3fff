"""FlashAttention 3 in place of version 2 under torch's own kernels, on the GPUs that it was written for."""

import logging
from functools import cache
from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import attention

logger = logging.getLogger(__name__)

_HOPPER = (9, 0)
_TEXTS = (17, 40)  # tokens of the texts that it is tried on
_TOLERANCE = 0.03  # of the largest value: bfloat16 keeps 8 bits, and a sum of 40 terms some fewer


@cache
def use_flash_attention_3(device: torch.device) -> bool:
    """Switch torch's attention kernels to FlashAttention 3 for the rest of the process, where it is there to be used.

    That is on a Hopper GPU with the package flash_attn_interface, and a torch that can register it. It has to attend to
    two short texts first, forwards and backwards. Where it fails, or differs from plain attention, version 2 stays, and
    a warning says why.

    Args:
        device: of the model.

    Returns:
        Whether version 3 is on.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != _HOPPER:
        return False
    if find_spec("flash_attn_interface") is None or not hasattr(attention, "activate_flash_attention_impl"):
        return False
    try:
        attention.activate_flash_attention_impl("FA3")
        error = _largest_error(device)
        failure = "" if error <= _TOLERANCE else f"it is off by {error:.2g} of the largest value"
    except Exception as raised:  # whatever a package may raise: training does not need it
        failure = f"{type(raised).__name__}: {raised}"
    if failure:
        attention.restore_flash_attention_impl()
        logger.warning("FlashAttention 3 is installed and not used: %s", failure)
    return not failure


def _largest_error(device: torch.device) -> float:
    """Of outputs and gradients over two packed texts in bfloat16, as a share of the largest value."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(sum(_TEXTS), 2, 64, generator=generator) for _ in range(3)]
    packed = [state.to(device, torch.bfloat16).requires_grad_() for state in states]
    exact = [state.detach().float().requires_grad_() for state in packed]
    runs = []
    for attend, inputs in ((_attend_packed, packed), (_attend_apart, exact)):
        output = attend(*inputs)
        output.float().square().sum().backward()
        runs.append([output.detach(), *(state.grad for state in inputs)])
    return max(float((found.float() - true).abs().max() / true.abs().max()) for found, true in zip(*runs, strict=True))


def _attend_packed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    offsets = F.pad(torch.tensor(_TEXTS).cumsum(0), (1, 0)).to(query.device, torch.int32)
    return cast(Tensor, varlen_attn(query, key, value, offsets, offsets, max(_TEXTS), max(_TEXTS)))


def _attend_apart(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    texts = zip(*(state.transpose(0, 1).split(_TEXTS, dim=1) for state in (query, key, value)), strict=True)
    outputs = [((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v for q, k, v in texts]
    return torch.cat(outputs, dim=1).transpose(0, 1)
