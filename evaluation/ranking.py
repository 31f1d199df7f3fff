"""Rankings that need no embedder: BM25, and what joins rankings. Nothing here takes long to import."""

from collections.abc import Iterable, Mapping, Sequence

import bm25s

DEPTH = 100  # documents that a ranking names which is to be joined with others
_CONSTANT = 60  # of reciprocal rank fusion, as in its source


class Bm25Index:
    """BM25 over some documents: Lucene's variant with k1 1.5 and b 0.75.

    Words are lower-case, without English stop words, and not stemmed.

    Args:
        documents: document id -> text.
    """

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._ids = list(documents)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        tokens = bm25s.tokenize(list(documents.values()), stopwords="english", show_progress=False)
        self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
        """The best documents of each query as (document id, score), the best first, at most `top_k`.

        A document that shares no word with a query is not retrieved for it.
        """
        tokens = bm25s.tokenize(list(queries), stopwords="english", show_progress=False)
        found, scores = self._index.retrieve(
            tokens, k=min(top_k, len(self._ids)), backend_selection="numpy", show_progress=False
        )
        ranked = []
        for row, row_scores in zip(found.tolist(), scores.tolist(), strict=True):
            hits = [(self._ids[document], score) for document, score in zip(row, row_scores, strict=True) if score > 0]
            ranked.append(sorted(hits, key=lambda hit: (-hit[1], hit[0])))  # ties as the evaluator breaks them
        return ranked


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
