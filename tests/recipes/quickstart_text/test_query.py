"""The query's embedding in NumPy against the authors' model, and against the embedder it stands for."""

import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from nomic_bert.embedder import load_embedder, save_embedder
from recipes.quickstart_text import query as query_in_numpy
from recipes.quickstart_text.query import embed_query, encode
from tests.checkpoints import save_nomic


@pytest.mark.parametrize("text", ["long64", "long253"])
def test_states_are_those_of_the_authors_model(fixtures_dir, text):
    directory = fixtures_dir / "upstream_tiny_unscaled"  # at every length
    config = json.loads((directory / "config.json").read_text())
    stored = load_file(directory / "model.safetensors")
    weights = {name.removeprefix("bert."): value for name, value in stored.items()}
    expected = load_file(directory / "expected.safetensors")
    found = encode(config, weights, expected[f"{text}.input_ids"][0].tolist())
    assert np.abs(found - expected[f"{text}.last_hidden_state"][0]).max() < 2e-5


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("query")
    save_embedder(load_embedder(save_nomic(path / "checkpoint"), device="cpu"), path / "model")
    return path / "model"


# the last two are beyond the trained and beyond the usable length
@pytest.mark.parametrize("query", ["find files", "", "word " * 30, "word " * 90])
def test_embeddings_are_the_embedders(directory, query):
    expected = load_embedder(directory, device="cpu").encode_query(query)
    assert embed_query(directory, query) == pytest.approx(expected, abs=1e-6)


def test_what_the_directory_says_of_pooling_is_followed(directory, tmp_path):
    embedder = load_embedder(directory, device="cpu")
    embedder.prompts["query"] = "find: "
    save_embedder(embedder, tmp_path / "prompt")
    assert embed_query(tmp_path / "prompt", "files") == pytest.approx(embedder.encode_query("files"), abs=1e-6)
    save_embedder(load_embedder(directory, device="cpu", layer_norm=True), tmp_path / "norm")
    expected = load_embedder(tmp_path / "norm", device="cpu").encode_query("files")
    assert embed_query(tmp_path / "norm", "files") == pytest.approx(expected, abs=1e-6)


def test_a_plain_directory_needs_no_embedder(directory, monkeypatch):
    expected = embed_query(directory, "files")
    monkeypatch.setitem(sys.modules, "nomic_bert.embedder", None)
    assert query_in_numpy.embed_query(directory, "files") == pytest.approx(expected)


def test_a_damaged_directory_is_named(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        embed_query(tmp_path / "model", "files")
