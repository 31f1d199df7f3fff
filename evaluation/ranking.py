"""BM25, and its scores joined with an embedder's. Nothing here takes long to import."""

from collections.abc import Mapping, Sequence

import bm25s
import numpy as np

# What a point of BM25 counts beside a cosine. Ours: within a point of the best of 0.01 to 0.07 on functions and other
# sets, for two embedders (docs/results/quickstart.md).
WORDS_WEIGHT = 0.03


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

    def scores(self, query: str) -> np.ndarray:
        """The score of every document, (documents,) in float32; 0 where it shares no word with the query."""
        (words,) = bm25s.tokenize([query], stopwords="english", return_ids=False, show_progress=False)
        return self._index.get_scores(words) if words else np.zeros(len(self._ids), dtype=np.float32)


def join_scores(similarities: np.ndarray, by_words: np.ndarray) -> np.ndarray:
    """Add BM25's scores to cosine similarities, as Karpukhin et al. 2020 do (doi:10.18653/v1/2020.emnlp-main.550).

    Neither is scaled by what else was found: where no document has the words of a query, BM25 says little, and where
    none is close, the embedder does.

    Args:
        similarities: cosines of a query with documents, (documents,).
        by_words: their scores from `Bm25Index.scores`, (documents,).

    Returns:
        The sums, (documents,).
    """
    return similarities + WORDS_WEIGHT * by_words


def best_first(scores: np.ndarray, most: int) -> np.ndarray:
    """The numbers of the documents with the highest scores (documents,), at most so many; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:most]
