"""PEFT adapters of an encoder open as embedders, and no pickle of theirs is read."""

import json
import pickle

import numpy as np
import peft
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from nomic_bert import NomicBertModel
from nomic_bert import embedder as embedder_module
from nomic_bert.embedder import load_embedder, save_embedder
from tests.checkpoints import save_nomic
from textfiles.commands import run_command

TEXTS = ["a text", "about rope and ntk", "b"]
TARGETS = ["Wqkv", "out_proj", "fc11", "fc12", "fc2"]


def drawn(model):
    """Adapter weights as training leaves them: those of a new one are zero."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def base(tmp_path):
    save_embedder(load_embedder(save_nomic(tmp_path / "checkpoint"), device="cpu"), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, tmp_path):
    """A directory as `PeftModel.save_pretrained` writes it."""
    model = peft.get_peft_model(NomicBertModel.from_pretrained(base), peft.LoraConfig(target_modules=TARGETS, r=4))
    drawn(model).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def merged(base, adapter):
    """PEFT's own reading of the adapter, merged into the weights."""
    embedder = load_embedder(base, device="cpu")
    embedder[0].model = peft.PeftModel.from_pretrained(embedder[0].model, adapter).merge_and_unload()
    return embedder


def test_an_adapters_directory_opens_as_its_base_model_with_the_adapter(base, adapter):
    expected = merged(base, adapter).encode(TEXTS)
    assert np.abs(expected - load_embedder(base, device="cpu").encode(TEXTS)).max() > 1e-2
    opened = load_embedder(adapter, device="cpu", max_seq_length=100)
    np.testing.assert_allclose(opened.encode(TEXTS), expected, atol=1e-5)
    assert opened.max_seq_length == 100 and "search_query" in opened.prompts


def test_an_adapter_without_peft_says_what_to_install(adapter, monkeypatch):
    monkeypatch.setattr(embedder_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="adapter is a PEFT adapter, which needs peft: pip install peft"):
        load_embedder(adapter, device="cpu")
    with pytest.raises(SystemExit, match="^error: .* pip install peft$"):
        run_command(lambda _: load_embedder(adapter, device="cpu"))


def test_an_embedder_with_an_adapter_is_saved_and_opened_with_its_own_modules(base, adapter, tmp_path):
    embedder = load_embedder(adapter, device="cpu", max_seq_length=100)
    expected = embedder.encode(TEXTS)
    save_embedder(embedder, tmp_path / "saved")
    assert not (tmp_path / "saved" / "config.json").exists(), "the base model's weights are not there"
    for opened in (load_embedder(tmp_path / "saved", device="cpu"), SentenceTransformer(str(tmp_path / "saved"))):
        np.testing.assert_allclose(opened.encode(TEXTS), expected, atol=1e-5)
        assert opened.max_seq_length == 100


def test_an_adapter_without_its_base_model_names_both(adapter, base):
    base.rename(base.with_name("moved"))
    with pytest.raises(FileNotFoundError, match=r"adapter is an adapter of .*base.*base_model_name_or_path"):
        load_embedder(adapter)


def test_a_partly_random_base_model_is_refused_under_an_adapter_too(adapter, base):
    """transformers reports the adapter's weights alone."""
    config = json.loads((base / "config.json").read_text())
    changes = {"num_hidden_layers": 3, "n_layer": 3}
    (base / "config.json").write_text(json.dumps({**config, **changes}))
    for door in (load_embedder, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=r"missing .*encoder\.layers\.2"):
            door(adapter)


@pytest.mark.parametrize("door", [load_embedder, AutoModel.from_pretrained])
def test_a_pickled_adapter_is_refused(adapter, tmp_path, door):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        door(adapter)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("door", [load_embedder, AutoModel.from_pretrained, NomicBertModel.from_pretrained])
def test_an_adapter_in_a_models_own_directory_is_refused(adapter, base, door):
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (base / file).write_bytes((adapter / file).read_bytes())
    with pytest.raises(ValueError, match="has a PEFT adapter"):
        door(base)


def test_an_adapter_of_another_shape_is_refused(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["Wqkv"]}))
    with pytest.raises(ValueError, match="does not fit"):
        load_embedder(adapter)


def test_a_model_with_an_adapters_layers_in_it_is_not_saved_under_their_names(base, adapter, tmp_path):
    embedder = load_embedder(base, device="cpu")
    adapted = peft.PeftModel.from_pretrained(embedder[0].model, adapter)
    embedder[0].model = adapted.get_base_model()
    with pytest.raises(ValueError, match="merge_and_unload"):
        save_embedder(embedder, tmp_path / "saved")
    embedder[0].model = adapted.merge_and_unload()
    save_embedder(embedder, tmp_path / "saved")
    expected = embedder.encode(TEXTS)
    np.testing.assert_allclose(load_embedder(tmp_path / "saved", device="cpu").encode(TEXTS), expected, atol=1e-5)
