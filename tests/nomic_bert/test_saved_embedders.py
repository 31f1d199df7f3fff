"""What a directory says of its embedder decides, and what is written is what the embedder is."""

import copy
import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling

from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.prompts import PROMPTS
from tests.checkpoints import edit_json, save_nomic

TEXTS = ["a text", "about rope and ntk", "long " * 40, "b"]


def plain(embedder):
    return list(embedder)


def first_token(embedder):
    return [embedder[0], Pooling(32, pooling_mode="cls"), Normalize()]


def two_modes(embedder):
    return [embedder[0], Pooling(32, pooling_mode=("mean", "max")), Normalize()]


def dense(embedder):
    return [embedder[0], Pooling(32), Dense(32, 8, activation_function=torch.nn.Tanh()), Normalize()]


def not_normalized(embedder):
    return [embedder[0], Pooling(32)]


def prompt_left_out(embedder):
    return [embedder[0], Pooling(32, include_prompt=False), Normalize()]


def layer_normed(embedder):
    layer_norm = LayerNorm(32)
    torch.nn.init.normal_(layer_norm.norm.weight)
    return [embedder[0], Pooling(32), layer_norm, Normalize()]


KINDS = [plain, first_token, two_modes, dense, not_normalized, prompt_left_out, layer_normed]


@pytest.fixture
def checkpoint(tmp_path):
    return save_nomic(tmp_path / "checkpoint")


@pytest.fixture
def saved(checkpoint, tmp_path):
    save_embedder(load_embedder(checkpoint, device="cpu"), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_modules_prompts_length_and_similarity_are_as_saved(checkpoint, tmp_path, kind):
    made = SentenceTransformer(
        modules=kind(load_embedder(checkpoint, device="cpu")),
        prompts={"query": "ask: ", "document": ""},
        default_prompt_name="query",
        similarity_fn_name="dot",
        device="cpu",
    )
    made.max_seq_length = 50
    expected = made.encode(TEXTS)
    save_embedder(made, tmp_path / "ours")
    made.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    edit_json(tmp_path / "theirs" / "sentence_bert_config.json", max_seq_length=50)
    for directory in (tmp_path / "ours", tmp_path / "theirs"):
        for opened in (load_embedder(directory, device="cpu"), SentenceTransformer(str(directory), device="cpu")):
            assert [type(module) for module in opened] == [type(module) for module in made]
            np.testing.assert_allclose(opened.encode(TEXTS), expected, atol=1e-6)
            assert opened.prompts == made.prompts and opened.default_prompt_name == "query"
            assert opened.similarity_fn_name == "dot" and opened.max_seq_length == 50


def test_prompts_are_given_where_the_files_name_none_and_the_mean_is_taken(checkpoint, tmp_path):
    for kind, expected in ((not_normalized, PROMPTS), (first_token, {"query": "", "document": ""})):
        modules = kind(load_embedder(checkpoint, device="cpu"))
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / kind.__name__))
        edit_json(tmp_path / kind.__name__ / "config_sentence_transformers.json", prompts={})
        assert load_embedder(tmp_path / kind.__name__, device="cpu").prompts == expected


def test_a_layer_norm_that_is_asked_for_is_put_in_or_left_out(checkpoint, tmp_path):
    embedder = SentenceTransformer(modules=layer_normed(load_embedder(checkpoint, device="cpu")), device="cpu")
    save_embedder(embedder, tmp_path / "saved")
    assert [type(module) for module in load_embedder(tmp_path / "saved", layer_norm=False)][2:] == [Normalize]
    kept = load_embedder(tmp_path / "saved", layer_norm=True, device="cpu")
    np.testing.assert_allclose(kept.encode(TEXTS), embedder.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "os.Transformer"}], "os.Transformer"),
        (
            "modules.json",
            [{"type": f"sentence_transformers.models.{name}", "path": "", "name": name} for name in ("Router",)],
            "Router",
        ),
        ("modules.json", [], "Transformer"),
        ("modules.json", {"a": 1}, "not a JSON list"),
        ("modules.json", [{"a": 1}], "list of modules"),
        ("sentence_bert_config.json", {"model_args": {"use_safetensors": False}}, "model_args"),
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "elsewhere"}, "tokenizer_name_or_path"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "SparseEncoder"),
    ],
)
def test_a_directory_that_needs_what_is_not_supported_is_refused_by_name(saved, file, content, named):
    (saved / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=named):
        load_embedder(saved)


