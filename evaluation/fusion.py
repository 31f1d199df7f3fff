"""Embeddings and BM25 together: each finds what the other misses."""

from collections.abc import Iterable, Sequence

from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search

from .retrieval import Bm25Index, RetrievalSet, require_finite, score_hits

DEPTH = 100  # documents that each ranking names
_CONSTANT = 60  # of the source


def fuse_ranks(rankings: Iterable[Sequence[str]]) -> list[tuple[str, float]]:
    """Join rankings by reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, doi:10.1145/1571941.1572114).

    Args:
        rankings: ids of documents, best first; a document need not be in each.

    Returns:
        (id, score), best first, the score being the sum of 1 / (60 + rank) over the rankings that name the document.
        Equal scores are in the order of ids.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(ranking, 1):
            scores[document] = scores.get(document, 0.0) + 1 / (_CONSTANT + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def evaluate_fused(model: SentenceTransformer, retrieval_set: RetrievalSet) -> dict[str, float]:
    """Score an embedder and BM25 together, with the metrics and prompts of `evaluation.retrieval.evaluate_embedder`.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.

    Raises:
        ValueError: an embedding is not finite.
    """
    ids, queries = list(retrieval_set.documents), list(retrieval_set.queries.values())
    documents = require_finite(model.encode_document(list(retrieval_set.documents.values()), convert_to_tensor=True))
    asked = require_finite(model.encode_query(queries, convert_to_tensor=True))
    nearest = semantic_search(asked, documents, top_k=DEPTH, score_function=model.similarity)
    by_words = Bm25Index(retrieval_set.documents).search(queries, DEPTH)
    fused = [
        fuse_ranks([[ids[int(hit["corpus_id"])] for hit in near], [document for document, _ in words]])
        for near, words in zip(nearest, by_words, strict=True)
    ]
    return score_hits(retrieval_set, fused)
