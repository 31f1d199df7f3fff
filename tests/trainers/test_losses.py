import math

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.utils._python_dispatch import TorchDispatchMode

from trainers import losses
from trainers.losses import info_nce, mean_pool


@pytest.fixture
def embeddings():
    """4 queries and 4 rows of (positive, negative, negative)."""
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(4, 8, generator=generator), dim=-1)
    documents = F.normalize(torch.randn(12, 8, generator=generator), dim=-1)
    return queries, documents


def test_equation_1_by_hand(embeddings):
    queries, documents = embeddings[0], embeddings[1][::3]
    terms = []
    for i in range(4):
        scores = [math.exp(float(queries[i] @ documents[j]) / 0.02) for j in range(4)]
        terms.append(-math.log(scores[i] / sum(scores)))
    loss, accuracy = info_nce(queries, documents, torch.arange(4))
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    expected = sum(int((queries[i] @ documents.T).argmax()) == i for i in range(4)) / 4
    assert accuracy.item() == expected


@pytest.mark.parametrize("scope", ["global", "own"])
def test_both_readings_of_equation_2_by_hand(embeddings, scope):
    queries, documents = embeddings
    terms = []
    for i in range(4):
        columns = [c for c in range(12) if scope == "global" or c % 3 == 0 or c // 3 == i]
        scores = {c: math.exp(float(queries[i] @ documents[c]) * 10) for c in columns}
        terms.append(-math.log(scores[3 * i] / sum(scores.values())))
    loss, _ = info_nce(queries, documents, torch.arange(4) * 3, 10.0, scope, documents_per_query=3)
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-5)


def test_settings_of_torch_that_round_products_reach_neither_logits_nor_gradients():
    """As `torch_compile` sets TF32 for GPUs, this sets bfloat16 for this CPU, where it has instructions for it."""
    generator = torch.Generator().manual_seed(0)
    queries, documents = (
        F.normalize(torch.randn(64, 256, generator=generator), dim=-1).requires_grad_() for _ in range(2)
    )
    expected, _ = info_nce(queries, documents, torch.arange(64))
    wanted = torch.autograd.grad(expected, (queries, documents))
    seen = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.mm.default:
                seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
            return function(*args, **(kwargs or {}))

    torch.backends.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = "tf32", "bf16"
    try:
        with Products():
            loss, _ = info_nce(queries, documents, torch.arange(64))
            found = torch.autograd.grad(loss, (queries, documents))
        assert seen == [("ieee", "ieee")] * 3
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.fp32_precision = "none"
        torch.backends.mkldnn.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for gradient, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-5, atol=1e-8)


class _Given(SentenceTransformer):
    """Stands in for a model: hands the loss the embeddings it is given."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.add_module("0", torch.nn.Identity())

    def forward(self, features):
        return features


@pytest.mark.parametrize("documents_per_query", [1, 3])
@pytest.mark.parametrize("theirs_cached", [False, True])
def test_equals_multiple_negatives_ranking_loss(embeddings, documents_per_query, theirs_cached):
    queries, documents = ((3 * e).requires_grad_() for e in embeddings)  # theirs normalizes by itself
    rows = documents.view(4, 3, 8)[:, :documents_per_query]
    if theirs_cached:
        loss_function = CachedMultipleNegativesRankingLoss(_Given(), scale=50.0, mini_batch_size=2)
    else:
        loss_function = MultipleNegativesRankingLoss(_Given(), scale=50.0)
    theirs = loss_function([{"sentence_embedding": e} for e in (queries, *rows.unbind(1))], labels=None)
    theirs.backward()  # theirs goes on from its cache in a hook
    their_gradients = queries.grad, documents.grad
    ours, _ = info_nce(
        F.normalize(queries, dim=-1),
        F.normalize(rows.flatten(0, 1), dim=-1),
        torch.arange(4) * documents_per_query,
        documents_per_query=documents_per_query,
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for our_gradient, their_gradient in zip(
        torch.autograd.grad(ours, (queries, documents)), their_gradients, strict=True
    ):
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-6)


def test_own_scope_gives_other_rows_negatives_no_gradient(embeddings):
    queries, documents = embeddings[0][:1], embeddings[1].clone().requires_grad_()
    info_nce(queries, documents, torch.tensor([3]), 1.0, "own", 3)[0].backward()
    reached = documents.grad.abs().sum(dim=1) > 0
    assert reached.tolist() == [True, False, False, True, True, True, True, False, False, True, False, False]


@pytest.mark.parametrize("keys", [None, torch.tensor([7, 1, 2, 7, 3, 4, 8, 7, 5, 9, 2, 6])])
@pytest.mark.parametrize("scope", ["global", "own"])
def test_blocks_of_queries_change_nothing(embeddings, monkeypatch, scope, keys):
    """Loss, accuracy and gradients; with 12 documents a block holds 1 query or 3."""

    def run():
        queries, documents = (e.clone().requires_grad_() for e in embeddings)
        loss, accuracy = info_nce(queries, documents, torch.arange(4) * 3, 10.0, scope, 3, keys)
        return loss.item(), accuracy.item(), *torch.autograd.grad(loss, (queries, documents))

    whole = run()
    for logits in (1, 36):
        monkeypatch.setattr(losses, "_LOGITS_AT_ONCE_ON_CPU", logits)
        for got, expected in zip(run(), whole, strict=True):
            torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected))


def test_copies_of_the_positive_are_no_negatives_by_hand(embeddings):
    """Documents 0, 3 and 7 are one text; 2 and 10 are another, which is nobody's positive and stays a negative."""
    queries, documents = embeddings
    keys = torch.tensor([7, 1, 2, 7, 3, 4, 8, 7, 5, 9, 2, 6])
    terms = []
    for i in range(4):
        columns = [c for c in range(12) if c == 3 * i or keys[c] != keys[3 * i]]
        scores = {c: math.exp(float(queries[i] @ documents[c]) * 10) for c in columns}
        terms.append(-math.log(scores[3 * i] / sum(scores.values())))
    masked, _ = info_nce(queries, documents, torch.arange(4) * 3, 10.0, "global", 3, keys)
    unmasked, _ = info_nce(queries, documents, torch.arange(4) * 3, 10.0, "global", 3)
    assert masked.item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    assert masked.item() < unmasked.item() - 1e-3


def test_logits_are_float32_under_autocast(embeddings):
    expected, _ = info_nce(*embeddings, torch.arange(4) * 3, documents_per_query=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = info_nce(*embeddings, torch.arange(4) * 3, documents_per_query=3)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()


def test_refuses_unknown_scope_and_ragged_rows(embeddings):
    with pytest.raises(ValueError, match="'all'"):
        info_nce(*embeddings, torch.arange(4), hard_negative_scope="all")
    with pytest.raises(ValueError, match="12 documents"):
        info_nce(*embeddings, torch.arange(4), documents_per_query=5)


def test_mean_pool_averages_each_sequence_in_float32():
    hidden = torch.randn(9, 4).bfloat16()
    pooled = mean_pool(hidden, torch.tensor([2, 1, 6]))
    expected = torch.stack([part.float().mean(dim=0) for part in hidden.split([2, 1, 6])])
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected)
