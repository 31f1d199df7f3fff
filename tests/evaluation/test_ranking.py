import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from evaluation.ranking import fuse_ranks
from evaluation.retrieval import RetrievalSet, evaluate_bm25, evaluate_embedder, evaluate_fused
from tests.evaluation.test_retrieval import HashedWords


def test_fused_scores_are_sums_of_reciprocal_ranks():
    fused = dict(fuse_ranks([["a", "b", "c"], ["c", "d"]]))
    assert fused == pytest.approx({"a": 1 / 61, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62})
    assert [name for name, _ in fuse_ranks([["a", "b", "c"], ["c", "d"]])] == ["c", "a", "b", "d"]
    assert fuse_ranks([[], []]) == []


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
