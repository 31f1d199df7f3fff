"""Embeddings of all ranks, with gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) where no process group was started."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate every rank's tensor in rank order; all ranks must give the same shape.

    The gradient that reaches a rank's tensor is the sum over all ranks' losses. Data-parallel training then averages
    parameter gradients over the ranks, so the mean of the ranks' mean losses needs no factor of the number of ranks.

    Args:
        tensor: (rows, ...), the same shape on every rank.

    Returns:
        (ranks * rows, ...); `tensor` itself where there is one rank.
    """
    _, ranks = rank_and_ranks()
    return tensor if ranks == 1 else _AllGather.apply(tensor)


class _AllGather(torch.autograd.Function):
    """Our own, because torch.distributed.nn.functional.all_gather is deprecated."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        rank, ranks = rank_and_ranks()
        ctx.rows = slice(rank * len(tensor), (rank + 1) * len(tensor))
        gathered = tensor.new_empty(ranks * len(tensor), *tensor.shape[1:])
        dist.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # a reduce-scatter would do, but gloo has none on every version
        return total[ctx.rows]
