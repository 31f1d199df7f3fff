import json

import mteb
import numpy as np
import pytest
import torch
from mteb.types import PromptType
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from evaluation.harness.encoder import load_encoder
from nomic_bert.embedder import load_embedder
from tests.checkpoints import save_nomic, save_other

TEXTS = ["one text", "another, longer text " * 3, "x"]


def ask(encoder, task, prompt_type=None, texts=TEXTS):
    metadata = mteb.get_task(task).metadata
    return encoder.encode(
        [{"text": texts[:1]}, {"text": texts[1:]}], task_metadata=metadata, hf_split="test", hf_subset="default",
        prompt_type=prompt_type, show_progress_bar=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "side", "prefix"),
    [
        ("Banking77Classification", None, "classification: "),
        ("SprintDuplicateQuestions", None, "classification: "),
        ("STSBenchmark", None, "classification: "),
        ("SummEval", None, "classification: "),
        ("AskUbuntuDupQuestions", PromptType.query, "classification: "),
        ("AskUbuntuDupQuestions", PromptType.document, "classification: "),
        ("TwentyNewsgroupsClustering", None, "clustering: "),
        ("SciFact", PromptType.query, "search_query: "),
        ("SciFact", PromptType.document, "search_document: "),
        ("QuoraRetrieval", PromptType.query, "search_query: "),
        ("QuoraRetrieval", PromptType.document, "search_query: "),
    ],
)
def test_nomic_models_get_the_prefix_of_the_task_and_unit_length_but_for_classification(nomic, task, side, prefix):
    found = ask(load_encoder(str(nomic), device="cpu"), task, side)
    by_hand = load_embedder(nomic, device="cpu")
    unit = by_hand.encode([prefix + text for text in TEXTS])
    if mteb.get_task(task).metadata.type == "Classification":
        del by_hand[2]
        mean = by_hand.encode([prefix + text for text in TEXTS])
        assert np.abs(np.linalg.norm(mean, axis=1) - 1).min() > 1e-2
        np.testing.assert_allclose(found, mean, atol=1e-5)
    else:
        np.testing.assert_allclose(found, unit, atol=1e-5)


def test_other_models_keep_their_prompts_their_length_and_their_normalization(tmp_path):
    own = {"query": "ask ", "document": "", "Classification": "sort ", "search_query": "never "}
    directory = save_other(tmp_path / "other", prompts=own)
    encoder = load_encoder(str(directory), device="cpu", max_seq_length=512)
    assert encoder.protocol.max_seq_length == 128 and encoder.protocol.requested_length == 512
    assert encoder.protocol.prompts == {"query": "ask ", "Classification": "sort "}
    plain = SentenceTransformer(str(directory), device="cpu", prompts={})
    for task, side, prompt in [
        ("Banking77Classification", None, "sort "),
        ("SciFact", PromptType.query, "ask "),
        ("SciFact", PromptType.document, ""),
    ]:
        np.testing.assert_allclose(ask(encoder, task, side), plain.encode([prompt + text for text in TEXTS]), atol=1e-5)
    raw = ask(load_encoder(str(directory), device="cpu", rules="paper"), "Banking77Classification")
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 1e-2


def test_texts_are_cut_at_the_length_that_was_asked_for(nomic):
    text = "abcdefgh " * 40
    short = ask(load_encoder(str(nomic), device="cpu", max_seq_length=50), "STSBenchmark", texts=[text, text + "tail"])
    np.testing.assert_array_equal(short[0], short[1])
    cut = "classification: " + text  # of which 48 tokens are read: letters, [CLS] and [SEP]
    np.testing.assert_allclose(short[0], load_embedder(nomic, max_seq_length=50, device="cpu").encode(cut), atol=1e-5)
    whole = ask(load_encoder(str(nomic), device="cpu", max_seq_length=256), "STSBenchmark", texts=[text])
    assert np.abs(whole[0] - short[0]).max() > 1e-3


def test_long_texts_are_read_with_alpha_2_where_the_checkpoint_has_no_scaling(tmp_path):
    released = save_nomic(tmp_path / "released", rotary_scaling_factor=None)
    scaled = save_nomic(tmp_path / "scaled", rotary_scaling_factor=2.0)
    long = ["abcdefgh " * 20]
    encoder = load_encoder(str(released), device="cpu", max_seq_length=256)
    assert encoder.protocol.rotary_scaling_factor == 2.0
    found = ask(encoder, "SciFact", PromptType.document, long)
    with_scaling = load_embedder(scaled, device="cpu").encode("search_document: " + long[0])
    without = load_embedder(released, device="cpu", rotary_scaling_factor=None).encode("search_document: " + long[0])
    np.testing.assert_allclose(found[0], with_scaling, atol=1e-5)
    assert np.abs(without - with_scaling).max() > 1e-3
    assert load_encoder(str(released), device="cpu", max_seq_length=64).protocol.rotary_scaling_factor is None
    assert load_encoder(str(released), device="cpu", rotary_scaling_factor=4.0).protocol.rotary_scaling_factor == 4.0


