"""Smaller embeddings as users get them from sentence-transformers, against closed forms in NumPy."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from nomic_bert.embedder import load_embedder, save_embedder
from tests.checkpoints import save_nomic

TEXTS = ["a text", "about rope and ntk", "long " * 40, "", "b"]
ATOL = 1e-5


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """With a layer norm or without -> the directory of the same weights.

    The last norm of the encoder has other parameters than a new model's, as training gives it: with those, vectors are
    centred already, and another layer norm would change nothing.
    """
    root = tmp_path_factory.mktemp("sizes")
    save_nomic(root / "checkpoint")
    for layer_norm in (False, True):
        embedder = load_embedder(root / "checkpoint", layer_norm=layer_norm, device="cpu")
        torch.manual_seed(1)
        last = embedder[0].auto_model.encoder.layers[-1].norm2
        torch.nn.init.normal_(last.weight, 1, 0.5)
        torch.nn.init.normal_(last.bias, 0, 0.5)
        save_embedder(embedder, root / str(layer_norm))
    return {layer_norm: root / str(layer_norm) for layer_norm in (False, True)}


def at_unit_length(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def means(directory, texts):
    """Means over tokens, before any other module: one text at a time, so nothing is padded."""
    transformer = SentenceTransformer(str(directory), device="cpu")[0]
    with torch.no_grad():
        hidden = [transformer.auto_model(**transformer.tokenizer(text, return_tensors="pt"))[0][0] for text in texts]
    return np.stack([each.numpy().astype(np.float64).mean(axis=0) for each in hidden])


def expected(directory, texts, layer_norm):
    """Full embeddings: the mean, normalized over its dimensions if the model has a layer norm, at unit length."""
    vectors = means(directory, texts)
    if layer_norm:
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        vectors = centred / np.sqrt(vectors.var(axis=1, keepdims=True) + 1e-5)
    return at_unit_length(vectors)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_cut_embedding_is_the_first_dimensions_at_unit_length_again(directories, layer_norm):
    directory = directories[layer_norm]
    full = expected(directory, TEXTS, layer_norm)
    cut = at_unit_length(full[:, :8])
    reader = SentenceTransformer(str(directory), device="cpu")
    opened_so = SentenceTransformer(str(directory), truncate_dim=8, device="cpu")
    np.testing.assert_allclose(reader.encode(TEXTS), full, atol=ATOL)
    np.testing.assert_allclose(opened_so.encode(TEXTS, normalize_embeddings=True), cut, atol=ATOL)
    np.testing.assert_allclose(reader.encode(TEXTS, truncate_dim=8, normalize_embeddings=True), cut, atol=ATOL)
    # Without being told, encode leaves the length that the cut has left: products are then no cosines.
    short = opened_so.encode(TEXTS)
    np.testing.assert_allclose(short, full[:, :8], atol=ATOL)
    assert np.linalg.norm(short, axis=1).max() < 0.95
    # cosine similarity, which the directory asks for, makes up for it
    np.testing.assert_allclose(opened_so.similarity(short, short), cut @ cut.T, atol=ATOL)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_queries_and_documents_are_cut_alike(directories, layer_norm):
    directory = directories[layer_norm]
    embedder = SentenceTransformer(str(directory), truncate_dim=8, device="cpu")
    for encode, prefix in ((embedder.encode_query, "search_query: "), (embedder.encode_document, "search_document: ")):
        cut = at_unit_length(expected(directory, [prefix + text for text in TEXTS], layer_norm)[:, :8])
        np.testing.assert_allclose(encode(TEXTS, normalize_embeddings=True), cut, atol=ATOL)


def test_the_layer_norm_comes_before_the_cut_and_stays_unless_told_otherwise(directories):
    plain, normed = (expected(directories[True], TEXTS, layer_norm) for layer_norm in (False, True))
    too_late = plain[:, :8] - plain[:, :8].mean(axis=1, keepdims=True)
    assert np.abs(at_unit_length(too_late) - at_unit_length(normed[:, :8])).max() > 100 * ATOL
    assert np.abs(plain - normed).max() > 100 * ATOL
    np.testing.assert_allclose(load_embedder(directories[True]).encode(TEXTS), normed, atol=ATOL)
    np.testing.assert_allclose(load_embedder(directories[True], layer_norm=False).encode(TEXTS), plain, atol=ATOL)
    np.testing.assert_allclose(load_embedder(directories[False], layer_norm=True).encode(TEXTS), normed, atol=ATOL)


def random_texts(number, seed=0):
    random = np.random.default_rng(seed)
    return ["".join(random.choice([*"abcdefghijkl"], 12)) for _ in range(number)]


@pytest.mark.parametrize("dimension", [32, 12])  # 12 bits are a byte and a half
def test_quantized_embeddings_are_steps_of_the_range_and_signs(directories, dimension):
    embedder, texts = SentenceTransformer(str(directories[True]), device="cpu"), random_texts(120)

    def encode(precision):
        return embedder.encode(texts, truncate_dim=dimension, normalize_embeddings=True, precision=precision)

    values = encode("float32").astype(np.float64)
    least, most = values.min(axis=0), values.max(axis=0)
    steps = np.floor((values - least) / (most - least) * 255)
    for precision, kind, offset in (("uint8", np.uint8, 0), ("int8", np.int8, -128)):
        found = encode(precision)
        assert found.dtype == kind
        apart = np.abs(found - (steps + offset))
        assert apart.max() <= 1 and apart.mean() < 0.01  # float32 may floor the other way at the end of a step
    bits = np.pad(values > 0, [(0, 0), (0, -dimension % 8)]).reshape(len(texts), -1, 8)
    packed = (bits * 2 ** np.arange(7, -1, -1)).sum(axis=2)  # the first dimension is the highest bit
    for precision, kind, offset in (("ubinary", np.uint8, 0), ("binary", np.int8, -128)):
        found = encode(precision)
        assert found.dtype == kind
        np.testing.assert_array_equal(found, packed + offset)


def test_every_precision_finds_the_document_that_is_far_nearer_than_the_others(directories):
    embedder = SentenceTransformer(str(directories[False]), device="cpu")
    letters = "abcdefghijklmnopqrstuvwxyz"
    documents = embedder.encode([letter * 8 for letter in letters], normalize_embeddings=True)
    queries = embedder.encode([letter * 6 for letter in letters], normalize_embeddings=True)
    cosines = queries @ documents.T
    best, next_best = np.sort(cosines, axis=1)[:, :-3:-1].T
    separated = np.flatnonzero(best - next_best > 0.1)
    assert len(separated) >= 8
    for precision in ("int8", "uint8", "binary", "ubinary"):
        # a query takes the documents' ranges: encode(precision="int8") would take its own
        one, other = (
            quantize_embeddings(each, precision, calibration_embeddings=documents) for each in (queries, documents)
        )
        if precision.endswith("binary"):
            one, other = (np.unpackbits(each.view(np.uint8), axis=1) for each in (one, other))
        distances = ((one[:, None].astype(float) - other[None].astype(float)) ** 2).sum(axis=2)
        nearest = distances.argmin(axis=1)
        np.testing.assert_array_equal(nearest[separated], cosines.argmax(axis=1)[separated], err_msg=precision)
