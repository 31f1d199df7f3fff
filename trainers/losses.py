"""From token vectors to a contrastive loss: mean pooling and InfoNCE (paper §4.2, Eqs. 1 and 2)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

HardNegativeScope = Literal["global", "own"]


def mean_pool(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Average the token vectors of each packed sequence, in float32.

    Args:
        hidden: (total_tokens, dim), sequences one after the other.
        lengths: (sequences,) tokens per sequence, at least 1 each; sums to total_tokens.

    Returns:
        (sequences, dim) float32, not normalized.
    """
    sequence = torch.repeat_interleave(lengths, output_size=len(hidden))
    sums = hidden.new_zeros(len(lengths), hidden.shape[-1], dtype=torch.float32)
    return sums.index_add(0, sequence, hidden.float()) / lengths[:, None]


def info_nce(
    query_embeddings: Tensor,
    document_embeddings: Tensor,
    labels: Tensor,
    scale: float = 50.0,
    hard_negative_scope: HardNegativeScope = "global",
    documents_per_query: int = 1,
) -> tuple[Tensor, Tensor]:
    """InfoNCE from queries to documents, with logits in float32.

    Every query is scored against the documents of all rows. Documents lie row by row, each row's positive first and
    its hard negatives after it, so the positives are the columns divisible by `documents_per_query`.

    Args:
        query_embeddings: (queries, dim), normalized; this rank's, or all.
        document_embeddings: (rows * documents_per_query, dim), normalized; of the whole global batch.
        labels: (queries,) the column of each query's positive.
        scale: 1 / temperature; 50 as in the authors' code.
        hard_negative_scope: "global": the hard negatives of all rows are everyone's negatives, as in the authors'
            code. "own": Eq. 2 as printed, a query sees all positives but only its own hard negatives.
        documents_per_query: 1 + hard negatives per row.

    Returns:
        The mean loss over the queries, and the share of queries whose positive scores highest (no gradient).

    Raises:
        ValueError: an unknown scope, or documents that do not divide into rows.
    """
    if hard_negative_scope not in ("global", "own"):
        raise ValueError(f"hard_negative_scope must be 'global' or 'own', not {hard_negative_scope!r}.")
    if len(document_embeddings) % documents_per_query:
        raise ValueError(
            f"{len(document_embeddings)} documents do not divide into rows of {documents_per_query} "
            "(a positive and its hard negatives)."
        )
    # Autocast would round the cosines to bfloat16, in steps of 0.2 at scale 50.
    with torch.autocast(query_embeddings.device.type, enabled=False):
        logits = scale * (query_embeddings.float() @ document_embeddings.float().T)
        if hard_negative_scope == "own" and documents_per_query > 1:
            logits = logits.masked_fill(_other_rows_negatives(logits, labels, documents_per_query), -torch.inf)
        loss = F.cross_entropy(logits, labels)
    accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
    return loss, accuracy


def _other_rows_negatives(logits: Tensor, labels: Tensor, documents_per_query: int) -> Tensor:
    column = torch.arange(logits.shape[1], device=logits.device)
    is_negative = column % documents_per_query != 0
    is_other_row = (column // documents_per_query) != (labels // documents_per_query)[:, None]
    return is_negative & is_other_row
