"""The processes that `accelerate launch` or `torchrun` started for a step of curation, or this one alone."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState

_WAIT = timedelta(days=1)  # ranks wait for one another at the end of each phase, and shards differ in length


def join_ranks(*, use_gpu: bool = True) -> PartialState:
    """This process's rank, the number of ranks, its device, and where ranks wait for one another.

    Args:
        use_gpu: whether the step computes on GPUs where there are some.
    """
    # without an accelerator, accelerate treats several processes as unrelated unless it is told otherwise
    return PartialState(cpu=not (use_gpu and torch.accelerator.is_available()), timeout=_WAIT)


def ranks_here() -> int:
    """How many of the ranks run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
