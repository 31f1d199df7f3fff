"""What the C library does with the memory that a training step on a CPU frees."""

import contextlib
import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_* in glibc's malloc.h
_MOST_BYTES = 2**31 - 1
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step.

    By itself it hands large tensors back to the system, from which each step takes them again page by page, cleared.
    docs/results/stage1_speed.md has the time that this saves, and what it costs in memory.

    Returns:
        Whether it is kept: not by another C library, nor where the environment sets glibc's thresholds already.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Windows; macOS, musl
        library = ctypes.CDLL(None)
        return all(library.mallopt(which, _MOST_BYTES) for which in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
    return False
