"""Rankings that need no embedder: BM25, and the fusion of rankings. Nothing here takes long to import."""

from collections.abc import Mapping, Sequence

import bm25s

DEPTH = 100  # documents that a ranking names which is to be joined with others
# Ours: of 0.3 to 0.8, a compromise of packages that a model was trained on and others (docs/results/quickstart.md).
WORDS_SHARE = 0.7

Ranking = Sequence[tuple[str, float]]


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


def fuse_scores(nearest: Ranking, by_words: Ranking, words_share: float = WORDS_SHARE) -> list[tuple[str, float]]:
    """Join a ranking by embeddings and one by BM25: a weighted mean of their scores, each from 0 to 1.

    Bruch, Gai and Ingber 2023 (doi:10.1145/3596512) find it ahead of reciprocal rank fusion.

    Args:
        nearest: (document id, similarity), best first; the last one gets 0, and the first one 1.
        by_words: (document id, BM25 score), best first; a score of 0, no word in common, stays 0, and the first is 1.
        words_share: weight of `by_words`, from 0 to 1; `nearest` has the rest.

    Returns:
        (id, score), best first. A document that a ranking does not name has 0 from it. Equal scores are in the order
        of ids.
    """
    scores: dict[str, float] = {}
    floor = nearest[-1][1] if nearest else 0.0
    for ranking, least, share in ((nearest, floor, 1 - words_share), (by_words, 0.0, words_share)):
        span = ranking[0][1] - least if ranking else 0.0
        for document, score in ranking:
            scores[document] = scores.get(document, 0.0) + share * ((score - least) / span if span else 1.0)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
