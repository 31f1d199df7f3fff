import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from evaluation.ranking import WORDS_WEIGHT, Bm25Index, best_first, join_scores
from evaluation.retrieval import RetrievalSet, evaluate_bm25, evaluate_embedder, evaluate_fused
from tests.evaluation.test_retrieval import HashedWords

DOCUMENTS = {"a": "solve a banded matrix", "b": "shortest path", "c": "the shortest of all paths", "d": "another thing"}


def test_scores_of_all_documents_are_those_of_the_search():
    index = Bm25Index(DOCUMENTS)
    for query in ("shortest path", "a banded thing", "the of", "unheard", ""):
        scores = dict(zip(DOCUMENTS, index.scores(query).tolist(), strict=True))
        (found,) = index.search([query], 4)
        assert dict(found) == pytest.approx({name: score for name, score in scores.items() if score})


def test_joined_scores_keep_how_sure_each_side_is():
    """No word of the query is in any document, or all are alike: the other side decides, unchanged."""
    cosines = np.array([0.5, 0.9, 0.1])
    assert join_scores(cosines, np.zeros(3)).tolist() == cosines.tolist()
    joined = join_scores(cosines, np.array([0.6, 0, 0.9]) / WORDS_WEIGHT)
    assert joined == pytest.approx([1.1, 0.9, 1.0])
    assert best_first(joined, 2).tolist() == [0, 2]
    assert best_first(np.array([1.0, 2.0, 2.0]), 9).tolist() == [1, 2, 0]


def test_together_they_find_what_each_alone_misses():
    """BM25 has no word of one query, and the embedder finds other documents a little nearer to the other."""
    queries = {"words": "banded matrix", "meaning": "unheard"}
    documents = {"a": "solve a banded matrix", "b": "shortest path", "c": "something else", "d": "another thing"}
    vectors = {"unheard": [0, 1], "shortest path": [0, 1], "solve a banded matrix": [0.52, -0.88]}

    class Chosen(HashedWords):
        @staticmethod
        def embed(text):
            return torch.tensor(vectors.get(text, [0.5, -0.9]), dtype=torch.float32)

    model = SentenceTransformer(modules=[Chosen()], prompts={"query": "", "document": ""}, device="cpu")
    retrieval_set = RetrievalSet(queries, documents, {"words": {"a"}, "meaning": {"b"}})
    words, meaning = evaluate_bm25(retrieval_set), evaluate_embedder(model, retrieval_set)
    together = evaluate_fused(model, retrieval_set)
    assert words["mrr@10"] == 50 and meaning["mrr@10"] < 80
    assert together["mrr@10"] > max(words["mrr@10"], meaning["mrr@10"])


def test_a_model_that_does_not_compare_by_cosine_is_refused():
    model = SentenceTransformer(modules=[HashedWords()], similarity_fn_name="dot", device="cpu")
    with pytest.raises(ValueError, match="compares by dot"):
        evaluate_fused(model, RetrievalSet({"q": "a"}, {"d": "b"}, {"q": {"d"}}))


def test_embeddings_that_are_not_finite_are_refused(monkeypatch):
    monkeypatch.setattr(HashedWords, "embed", staticmethod(lambda text: torch.full((16,), np.nan)))
    model = SentenceTransformer(modules=[HashedWords()], prompts={"query": "", "document": ""}, device="cpu")
    with pytest.raises(ValueError, match="are not finite"):
        evaluate_fused(model, RetrievalSet({"q": "a"}, {"d": "b"}, {"q": {"d"}}))
