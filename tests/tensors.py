"""Batches of token ids, and how near two tensors must be."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(texts: Sequence[Tensor], width: int | None = None, left: bool = False) -> tuple[Tensor, Tensor]:
    """Texts of token ids as one batch (texts, width), and its mask."""
    width = width or max(map(len, texts))
    ids, mask = torch.zeros(2, len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return ids, mask


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Absolutely: outputs of the models are of order 1."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
