import weakref
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from tests.trainers.toys import encoder
from trainers import grad_cache, losses
from trainers.grad_cache import PackedTexts, backward_through_chunks, encode
from trainers.losses import info_nce

QUERIES, NEGATIVES = 6, 2


@pytest.fixture(params=[0, NEGATIVES], ids=["pairs", "hard negatives"])
def texts(request):
    generator = torch.Generator().manual_seed(1)
    count = QUERIES * (2 + request.param)
    lengths = torch.randint(1, 30, (count,), generator=generator)
    return PackedTexts(torch.randint(5, 95, (int(lengths.sum()),), generator=generator), lengths)


def loss_function(pooled):
    embeddings = F.normalize(pooled, dim=-1)
    documents = embeddings[QUERIES:]
    per_query = len(documents) // QUERIES
    return info_nce(embeddings[:QUERIES], documents, torch.arange(QUERIES) * per_query, documents_per_query=per_query)


def plain_means(model, texts):
    """Padded input and a masked mean: nothing shared with the code under test but the model."""
    ids = torch.nn.utils.rnn.pad_sequence(list(texts.input_ids.split(texts.lengths.tolist())), batch_first=True)
    mask = torch.arange(ids.shape[1]) < texts.lengths[:, None]
    hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def relative_error(got, expected):
    difference = sum((got[name] - expected[name]).double().square().sum() for name in expected).sqrt()
    return float(difference / sum(g.double().square().sum() for g in expected.values()).sqrt())


@pytest.mark.parametrize("row_tokens", [25, 4096])
@pytest.mark.parametrize("chunk_tokens", [1, 40, 150, 10_000])
def test_gradient_equals_the_full_batch(texts, chunk_tokens, row_tokens, monkeypatch):
    monkeypatch.setattr(grad_cache, "_CPU_ROW_TOKENS", row_tokens)
    model = encoder().train()
    expected_loss, expected_accuracy = loss_function(plain_means(model, texts))
    expected_loss.backward()
    expected = gradients(model)
    model.zero_grad()
    loss, accuracy = backward_through_chunks(model, texts, loss_function, chunk_tokens)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert accuracy.item() == expected_accuracy.item()
    assert relative_error(gradients(model), expected) < 1e-5


class SavedBytes:
    """Bytes that autograd holds for backward passes, as they come and go; equal storage counts once."""

    def __init__(self):
        self.held, self.most = 0, 0

    def keep(self, tensor):
        self.held += tensor.nbytes
        self.most = max(self.most, self.held)
        weakref.finalize(kept := _Kept(tensor), self.release, tensor.nbytes)
        return kept

    def release(self, count):
        self.held -= count

    def most_of(self, texts, queries):
        def loss_function(pooled):
            embeddings = F.normalize(pooled, dim=-1)
            return info_nce(embeddings[:queries], embeddings[queries:], torch.arange(queries))

        with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda kept: kept.tensor):
            backward_through_chunks(encoder().train(), texts, loss_function, 1000)
        return self.most


class _Kept:
    def __init__(self, tensor):
        self.tensor = tensor


def test_activations_do_not_grow_with_the_batch(monkeypatch):
    """16 times the texts, and 256 times the logits, in chunks and blocks of the same size; only vectors are more."""
    monkeypatch.setattr(losses, "_LOGITS_AT_ONCE_ON_CPU", 64)
    most = {}
    for queries in (8, 128):
        input_ids = torch.randint(5, 95, (2 * queries * 100,), generator=torch.Generator().manual_seed(1))
        most[queries] = SavedBytes().most_of(PackedTexts(input_ids, torch.full((2 * queries,), 100)), queries)
    assert most[128] < 1.05 * most[8]


