import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from nomic_bert import NomicBertConfig, NomicBertForMaskedLM
from nomic_bert import embedder as embedder_module
from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.prompts import PREFIXES, PROMPTS, prefix_text
from tests.checkpoints import SPECIAL, save_as_berts

WORDS = [
    "search",
    "query",
    "document",
    "classification",
    "clustering",
    ":",
    "_",
    "a",
    "long",
    "text",
    "about",
    "rope",
    "and",
    "ntk",
]
TEXTS = ["a text", "about rope and ntk", "long " * 200, "", "a"]


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """A masked language model's directory with a tokenizer of a few words."""
    torch.manual_seed(0)
    tiny_config.vocab_size = 32
    NomicBertForMaskedLM(tiny_config).save_pretrained(tmp_path / "checkpoint")
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    save_as_berts(tokenizer, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_every_way_to_a_prefix_agrees(checkpoint):
    embedder = load_embedder(checkpoint)
    by_hand = {name: embedder.encode([f"{name}: {text}" for text in TEXTS]) for name in PREFIXES}
    for name in PREFIXES:
        np.testing.assert_allclose(embedder.encode(TEXTS, prompt_name=name), by_hand[name], atol=1e-6)
    np.testing.assert_allclose(embedder.encode_query(TEXTS), by_hand["search_query"], atol=1e-6)
    np.testing.assert_allclose(embedder.encode_document(TEXTS), by_hand["search_document"], atol=1e-6)
    np.testing.assert_allclose(embedder.encode(TEXTS, prompt_name="STS"), by_hand["classification"], atol=1e-6)
    bare = embedder.encode(TEXTS)
    assert np.abs(bare - by_hand["search_query"]).max() > 1e-3, "a default prompt is in force"


def test_an_embedding_is_the_normalized_masked_mean(checkpoint):
    embedder = load_embedder(checkpoint)
    model = embedder[0].auto_model
    with torch.no_grad():
        for text, found in zip(TEXTS, embedder.encode(TEXTS), strict=True):
            hidden = model(**embedder.tokenizer(text, return_tensors="pt"))[0][0]
            np.testing.assert_allclose(found, torch.nn.functional.normalize(hidden.mean(0), dim=0), atol=1e-5)


def test_batch_neighbours_do_not_change_an_embedding(checkpoint):
    embedder = load_embedder(checkpoint)
    together = embedder.encode(TEXTS, batch_size=5)
    for text, expected in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embedder.encode(text), expected, atol=1e-5)


def test_unknown_prompt_names_the_known_ones(checkpoint):
    with pytest.raises(ValueError, match="search_query"):
        load_embedder(checkpoint).encode("a", prompt_name="serach_query")
    with pytest.raises(ValueError, match="search_query.*clustering"):
        prefix_text("serach_query")


def test_the_exported_files_are_those_that_readers_look_for(checkpoint, tmp_path):
    save_embedder(load_embedder(checkpoint), tmp_path / "export")
    read = lambda name: json.loads((tmp_path / "export" / name).read_text())  # noqa: E731
    assert read("config.json")["architectures"] == ["NomicBertModel"]
    types = [module["type"] for module in read("modules.json")]
    assert types == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    assert read("1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    assert read("sentence_bert_config.json")["max_seq_length"] == 256  # n_positions of this configuration
    assert read("config_sentence_transformers.json")["prompts"] == PROMPTS
    assert read("config_sentence_transformers.json")["default_prompt_name"] is None
    assert not list((tmp_path / "export").glob("**/*.bin")), "pickled weights"


def test_an_export_replaces_an_embedder_but_nothing_else(checkpoint, tmp_path):
    embedder = load_embedder(checkpoint)
    save_embedder(embedder, tmp_path / "export")
    save_embedder(embedder, tmp_path / "export")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="precious"):
        save_embedder(embedder, tmp_path / "precious")
    assert (tmp_path / "precious" / "notes.txt").read_text() == "mine"


def test_an_interrupted_export_leaves_the_old_one(checkpoint, tmp_path, monkeypatch):
    embedder = load_embedder(checkpoint)
    save_embedder(embedder, tmp_path / "export")
    before = sorted(path.name for path in (tmp_path / "export").iterdir())
    monkeypatch.setattr(
        "nomic_bert.embedder.write_portable_module_files", lambda *_: (_ for _ in ()).throw(OSError(28))
    )
    with pytest.raises(OSError):
        save_embedder(embedder, tmp_path / "export")
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "export"]


def test_what_is_not_a_checkpoint_is_refused(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_embedder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_embedder(tmp_path / "nowhere")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": config["hidden_size"]}))
    with pytest.raises(ValueError, match="'bert'"):
        load_embedder(checkpoint)


def test_the_length_limit_is_the_usable_one(checkpoint):
    assert load_embedder(checkpoint).max_seq_length == 256
    assert load_embedder(checkpoint, max_seq_length=32).max_seq_length == 32
    assert NomicBertConfig().n_positions == 8192
    for length in (257, 99_999):
        with pytest.raises(
            ValueError, match=f"max_seq_length must be at most 256, the model's n_positions, not {length:,}"
        ):
            load_embedder(checkpoint, max_seq_length=length)
    for length in (0, -5, 2, True):
        with pytest.raises(ValueError, match=f"max_seq_length must be at least 3 .*, not {length}"):
            load_embedder(checkpoint, max_seq_length=length)


def test_a_gpu_gets_weights_in_half_precision(checkpoint, monkeypatch):
    for capability, dtype in {(9, 0): torch.bfloat16, (8, 0): torch.bfloat16, (7, 5): torch.float16}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert embedder_module._half_of_gpu("cuda:0") == dtype
    assert embedder_module._half_of_gpu("cpu") is None
    assert load_embedder(checkpoint)[0].model.dtype == torch.float32
    monkeypatch.setattr(embedder_module, "_half_of_gpu", lambda _: torch.bfloat16)
    assert load_embedder(checkpoint)[0].model.dtype == torch.bfloat16
    assert load_embedder(checkpoint, dtype=torch.float32)[0].model.dtype == torch.float32