def test_every_thing_that_decides_a_score_is_in_the_revision(nomic, tmp_path):
    def revision(directory=nomic, **settings):
        return load_encoder(str(directory), device="cpu", **settings).mteb_model_meta.revision

    base = revision()
    assert base == revision()
    assert base.endswith("-seq256"), "the length that is read, not the one that was asked for"
    assert revision(max_seq_length=128).endswith("-seq128")
    others = [revision(prompts={"query": "x "}), revision(rules="model"), revision(rotary_scaling_factor=4.0)]
    one_weight = save_nomic(tmp_path / "elsewhere" / "final")
    weights = load_file(one_weight / "model.safetensors")
    weights["bert.encoder.layers.0.mlp.fc2.weight"][0, 0] += 1e-3
    save_file(weights, one_weight / "model.safetensors", metadata={"format": "pt"})
    others.append(revision(one_weight))
    vocabulary = save_nomic(tmp_path / "vocabulary" / "final") / "tokenizer.json"
    tokenizer = json.loads(vocabulary.read_text())
    tokenizer["normalizer"] = None
    vocabulary.write_text(json.dumps(tokenizer))
    others.append(revision(vocabulary.parent))
    assert len({base, *others}) == 1 + len(others)
    same = save_nomic(tmp_path / "copy" / "other_name")
    assert revision(same) == base, "the same model by another name"
    names = {load_encoder(str(path), device="cpu").mteb_model_meta.name for path in (nomic, one_weight, same)}
    assert names == {"local/run-final", "local/elsewhere-final", "local/copy-other_name"}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "has no prompts"),
        ({"search_query": "q: ", "clustering": "c: "}, "mteb knows none of the prompts clustering, search_query"),
    ],
)
def test_a_model_without_prompts_that_mteb_knows_is_refused(tmp_path, prompts, message):
    directory = str(save_other(tmp_path / "other", prompts=prompts))
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder(directory, device="cpu")
    assert "--prompts none" in str(caught.value)
    assert load_encoder(directory, device="cpu", prompts={}).protocol.prompts == {}


def test_wrong_checkpoints_and_prompts_are_named(nomic, other):
    with pytest.raises(FileNotFoundError, match="nowhere/at/all is neither a directory"):
        load_encoder("nowhere/at/all", device="cpu")
    with pytest.raises(FileNotFoundError, match="nobody/nothing is not a directory, and the hub"):
        load_encoder("nobody/nothing", device="cpu")
    with pytest.raises(ValueError, match="the prompt name 'Cluster' is not"):
        load_encoder(str(nomic), device="cpu", prompts={"Cluster": "x"})
    with pytest.raises(ValueError, match="--name 'mine': .* organization/model"):
        load_encoder(str(nomic), device="cpu", name="mine")
    for settings in ({"max_seq_length": 0}, {"tokens_per_batch": 0}):
        with pytest.raises(ValueError, match="max_seq_length must be at least 4"):
            load_encoder(str(nomic), device="cpu", **settings)
    with pytest.raises(ValueError, match="is not a Nomic model; rotary_scaling_factor is for those"):
        load_encoder(str(other), device="cpu", rotary_scaling_factor=2.0, prompts={})


@pytest.mark.parametrize(
    ("ours", "name"), [(True, "model.safetensors"), (True, "config.json"), (False, "model.safetensors")]
)
def test_a_damaged_checkpoint_is_named(nomic, other, name, ours):
    """A cut download, a full disk, or JSON nested without end."""
    directory = nomic if ours else other
    file = next(directory.rglob(name))
    for content in (file.read_bytes()[: file.stat().st_size // 2], b'{"a": ' + b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises((ValueError, OSError), match=str(directory)):
            load_encoder(str(directory), device="cpu", prompts={})


def test_weights_are_kept_in_the_type_that_was_asked_for(nomic):
    encoder = load_encoder(str(nomic), device="cpu", dtype=torch.bfloat16)
    assert next(encoder.model.parameters()).dtype == torch.bfloat16 and encoder.protocol.dtype == "bfloat16"
    assert encoder.mteb_model_meta.revision != load_encoder(str(nomic), device="cpu").mteb_model_meta.revision
    assert ask(encoder, "STSBenchmark").dtype == np.float32
