import threading

import numpy as np
import pytest
import torch

from curation import search
from curation.search import BlockSize, ranks, top_k
from tests.tensors import assert_close

BLOCKS = [BlockSize(5, 1), BlockSize(3, 16), BlockSize(4, 100), None]


def brute_force(queries, documents, k):
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def whole_numbers(largest, queries, documents):
    """Embeddings whose scores are exact in float32 and tie often, at the k-th place too."""
    generator = np.random.default_rng(0)
    shapes = (queries, 4), (documents, 4)
    return [generator.integers(-largest, largest + 1, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("block_size", BLOCKS)
@pytest.mark.parametrize("k", [1, 4, 40, 300])
@pytest.mark.parametrize("largest", [1, 3])
def test_equals_brute_force_with_many_ties(block_size, k, largest):
    queries, documents = whole_numbers(largest, 11, 300)
    queries[3] = 0  # scores of 0.0 and -0.0, which are equal
    scores, indices = top_k(queries, torch.from_numpy(documents), k, block_size=block_size)
    expected_scores, expected_indices = brute_force(queries, documents, k)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)
    np.testing.assert_array_equal(scores.numpy(), expected_scores)


def test_keys_are_in_the_order_of_scores_then_indices():
    scores = torch.tensor([-torch.inf, -1e15, -2.0, -1.5, -1e-40, 0.0, -0.0, 1e-40, 1.5, 2.0, 1e15])
    indices = torch.tensor([9, 0, 7, 1, 2, 5, 6, 3, 4, 2**32 - 1, 0])  # 0.0 at index 5 stands before -0.0 at 6
    keys = search._join_keys(scores, indices)
    assert keys.argsort().tolist() == [0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10]
    found = search._split_keys(keys)
    assert torch.equal(found[0], scores) and torch.equal(found[1], indices)


@pytest.mark.parametrize("block_size", [BlockSize(8, 128), BlockSize(64, 1500), None])
def test_the_order_of_the_documents_does_not_matter(block_size, monkeypatch):
    # From worst to best, every score of every block is a new best one, so there are more than are read at once.
    monkeypatch.setattr(search, "_GROUPS_AT_ONCE", 5)
    query = np.full((20, 8), 0.5, dtype=np.float32)
    documents = np.repeat(np.arange(-1000, 1000, dtype=np.float32)[:, None], 8, axis=1)
    scores, indices = top_k(query, documents, 7, block_size=block_size)
    assert indices.tolist() == [list(range(1999, 1992, -1))] * 20
    assert scores[0].tolist() == [4 * value for value in range(999, 992, -1)]


@pytest.mark.parametrize("block_size", [BlockSize(40, 3), BlockSize(7, 1500), None])
@pytest.mark.parametrize("largest", [1, 3])
def test_ranks_equal_the_definition(block_size, largest):
    queries, documents = whole_numbers(largest, 30, 3000)
    own = np.random.default_rng(1).integers(0, 3000, 30)
    places, own_scores = ranks(queries, documents, own, block_size=block_size)
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    np.testing.assert_array_equal(own_scores.numpy(), scores[np.arange(30), own])
    np.testing.assert_array_equal(places.numpy(), 1 + (scores > scores[np.arange(30), own][:, None]).sum(axis=1))


def test_every_document_above_the_own_one_counts():
    # more than a byte can count, in every column of a block and in several blocks
    documents = torch.ones(5000, 2)
    documents[4321] = 0
    assert ranks(torch.ones(3, 2), documents, torch.full((3,), 4321))[0].tolist() == [5000] * 3


def test_what_float32_cannot_tell_apart_costs_no_place():
    generator = torch.Generator().manual_seed(0)
    documents = torch.nn.functional.normalize(torch.randn(500, 768, generator=generator), dim=1)
    documents = torch.cat([documents, documents[:, torch.arange(768)]])  # every document twice
    queries = torch.nn.functional.normalize(documents[:500] + 0.1 * torch.randn(500, 768, generator=generator), dim=1)
    for block_size in (BlockSize(70, 33), None):
        assert ranks(queries, documents, torch.arange(500), block_size=block_size)[0].tolist() == [1] * 500
        # Nor does the own document, however little is tolerated, and however long the embeddings are.
        strict, _ = ranks(300 * queries, documents[:500], torch.arange(500), tolerance=0.0, block_size=block_size)
        assert strict.tolist() == [1] * 500
    assert ranks(torch.ones(1, 1), torch.tensor([[1.0], [1.01], [1.2]]), torch.tensor([0]), tolerance=0.1)[0] == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_shards_on_the_disk_are_one_table(dtype, tmp_path):
    generator = np.random.default_rng(0)
    queries, documents = (generator.standard_normal((rows, 64)).astype(dtype) for rows in (20, 300))
    shards = []
    for number, shard in enumerate(np.split(documents, [100, 101, 250])):
        np.save(tmp_path / f"{number}.npy", shard)
        shards.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    own = torch.arange(20) * 15
    own[:6] = torch.tensor([99, 100, 101, 249, 250, 299])  # beside the borders
    for block_size in (BlockSize(3, 128), None):
        scores, indices = top_k([queries[:7], torch.from_numpy(queries[7:])], shards, 10, block_size=block_size)
        expected_scores, expected_indices = brute_force(queries, documents, 10)
        assert scores.dtype == torch.float32
        np.testing.assert_array_equal(indices.numpy(), expected_indices)
        np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=1e-5)
        places, own_scores = ranks(queries, shards, own, block_size=block_size)
        everything = queries.astype(np.float64) @ documents.astype(np.float64).T
        chosen = everything[np.arange(20), own]
        np.testing.assert_allclose(own_scores.numpy(), chosen, rtol=1e-4)
        np.testing.assert_array_equal(places.numpy(), 1 + (everything > chosen[:, None] + 1e-6).sum(axis=1))


