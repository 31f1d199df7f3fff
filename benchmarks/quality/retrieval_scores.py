"""nDCG@10 of every single query, which `evaluation.retrieval` averages: what intervals are made of."""

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

from evaluation.retrieval import RetrievalSet, rank_bm25

CUTOFF = 10  # nDCG@10


def query_scores(
    embedder: SentenceTransformer, retrieval_set: RetrievalSet, query_tokens: int, document_tokens: int, batch_size: int
) -> np.ndarray:
    """nDCG@10 of every query in percent, (queries,), with the prompts and metric of `evaluation.retrieval`."""
    embedder.max_seq_length = query_tokens
    queries = embedder.encode_query(list(retrieval_set.queries.values()), batch_size=batch_size)
    embedder.max_seq_length = document_tokens
    documents = embedder.encode_document(
        list(retrieval_set.documents.values()), batch_size=batch_size, show_progress_bar=True
    )
    ids = np.array(list(retrieval_set.documents))
    ranked = ids[np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :CUTOFF]]
    return ndcg(retrieval_set, ranked.tolist())


def bm25_query_scores(retrieval_set: RetrievalSet) -> np.ndarray:
    """nDCG@10 of BM25 for every query in percent, (queries,)."""
    return ndcg(retrieval_set, [[document for document, _ in found] for found in rank_bm25(retrieval_set)])


def ndcg(retrieval_set: RetrievalSet, ranked: Sequence[Sequence[str]]) -> np.ndarray:
    """nDCG@10 of every query in percent, (queries,), judgements being binary.

    Args:
        retrieval_set: what was searched.
        ranked: for each query, in order, ids of the documents found, the best first, 10 at most.
    """
    gains = 1 / np.log2(np.arange(2, CUTOFF + 2))
    scores = []
    for query, found in zip(retrieval_set.queries, ranked, strict=True):
        relevant = retrieval_set.relevant[query]
        hits = np.array([document in relevant for document in found], dtype=bool)
        scores.append(100 * gains[: len(found)][hits].sum() / gains[: len(relevant)].sum())
    return np.array(scores)
