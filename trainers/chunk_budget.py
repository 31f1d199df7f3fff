"""How many tokens a GPU can encode with gradient at a time, found by encoding a few."""

from collections.abc import Callable

import torch

CPU_CHUNK_TOKENS = 16_384
_TRIED = 2_048, 8_192
# Each tensor of a layer keeps below 2**31 values: the widest one of a 137M model has 6,144 for each token.
_MOST = 262_144
_USED = 0.85  # of the memory: texts of other lengths leave holes in it


def fitting_tokens(peak: Callable[[int], int], free: int, reserved: int) -> int:
    """Tokens that fit, as memory grows with them from one trial to a larger one.

    Args:
        peak: encodes so many tokens and goes back through them; returns the most bytes that it held.
        free: bytes.
        reserved: of these, bytes for what is held beside a chunk.

    Returns:
        At least the tokens of the smaller trial, at most 262,144.
    """
    less, more = _TRIED
    try:
        base, larger = peak(less), peak(more)
    except torch.OutOfMemoryError:
        return less
    per_token = max((larger - base) / (more - less), 1.0)
    constant = base - less * per_token  # gradients, and copies of the weights in half precision
    tokens = int((_USED * free - reserved - constant) / per_token)
    return min(max(tokens, less), _MOST)


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that this process can still allocate."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def peak_memory(work: Callable[[], None], device: torch.device) -> int:
    """Most bytes of a GPU's memory that some work held beyond what was held before."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
