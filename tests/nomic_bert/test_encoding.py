import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nomic_bert.embedder import load_embedder
from nomic_bert.encoding import encode_by_tokens
from tests.checkpoints import save_nomic, save_other

TEXTS = ["a", "long text " * 40, "b c", "", "abc " * 30, "middle sized text", "a", "words " * 200]


class Watched:
    """An embedder that notes how long and how many the texts of each batch are."""

    def __init__(self, embedder):
        self.embedder, self.batches = embedder, []

    def __getattr__(self, name):
        return getattr(self.embedder, name)

    def encode(self, texts, **options):
        assert options["batch_size"] >= len(texts), "the batch is cut again"
        tokens = self.embedder.tokenizer([options["prompt"] + text for text in texts], truncation=True, max_length=256)
        self.batches.append([len(ids) for ids in tokens["input_ids"]])
        return self.embedder.encode(texts, **options)


@pytest.mark.parametrize("budget", [1, 64, 300, 10_000])
def test_embeddings_are_those_of_encode_in_order_whatever_the_budget(tmp_path, budget):
    embedder = Watched(load_embedder(save_nomic(tmp_path / "model"), device="cpu"))
    expected = np.stack([embedder.embedder.encode("clustering: " + text) for text in TEXTS])
    found = encode_by_tokens(embedder, TEXTS, prompt="clustering: ", tokens_per_batch=budget)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    for lengths in embedder.batches:
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= budget
    assert max(embedder.batches[0]) == 256, "what needs most memory comes first"
    if budget == 10_000:
        assert len(embedder.batches) == 1


def test_length_counts_the_prompt_and_is_cut_where_the_model_cuts(tmp_path):
    embedder = Watched(SentenceTransformer(str(save_other(tmp_path / "other")), device="cpu"))
    embedder.embedder.max_seq_length = 20
    encode_by_tokens(embedder, ["x" * 100, "y" * 3], prompt="p" * 10, tokens_per_batch=30)
    assert len(embedder.batches) == 2  # 20 tokens, and 10 + 3 + 2


def test_unit_length_on_demand_and_no_texts(tmp_path):
    embedder = load_embedder(save_nomic(tmp_path / "model"), device="cpu")
    del embedder[2]
    raw = encode_by_tokens(embedder, TEXTS, tokens_per_batch=500)
    unit = encode_by_tokens(embedder, TEXTS, tokens_per_batch=500, normalize=True)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 1e-3
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert encode_by_tokens(embedder, [], tokens_per_batch=500).shape == (0, 32)