def test_dropout_falls_on_the_same_places_in_both_passes(texts):
    """The full batch is the same sequence of chunk passes, with one autograd graph through all of them."""
    model = encoder(resid_pdrop=0.2, attn_pdrop=0.1).train()
    torch.manual_seed(5)
    expected_loss, _ = loss_function(encode(model, texts, 60))
    expected_loss.backward()
    expected, after_plain = gradients(model), torch.get_rng_state()
    model.zero_grad()
    torch.manual_seed(5)
    loss, _ = backward_through_chunks(model, texts, loss_function, 60)
    assert loss.item() == expected_loss.item()
    assert relative_error(gradients(model), expected) < 1e-5
    assert torch.equal(torch.get_rng_state(), after_plain)
    torch.manual_seed(6)
    assert loss_function(encode(model, texts, 60))[0].item() != expected_loss.item()  # dropout is on


@pytest.mark.parametrize("chunk_tokens", [1, 33, 100, 10_000])
def test_chunks_keep_the_budget_and_hold_every_text_once(texts, chunk_tokens):
    chunks = texts.chunks(chunk_tokens)
    assert len(chunks) == len(texts.rows(range(len(texts.sizes)), chunk_tokens))  # one after another, the fewest
    assert sorted(text for chunk in chunks for text in chunk) == list(range(len(texts.lengths)))
    for chunk in chunks:
        assert len(chunk) == 1 or sum(texts.sizes[text] for text in chunk) <= chunk_tokens
        assert [texts.sizes[text] for text in chunk] == sorted((texts.sizes[text] for text in chunk), reverse=True)


def test_all_but_the_last_chunk_hold_back_the_all_reduce(texts):
    held, reduced, inside = [], [], False

    @contextmanager
    def no_sync():
        nonlocal inside
        inside = True
        yield
        inside = False

    def backward(loss):
        (held if inside else reduced).append(loss)
        loss.backward()

    model = encoder()
    backward_through_chunks(model, texts, loss_function, 40, backward, no_sync)
    assert (len(held), len(reduced)) == (len(texts.chunks(40)) - 1, 1)


def spread_texts(count=3000):
    lengths = torch.randint(5, 300, (count,), generator=torch.Generator().manual_seed(2))
    return PackedTexts(torch.zeros(int(lengths.sum()), dtype=torch.long), lengths)


@pytest.mark.parametrize("share", [0.99, 0.55, 0.34, 0.26, 0.13])
def test_the_chunk_encoded_once_is_full_and_the_others_are_nearly_equal(share):
    """Cut one after another, chunks of a third leave a last one of nothing, and the whole batch is encoded twice."""
    texts = spread_texts()
    total = sum(texts.sizes)
    budget = int(share * total)
    *cached, last = ([texts.sizes[text] for text in chunk] for chunk in texts.chunks(budget))
    assert sum(last) + cached[-1][-1] > budget
    assert len(cached) == -(-(total - sum(last)) // budget)
    tokens = [sum(chunk) for chunk in cached]
    assert min(tokens) > 0.9 * max(tokens)


def test_every_text_but_those_of_the_last_chunk_is_encoded_twice(texts):
    model, tokens = encoder(), []
    model.register_forward_pre_hook(lambda _, __, given: tokens.append(given["input_ids"].numel()), with_kwargs=True)
    backward_through_chunks(model, texts, loss_function, 100)
    kept = sum(texts.sizes[text] for text in texts.chunks(100)[-1])
    assert kept > 70 and sum(tokens) == 2 * sum(texts.sizes) - kept


def test_texts_on_the_host_are_encoded_where_the_model_is(texts):
    """Shown by torch's device without memory."""
    model, devices = encoder().to("meta"), []
    model.register_forward_pre_hook(lambda _, __, given: devices.append(given["input_ids"].device), with_kwargs=True)
    found = encode(model, PackedTexts(texts.input_ids, texts.lengths, torch.device("meta")), 100)
    assert found.device.type == "meta" and len(devices) > 1 and {device.type for device in devices} == {"meta"}


def test_one_chunk_is_one_pass(texts):
    model, calls = encoder(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    backward_through_chunks(model, texts, loss_function, 10_000)
    assert len(calls) == 1