def test_several_devices_share_the_queries(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(50, 16, generator=generator), torch.randn(400, 16, generator=generator)
    size, own, used = BlockSize(4, 64), torch.arange(50), set()
    together = threading.Barrier(2, timeout=20)
    take = search._ScoreBlocks.query_blocks

    def watched(blocks):
        used.add(threading.get_ident())
        together.wait()  # both are at work
        return take(blocks)

    alone = [top_k(queries, documents, 9, block_size=size), ranks(queries, documents, own, block_size=size)]
    monkeypatch.setattr(search._ScoreBlocks, "query_blocks", watched)
    devices = ["cpu", torch.device("cpu")]
    both = [
        top_k(queries, documents, 9, device=devices, block_size=size),
        ranks(queries, documents, own, device=devices, block_size=size),
    ]
    assert len(used) >= 2
    for one, two in zip(alone, both, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_error_on_one_of_several_devices_is_raised(monkeypatch):
    monkeypatch.setattr(search, "_best_keys", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        top_k(torch.ones(9, 2), torch.ones(3, 2), 1, device=["cpu", "cpu"], block_size=BlockSize(1, 1))


def test_impossible_requests_are_refused():
    queries, documents = torch.zeros(2, 3), torch.zeros(4, 3)
    for k in (0, 5):
        with pytest.raises(ValueError, match="k must be from 1 to the number of documents, 4"):
            top_k(queries, documents, k)
    for wrong in (torch.zeros(4, 2), torch.zeros(4), [torch.zeros(4, 3), torch.zeros(1, 2)], []):
        with pytest.raises(ValueError, match="do not fit"):
            top_k(queries, wrong, 1)
    for own in ([0], [0.0, 1.0], [[0], [1]]):
        with pytest.raises(ValueError, match="own must be the index of a document for each of the 2 queries"):
            ranks(queries, documents, np.array(own))
    for outside in (-1, 4):
        with pytest.raises(ValueError, match=f"no document {outside}; there are 4"):
            ranks(queries, documents, torch.tensor([0, outside]))
    for wrong in (torch.nan, torch.inf, -1e16):
        documents[1, 1] = wrong
        with pytest.raises(ValueError, match="documents: an embedding is NaN"):
            top_k(queries, [torch.zeros(9000, 3), documents], 1)
        with pytest.raises(ValueError, match="documents: an embedding is NaN"):
            ranks(queries, documents, torch.tensor([0, 0]), block_size=BlockSize(1, 1))
        with pytest.raises(ValueError, match="queries: an embedding is NaN"):
            top_k(documents, queries, 1)


def test_no_queries_give_no_results():
    scores, indices = top_k(torch.zeros(0, 3), torch.zeros(4, 3), 2)
    assert scores.shape == indices.shape == (0, 2)
    assert [result.shape for result in ranks(torch.zeros(0, 3), torch.zeros(4, 3), torch.zeros(0).long())] == [(0,)] * 2


@pytest.mark.filterwarnings("error")
def test_small_searches_say_nothing(capfd):
    documents = np.ones((4, 3), dtype=np.float32)
    documents.flags.writeable = False
    top_k(documents, documents, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.parametrize("block_size", [BlockSize(500, 2000), None])
def test_gpu_finds_what_the_cpu_finds(block_size):
    generator = torch.Generator().manual_seed(0)
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(rows, 256, generator=generator), dim=1) for rows in (1200, 5003)
    )
    scores, indices = top_k(queries, documents, 21)
    gpu_scores, gpu_indices = top_k(
        queries, [documents[:100], documents[100:]], 20, device="cuda", block_size=block_size
    )
    assert_close(gpu_scores, scores[:, :20])
    gaps = (scores[:, :-1] - scores[:, 1:]) > 1e-5
    clear = gaps & torch.cat([torch.ones(len(gaps), 1, dtype=torch.bool), gaps[:, :-1]], dim=1)
    assert clear.float().mean() > 0.9 and torch.equal(gpu_indices[clear], indices[:, :20][clear])
    own = torch.arange(1200)
    places, own_scores = ranks(queries, documents, own)
    gpu_places, gpu_own_scores = ranks(queries, documents, own, device=["cuda"], block_size=block_size)
    assert_close(gpu_own_scores, own_scores)
    assert (gpu_places == places).float().mean() > 0.9 and (gpu_places - places).abs().max() <= 2
