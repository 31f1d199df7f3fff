"""Exact nearest neighbours by inner product."""

import torch
from torch import Tensor
from tqdm.auto import tqdm


def top_k(
    queries: Tensor,
    documents: Tensor,
    k: int,
    *,
    block_size: int = 4096,
    device: str | torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k documents with the largest inner product for every query, exactly.

    Scores are computed in float32, `block_size` queries by `block_size` documents at a time, and merged as
    they come; that one block of scores is all the memory needed beside the inputs and the result.

    Args:
        queries: Query embeddings (q, dim).
        documents: Document embeddings (d, dim).
        k: Documents per query.
        block_size: Rows and columns of a block of scores.
        device: Where to compute; None: where `queries` is.

    Returns:
        Scores (q, k), largest first, and document indices (q, k), both on the CPU. Documents with equal
        scores are in the order of their indices, also where the k-th place is shared.

    Raises:
        ValueError: k is not in 1 ... d, the shapes do not fit, or an embedding is not finite.
    """
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"queries (q, dim) and documents (d, dim) do not fit: {tuple(queries.shape)} and {tuple(documents.shape)}."
        )
    if not 1 <= k <= len(documents):
        raise ValueError(f"k must be from 1 to the number of documents, {len(documents)}, not {k}.")
    for name, embeddings in (("queries", queries), ("documents", documents)):
        if not torch.isfinite(embeddings).all():
            raise ValueError(f"{name}: an embedding is NaN or infinite.")
    device = torch.device(device or queries.device)
    scores = torch.empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.long)
    with tqdm(total=len(queries), desc="Searching", unit="query", leave=False) as progress:
        for start in range(0, len(queries), block_size):
            block = queries[start : start + block_size].to(device, torch.float32)
            best_scores, best_indices = _top_k_of_block(block, documents, k, block_size)
            scores[start : start + block_size] = best_scores.cpu()
            indices[start : start + block_size] = best_indices.cpu()
            progress.update(len(block))
    return scores, indices


def _top_k_of_block(queries: Tensor, documents: Tensor, k: int, block_size: int) -> tuple[Tensor, Tensor]:
    best_scores = queries.new_empty(len(queries), 0)
    best_indices = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(documents), block_size):
        block = documents[start : start + block_size].to(queries.device, torch.float32)
        scores, indices = _select(queries @ block.T, k)
        # The running result stands first and holds lower indices, so a stable sort keeps ties in order.
        merged = torch.cat([best_scores, scores], dim=1).sort(dim=1, descending=True, stable=True)
        best_scores = merged.values[:, :k]
        best_indices = torch.cat([best_indices, indices + start], dim=1).gather(1, merged.indices[:, :k])
    return best_scores, best_indices


def _select(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of every row by (score, lower index); all of them, sorted, where a row has no more than k."""
    width = scores.shape[1]
    if width > k:
        values, indices = scores.topk(k + 1, dim=1)
        # topk picks any of those that share the last place; such rows are sorted in full.
        shared = values[:, k] == values[:, k - 1]
        indices = indices[:, :k].sort(dim=1).values
        if shared.any():
            indices[shared] = scores[shared].argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values
    else:
        indices = torch.arange(width, device=scores.device).expand_as(scores)
    order = scores.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return order.values, indices.gather(1, order.indices)