@pytest.mark.parametrize("file", ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"])
def test_a_damaged_file_is_named_with_a_remedy(saved, file):
    (saved / file).write_text((saved / file).read_text()[:20])
    with pytest.raises(ValueError, match=rf"{file} is not valid JSON .*again"):
        load_embedder(saved)


@pytest.mark.parametrize(
    "file", ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "config_sentence_transformers.json"]
)
def test_whatever_stands_in_a_setting_is_taken_or_refused_by_name(saved, file):
    good = json.loads((saved / file).read_text())
    for place in range(len(good)) if isinstance(good, list) else [None]:
        for key in good if place is None else good[place]:
            for bad in (None, -1, 1.5, "x", [], {}):
                changed = copy.deepcopy(good)
                (changed if place is None else changed[place])[key] = bad
                (saved / file).write_text(json.dumps(changed))
                try:
                    load_embedder(saved, device="cpu")
                except (ValueError, FileNotFoundError) as error:
                    said = str(error).lower().replace("_", " ")
                    assert str(saved) in str(error) or key.replace("_", " ") in said, (key, bad)  # noqa: PT017


def test_a_pickle_or_an_unknown_activation_of_a_module_is_refused(checkpoint, tmp_path):
    embedder = SentenceTransformer(modules=dense(load_embedder(checkpoint, device="cpu")), device="cpu")
    save_embedder(embedder, tmp_path / "saved")
    weights = tmp_path / "saved" / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ValueError, match=r"2_Dense has no model\.safetensors"):
        load_embedder(tmp_path / "saved")
    edit_json(weights.with_name("config.json"), activation_function="mine.activation")
    with pytest.raises(ValueError, match=r"mine\.activation"):
        load_embedder(tmp_path / "saved")


def test_old_versions_of_sentence_transformers_find_the_two_settings_that_they_know(saved):
    assert json.loads((saved / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 256,
        "do_lower_case": False,
    }


def test_a_setting_that_the_files_cannot_say_is_refused(checkpoint, tmp_path):
    embedder = load_embedder(checkpoint, device="cpu")
    embedder[0].query_length = 12
    with pytest.raises(ValueError, match="query_length"):
        save_embedder(embedder, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_embedder_is_replaced_and_foreign_files_make_it_stay(saved, checkpoint):
    embedder = load_embedder(checkpoint, device="cpu")
    save_embedder(embedder, saved)
    (saved / "1_Pooling" / "notes.txt").write_text("mine")
    (saved / ".git").mkdir()
    (saved / "checkpoint-100").mkdir()
    (saved / "README.md").write_text("mine")
    before = sorted(saved.rglob("*"))
    with pytest.raises(FileExistsError, match=r"\.git, 1_Pooling/notes\.txt, README\.md, checkpoint-100"):
        save_embedder(embedder, saved)
    assert sorted(saved.rglob("*")) == before


def test_others_may_read_what_is_saved(checkpoint, tmp_path):
    before = os.umask(0o022)
    try:
        embedder = SentenceTransformer(modules=dense(load_embedder(checkpoint, device="cpu")), device="cpu")
        save_embedder(embedder, tmp_path / "saved")
        embedder[0].model.save_pretrained(tmp_path / "saved" / "encoder")
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "saved").rglob("*") if file.is_file()]
    modes = {str(file.relative_to(tmp_path / "saved")): stat.S_IMODE(file.stat().st_mode) for file in files}
    assert {"model.safetensors", "2_Dense/model.safetensors", "encoder/model.safetensors"} < modes.keys()
    assert set(modes.values()) == {0o644}, modes


def test_settings_that_a_start_brought_along_are_not_published(checkpoint, tmp_path):
    edit_json(
        checkpoint / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_own.Own", None]},
        anything="else",
        chat_template="{{ 1 }}",
    )
    edit_json(checkpoint / "config.json", custom_pipelines={"mine": {"impl": "mine.Pipeline"}}, anything="else")
    save_embedder(load_embedder(checkpoint, device="cpu"), tmp_path / "saved")
    written = "\n".join(file.read_text() for file in (tmp_path / "saved").rglob("*.json"))
    assert "tokenization_own" not in written and '"anything"' not in written and "custom_pipelines" not in written
    assert not list((tmp_path / "saved").glob("*chat_template*"))


def test_a_directory_that_sentence_transformers_saves_again_keeps_the_usable_length(saved, tmp_path):
    """It drops max_seq_length and caps at `config.max_position_embeddings`; trained are 64 tokens."""
    SentenceTransformer(str(saved), device="cpu").save_pretrained(str(tmp_path / "again"))
    assert SentenceTransformer(str(tmp_path / "again")).max_seq_length == 256
    assert load_embedder(tmp_path / "again").max_seq_length == 256
