"""What a directory is published from: native fine-tunes without code, PEFT adapters, and embedders of another kind."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers.models.nomic_bert import NomicBertModel as NativeModel

from nomic_bert import NomicBertModel
from nomic_bert.embedder import load_embedder, save_embedder
from publishing import directory as directory_module
from publishing.directory import DirectorySettings, write_directory
from tests.checkpoints import edit_json, save_nomic, save_tokenizer


@pytest.fixture
def references(monkeypatch):
    """The embedders that the readers would be compared with; no reader is started."""
    found = []
    monkeypatch.setattr(directory_module, "verify_directory", lambda written, reference: found.append(reference) or [])
    return found


def publish(checkpoint, written):
    write_directory(DirectorySettings(checkpoint=str(checkpoint), repo_id="me/model"), written)
    return written


def test_a_native_fine_tune_gets_back_the_code_that_its_auto_map_names(tmp_path, references):
    save_embedder(load_embedder(save_nomic(tmp_path / "checkpoint"), device="cpu"), tmp_path / "embedder")
    native = NativeModel.from_pretrained(tmp_path / "embedder")
    torch.nn.init.normal_(native.embeddings.LayerNorm.bias)
    native.save_pretrained(tmp_path / "tuned")
    save_tokenizer(tmp_path / "tuned")
    assert not list((tmp_path / "tuned").glob("*.py"))
    written = publish(tmp_path / "tuned", tmp_path / "written")
    named = json.loads((written / "config.json").read_text())["auto_map"].values()
    assert {f"{name.split('.')[0]}.py" for name in named} <= {path.name for path in written.glob("*.py")}
    assert torch.equal(load_file(written / "model.safetensors")["emb_ln.bias"], native.embeddings.LayerNorm.bias)


def test_an_adapter_is_merged_and_compared_with_itself_unmerged(tmp_path, references):
    peft = pytest.importorskip("peft")
    checkpoint = save_nomic(tmp_path / "checkpoint")
    model = NomicBertModel.from_pretrained(checkpoint)
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["Wqkv", "fc11"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(checkpoint))
    written = publish(tmp_path / "adapter", tmp_path / "written")
    wanted = load_embedder(tmp_path / "adapter", device="cpu").encode("a text")
    assert np.abs(load_embedder(checkpoint, device="cpu").encode("a text") - wanted).max() > 1e-2
    np.testing.assert_allclose(load_embedder(written, device="cpu").encode("a text"), wanted, atol=1e-6)
    weights = load_file(written / "model.safetensors")
    assert not [name for name in weights if "lora" in name] and not list(written.glob("adapter*"))
    assert any("lora" in name for name in references[0].state_dict())


def test_an_embedder_that_is_not_a_mean_is_not_published_as_one(tmp_path, references):
    save_embedder(load_embedder(save_nomic(tmp_path / "checkpoint"), device="cpu"), tmp_path / "embedder")
    model = SentenceTransformer(str(tmp_path / "embedder"), device="cpu")
    model[1] = Pooling(32, pooling_mode="cls")
    model.save_pretrained(str(tmp_path / "cls"), create_model_card=False)
    with pytest.raises(ValueError, match="push_to_hub"):
        publish(tmp_path / "cls", tmp_path / "written")
    assert not (tmp_path / "written").exists()
