import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from evaluation.ranking import fuse_scores
from evaluation.retrieval import RetrievalSet, evaluate_bm25, evaluate_embedder, evaluate_fused
from tests.evaluation.test_retrieval import HashedWords


def test_fused_scores_are_weighted_means_of_scaled_scores():
    near, words = [("a", 0.9), ("b", 0.6), ("c", 0.4)], [("c", 8.0), ("d", 2.0)]
    fused = fuse_scores(near, words, words_share=0.75)
    assert dict(fused) == pytest.approx({"a": 0.25, "b": 0.25 * 0.4, "c": 0.75, "d": 0.75 * 0.25})
    assert [name for name, _ in fused] == ["c", "a", "d", "b"]
    assert [name for name, _ in fuse_scores(near, words, words_share=0)][:2] == ["a", "b"]
    assert [name for name, _ in fuse_scores(near, words, words_share=1)][:2] == ["c", "d"]


def test_a_ranking_that_is_empty_or_all_alike_is_joined_too():
    assert fuse_scores([], []) == []
    assert fuse_scores([], [("b", 2.0), ("a", 2.0)], 0.5) == [("a", 0.5), ("b", 0.5)]
    assert fuse_scores([("a", 0.3)], [], 0.5) == [("a", 0.5)]


def test_together_they_find_what_each_alone_misses():
    """BM25 has no word of one query, and the embedder a wrong vector for the other."""
    queries = {"words": "banded matrix", "meaning": "unheard"}
    documents = {"a": "solve a banded matrix", "b": "shortest path", "c": "something else", "d": "another thing"}
    vectors = {"unheard": [0, 1], "shortest path": [0, 1], "banded matrix": [1, 0], "solve a banded matrix": [0.9, 0.1]}

    class Chosen(HashedWords):
        @staticmethod
        def embed(text):
            return torch.tensor(vectors.get(text, [0.5, -0.9]), dtype=torch.float32)

    model = SentenceTransformer(modules=[Chosen()], prompts={"query": "", "document": ""}, device="cpu")
    retrieval_set = RetrievalSet(queries, documents, {"words": {"a"}, "meaning": {"b"}})
    vectors["banded matrix"] = [0.4, -1.0]  # nearest to what is not asked for
    words, meaning = evaluate_bm25(retrieval_set), evaluate_embedder(model, retrieval_set)
    together = evaluate_fused(model, retrieval_set)
    assert words["mrr@10"] == 50 and meaning["mrr@10"] < 80
    assert together["mrr@10"] > max(words["mrr@10"], meaning["mrr@10"])


def test_embeddings_that_are_not_finite_are_refused(monkeypatch):
    monkeypatch.setattr(HashedWords, "embed", staticmethod(lambda text: torch.full((16,), np.nan)))
    model = SentenceTransformer(modules=[HashedWords()], prompts={"query": "", "document": ""}, device="cpu")
    with pytest.raises(ValueError, match="are not finite"):
        evaluate_fused(model, RetrievalSet({"q": "a"}, {"d": "b"}, {"q": {"d"}}))
