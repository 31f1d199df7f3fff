import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from recipes.quickstart_text.word_vectors import count_word_vectors
from tests.checkpoints import save_tokenizer

LETTERS = "abcdefgh"


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path)
    return PreTrainedTokenizerFast.from_pretrained(tmp_path)


@pytest.fixture
def texts():
    draw = np.random.default_rng(0)
    halves = [list("aabc"), list("adef")]  # `a` is everywhere, the others in one half of the texts
    return ["".join(draw.choice(halves[number % 2], size=9)) for number in range(200)]


def ids(tokenizer, letters):
    return tokenizer.convert_tokens_to_ids(list(letters))


def test_tokens_of_the_same_texts_begin_alike(tokenizer, texts):
    vectors = count_word_vectors(texts, tokenizer, 2)
    b, c, d, e = (vector / np.linalg.norm(vector) for vector in vectors[ids(tokenizer, "bcde")])
    assert vectors.shape == (len(tokenizer), 2) and vectors.dtype == np.float32
    assert b @ c > 0.9 and d @ e > 0.9 and b @ d < 0.5


def test_they_are_the_singular_vectors_of_tf_idf(tokenizer, texts):
    present = "abcdef"
    counts = np.array([[text.count(letter) for letter in present] for text in texts], dtype=float)
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    weights *= 1 + np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0)))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    _, values, components = np.linalg.svd(weights, full_matrices=False)
    expected = components[:4].T * np.sqrt(values[:4])
    found = count_word_vectors(texts, tokenizer, 4)[ids(tokenizer, present)]
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (found, expected)]
    np.testing.assert_allclose(unit[0] @ unit[0].T, unit[1] @ unit[1].T, atol=1e-3)


def test_frequent_tokens_begin_shorter_and_absent_ones_as_zeros(tokenizer, texts):
    vectors = count_word_vectors(texts, tokenizer, 4)
    joined = "".join(texts)
    share = {letter: joined.count(letter) / len(joined) for letter in "ab"}
    a, b, absent = vectors[ids(tokenizer, "abz")]
    ratio = (1e-3 + share["b"]) / (1e-3 + share["a"])
    assert np.linalg.norm(a) / np.linalg.norm(b) == pytest.approx(ratio, rel=1e-4)
    assert not absent.any()
    assert (vectors[ids(tokenizer, "abcdef")] ** 2).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("number", "dimensions", "told"), [(3, 4, "3 texts are too few"), (200, 150, "99 tokens")])
def test_vectors_that_the_corpus_cannot_give_are_refused(tokenizer, texts, number, dimensions, told):
    with pytest.raises(ValueError, match=f"^{told}.* hidden_size"):
        count_word_vectors(texts[:number], tokenizer, dimensions)
