"""Copies between the host and a GPU that neither of them waits for."""

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to the device; to a GPU from pinned memory, because only that copy does not wait.

    A tensor that is on the device is returned as it is.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the host, behind the work that makes it and before all later work.

    Args:
        tensor: on any device.

    Returns:
        Waits for that copy, and for nothing that was queued after it, and returns the host's tensor.
    """
    if tensor.device.type != "cuda":
        return lambda: tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait
