import numpy as np
import pytest
import torch

from curation.search import top_k


def brute_force(queries, documents, k):
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize("block_size", [1, 3, 16, 4096])
@pytest.mark.parametrize("k", [1, 4, 40])
@pytest.mark.parametrize("largest", [1, 3])
def test_equals_brute_force_with_many_ties(block_size, k, largest):
    # Small whole numbers are exact in float32 and tie often, at the k-th place too.
    generator = np.random.default_rng(0)
    queries = generator.integers(-largest, largest + 1, (11, 4)).astype(np.float32)
    documents = generator.integers(-largest, largest + 1, (40, 4)).astype(np.float32)
    scores, indices = top_k(torch.from_numpy(queries), torch.from_numpy(documents), k, block_size=block_size)
    expected_scores, expected_indices = brute_force(queries, documents, k)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)
    np.testing.assert_array_equal(scores.numpy(), expected_scores)


def test_half_precision_embeddings_are_scored_in_float32():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(6, 64, generator=generator).bfloat16()
    documents = torch.randn(300, 64, generator=generator).bfloat16()
    scores, indices = top_k(queries, documents, 10, block_size=128)
    expected_scores, expected_indices = brute_force(queries.float().numpy(), documents.float().numpy(), 10)
    assert scores.dtype == torch.float32
    np.testing.assert_array_equal(indices.numpy(), expected_indices)
    np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=1e-5)


def test_impossible_requests_are_refused():
    queries, documents = torch.zeros(2, 3), torch.zeros(4, 3)
    for k in (0, 5):
        with pytest.raises(ValueError, match="k must be from 1 to the number of documents, 4"):
            top_k(queries, documents, k)
    with pytest.raises(ValueError, match="do not fit"):
        top_k(queries, torch.zeros(4, 2), 1)
    documents[1, 1] = torch.nan
    with pytest.raises(ValueError, match="documents: an embedding is NaN"):
        top_k(queries, documents, 1)


def test_no_queries_give_no_results():
    scores, indices = top_k(torch.zeros(0, 3), torch.zeros(4, 3), 2)
    assert scores.shape == indices.shape == (0, 2)
