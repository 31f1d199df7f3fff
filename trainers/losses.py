"""From token vectors to a contrastive loss: mean pooling and InfoNCE (paper §4.2, Eqs. 1 and 2)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

HardNegativeScope = Literal["global", "own"]

# The pool of documents must not set the memory; several copies of this many float32 logits are held at a time.
_LOGITS_AT_ONCE = 2**24
_LOGITS_AT_ONCE_ON_CPU = 2**20
LOSS_BYTES = 6 * 4 * _LOGITS_AT_ONCE  # on a GPU at most: logits, masked ones, their gradients, and two to spare


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


def pooled_loss(
    pooled: Tensor,
    num_queries: int,
    scale: float = 50.0,
    hard_negative_scope: HardNegativeScope = "global",
    matryoshka_dims: Sequence[int] | None = None,
    document_keys: Tensor | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
    rank: int = 0,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of mean-pooled vectors, summed over the Matryoshka dimensions, and the accuracy at the largest of them.

    Args:
        pooled: (texts, dim): the queries, then row by row the document and its hard negatives; not normalized.
        num_queries: of them.
        scale: as in `info_nce`.
        hard_negative_scope: likewise.
        matryoshka_dims: as in `ContrastiveConfig`.
        document_keys: as in `info_nce`, of all ranks.
        gather: the documents of all ranks from this rank's; None: this rank's alone are the pool.
        rank: of this process, whose documents are at its place among those gathered.
    """
    if matryoshka_dims:
        pooled = F.layer_norm(pooled, pooled.shape[-1:])
    queries, documents = pooled[:num_queries], pooled[num_queries:]
    per_query = len(documents) // num_queries
    labels = torch.arange(num_queries, device=pooled.device)
    if gather is not None:
        labels = labels + num_queries * rank
        documents = gather(documents)
    results = [
        info_nce(
            F.normalize(queries[:, :dim], dim=-1),
            F.normalize(documents[:, :dim], dim=-1),
            labels * per_query,
            scale,
            hard_negative_scope,
            per_query,
            document_keys,
        )
        for dim in sorted(matryoshka_dims or [pooled.shape[-1]], reverse=True)
    ]
    return torch.stack([loss for loss, _ in results]).sum(), results[0][1]


def info_nce(
    query_embeddings: Tensor,
    document_embeddings: Tensor,
    labels: Tensor,
    scale: float = 50.0,
    hard_negative_scope: HardNegativeScope = "global",
    documents_per_query: int = 1,
    document_keys: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE from queries to documents, with logits in float32.

    Every query is scored against the documents of all rows. Documents lie row by row, each row's positive first and
    its hard negatives after it, so the positives are the columns divisible by `documents_per_query`. Where there are
    many logits they are made and differentiated a block of queries at a time, so memory does not grow with their
    number.

    Args:
        query_embeddings: (queries, dim), normalized; this rank's, or all.
        document_embeddings: (rows * documents_per_query, dim), normalized; of the whole global batch.
        labels: (queries,) the column of each query's positive.
        scale: 1 / temperature; 50 as in the authors' code.
        hard_negative_scope: "global": the hard negatives of all rows are everyone's negatives, as in the authors'
            code. "own": Eq. 2 as printed, a query sees all positives but only its own hard negatives.
        documents_per_query: 1 + hard negatives per row.
        document_keys: (documents,) integers, equal for equal documents: copies of a query's positive are then no
            negatives of that query. None: they are.

    Returns:
        The mean loss over the queries, and the share of queries whose positive scores highest (no gradient).

    Raises:
        ValueError: an unknown scope, or documents that do not divide into rows.
    """
    if hard_negative_scope not in ("global", "own"):
        raise ValueError(f"hard_negative_scope must be 'global' or 'own', not {hard_negative_scope!r}.")
    documents = len(document_embeddings)
    if documents % documents_per_query:
        raise ValueError(
            f"{documents} documents do not divide into rows of {documents_per_query} "
            "(a positive and its hard negatives)."
        )
    own = documents_per_query if hard_negative_scope == "own" and documents_per_query > 1 else None
    block = partial(
        _loss_and_hits, documents=document_embeddings.float(), scale=scale, own_rows_of=own, keys=document_keys
    )
    queries = query_embeddings.float()
    rows = max(1, (_LOGITS_AT_ONCE_ON_CPU if queries.device.type == "cpu" else _LOGITS_AT_ONCE) // documents)
    if len(queries) <= rows:
        loss, hits = block(queries, labels)
    else:
        sums = [
            checkpoint(block, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(queries.split(rows), labels.split(rows), strict=True)
        ]
        loss, hits = torch.stack([part[0] for part in sums]).sum(), torch.stack([part[1] for part in sums]).sum()
    return loss / len(queries), hits / len(queries)


def _loss_and_hits(
    queries: Tensor, labels: Tensor, documents: Tensor, scale: float, own_rows_of: int | None, keys: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Summed over the queries: the loss, and how many positives score highest."""
    # Autocast would round the cosines to bfloat16, in steps of 0.2 at scale 50.
    with torch.autocast(queries.device.type, enabled=False):
        logits = scale * _ExactProducts.apply(queries, documents)
        if own_rows_of:
            logits = logits.masked_fill(_other_rows_negatives(labels, len(documents), own_rows_of), -torch.inf)
        if keys is not None:
            logits = logits.masked_fill(_copies_of_positives(labels, keys), -torch.inf)
        loss = F.cross_entropy(logits, labels, reduction="sum")
    return loss, (logits.detach().argmax(dim=1) == labels).float().sum()


class _ExactProducts(torch.autograd.Function):
    """`queries @ documents.T` and its gradients in float32, where settings of torch would round the factors.

    transformers turns on TF32 with torch_compile, which rounds them to 11 bits.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor) -> Tensor:
        ctx.save_for_backward(queries, documents)
        with _exact_products():
            return queries @ documents.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        queries, documents = ctx.saved_tensors
        with _exact_products():
            return gradient @ documents, gradient.T @ queries


@contextmanager
def _exact_products() -> Iterator[None]:
    kinds: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    rounding = {kind: kind.fp32_precision for kind in kinds if kind.fp32_precision in ("tf32", "bf16")}
    try:
        for kind in rounding:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in rounding.items():
            kind.fp32_precision = precision


def _other_rows_negatives(labels: Tensor, documents: int, documents_per_query: int) -> Tensor:
    column = torch.arange(documents, device=labels.device)
    is_negative = column % documents_per_query != 0
    is_other_row = (column // documents_per_query) != (labels // documents_per_query)[:, None]
    return is_negative & is_other_row


def _copies_of_positives(labels: Tensor, keys: Tensor) -> Tensor:
    column = torch.arange(len(keys), device=labels.device)
    return (keys[labels][:, None] == keys) & (labels[:, None] != column)
