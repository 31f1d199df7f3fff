"""Embeddings that are not finite mean nothing: whoever searches, scores or keeps them refuses them."""

from typing import TypeVar

import numpy as np
import torch

_Array = TypeVar("_Array", np.ndarray, torch.Tensor)


def require_finite(embeddings: _Array) -> _Array:
    """The embeddings (texts, dim), if all of their numbers are finite.

    Raises:
        ValueError: one is NaN or infinite, so that whatever is computed from them means nothing.
    """
    finite = np.isfinite(embeddings) if isinstance(embeddings, np.ndarray) else torch.isfinite(embeddings)
    if not finite.all():
        bad = int((~finite).any(-1).sum())
        raise ValueError(
            f"the embeddings of {bad:,} of {len(embeddings):,} texts are not finite (NaN or infinity), so they mean "
            "nothing; the model's weights are damaged or its training diverged. Choose another checkpoint."
        )
    return embeddings
