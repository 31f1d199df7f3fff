"""A checkpoint is data: opening one reads safetensors and JSON from its own directory, and runs nothing.

Each trap writes a file when it is sprung; a test of the traps themselves shows that they would be.
"""

import json
import pickle
import runpy
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoTokenizer

from nomic_bert import NomicBertModel
from nomic_bert.embedder import load_embedder
from nomic_bert.tokenizer_files import open_tokenizer
from tests.checkpoints import edit_json, save_nomic

MODEL_DOORS = {"AutoModel": AutoModel.from_pretrained, "load_embedder": load_embedder}
ALL_DOORS = {
    **MODEL_DOORS,
    "AutoConfig": AutoConfig.from_pretrained,
    "AutoTokenizer": AutoTokenizer.from_pretrained,
    "SentenceTransformer": SentenceTransformer,
}
IDS = torch.tensor([[5, 6, 7, 8, 9]])


class Trap:
    """Writes a file when its pickle is opened, or when its module is imported."""

    def __init__(self, file):
        self.file = file
        self.code = f"open({str(file)!r}, 'w').close()\nclass NomicBertConfig: pass\nclass NomicBertModel: pass\n"

    def __reduce__(self):
        return open, (str(self.file), "w")

    @property
    def sprung(self):
        return self.file.exists()


@pytest.fixture
def trap(tmp_path):
    return Trap(tmp_path / "sprung")


@pytest.fixture
def checkpoint(tmp_path):
    return save_nomic(tmp_path / "checkpoint")


def test_the_traps_would_be_sprung(trap, tmp_path):
    with pickle.loads(pickle.dumps(trap)):
        assert trap.sprung
    trap.file.unlink()
    (tmp_path / "module.py").write_text(trap.code)
    runpy.run_path(str(tmp_path / "module.py"))
    assert trap.sprung


@pytest.mark.parametrize("door", MODEL_DOORS)
def test_pickled_weights_alone_are_refused(checkpoint, trap, door):
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        MODEL_DOORS[door](checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": trap}))
    with pytest.raises(OSError, match="safetensors"):
        MODEL_DOORS[door](checkpoint)
    assert not trap.sprung


@torch.no_grad()
@pytest.mark.parametrize("door", MODEL_DOORS)
def test_a_pickle_beside_safetensors_is_not_opened(checkpoint, trap, door):
    expected = NomicBertModel.from_pretrained(checkpoint).eval()(IDS)[0]
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.safetensors.pkl"):
        (checkpoint / name).write_bytes(pickle.dumps(trap))
    opened = MODEL_DOORS[door](checkpoint)
    model = opened if door == "AutoModel" else opened[0].auto_model.to("cpu")
    assert torch.equal(model.eval()(IDS)[0], expected)
    assert not trap.sprung


@pytest.mark.parametrize("door", ALL_DOORS)
def test_no_code_of_the_directory_runs(checkpoint, trap, door):
    """The files that an honest checkpoint carries, a tokenizer of its own, and a template that reaches for Python."""
    for name in ("configuration_nomic_bert", "modeling_nomic_bert", "tokenization_own"):
        (checkpoint / f"{name}.py").write_text(trap.code)
    edit_json(
        checkpoint / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_own.OwnTokenizer", "tokenization_own.OwnTokenizer"]},
        tokenizer_class="OwnTokenizer",
        chat_template="{{ cycler.__init__.__globals__.os.system('true') }}",
    )
    opened = ALL_DOORS[door](str(checkpoint))
    assert type(opened).__module__.split(".")[0] in ("nomic_bert", "transformers", "sentence_transformers")
    assert not trap.sprung
    with pytest.raises(AttributeError):  # it is there to be run: the module has no such tokenizer
        AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    assert trap.sprung


@pytest.mark.parametrize("module", ["os.system", "own.Module", "sentence_transformers.models.Transformer.own"])
def test_a_directorys_modules_are_not_imported(checkpoint, trap, module):
    modules = [{"idx": 0, "name": "0", "path": "", "type": module}]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    (checkpoint / "own.py").write_text(trap.code)
    with pytest.raises(ValueError, match=rf"modules\.json needs the module '{module}'"):
        load_embedder(checkpoint)
    with pytest.raises((ValueError, ImportError)):  # sentence-transformers' own refusal
        SentenceTransformer(str(checkpoint))
    assert not trap.sprung


def shard(checkpoint, name):
    """Replace the weights with an index that says they are in the file `name`."""
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, name)}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


@torch.no_grad()
def test_shards_beside_their_index_load(checkpoint):
    expected = NomicBertModel.from_pretrained(checkpoint).eval()(IDS)[0]
    weights = shard(checkpoint, "model-00001-of-00001.safetensors")
    save_file(weights, checkpoint / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    assert torch.equal(NomicBertModel.from_pretrained(checkpoint).eval()(IDS)[0], expected)


@pytest.mark.parametrize("door", MODEL_DOORS)
@pytest.mark.parametrize("place", ["../outside.safetensors", "absolute", "below/../../outside.safetensors"])
def test_shards_outside_the_directory_are_refused(checkpoint, tmp_path, door, place):
    """transformers itself reads them in a local directory; a name on the hub it refuses."""
    outside = tmp_path / "outside.safetensors"
    (checkpoint / "below").mkdir()
    weights = shard(checkpoint, str(outside) if place == "absolute" else place)
    save_file(weights, outside, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json.*outside\.safetensors"):
        MODEL_DOORS[door](checkpoint)


@pytest.mark.parametrize("door", MODEL_DOORS)
@pytest.mark.parametrize("written", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(checkpoint, door, written):
    shard(checkpoint, "model-00001-of-00001.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(written)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json.*Copy the checkpoint again"):
        MODEL_DOORS[door](checkpoint)


@pytest.mark.parametrize("door", MODEL_DOORS)
def test_a_pickle_named_as_a_shard_is_refused(checkpoint, trap, door):
    """transformers itself opens it, with torch's restricted unpickler."""
    weights = shard(checkpoint, "pytorch_model.bin")
    torch.save(weights, checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        MODEL_DOORS[door](checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": trap}))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        MODEL_DOORS[door](checkpoint)
    assert not trap.sprung


def test_a_checkpoint_is_its_own_directory(checkpoint, tmp_path):
    """What `architectures` and `_name_or_path` say does not send the loader anywhere else."""
    other = save_nomic(tmp_path / "other", seed=1)
    edit_json(checkpoint / "config.json", _name_or_path=str(other), architectures=["os.system"])
    opened = NomicBertModel.from_pretrained(checkpoint)
    shutil.rmtree(other)
    stored = load_file(checkpoint / "model.safetensors")["bert.encoder.layers.0.attn.Wqkv.weight"]
    assert torch.equal(opened.encoder.layers[0].attn.Wqkv.weight, stored)


@pytest.mark.parametrize("door", MODEL_DOORS)
@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "adapter_model.bin", "pytorch_model.bin", "a/b.safetensors"]
)
def test_weights_that_the_configuration_names_are_safetensors_beside_it(checkpoint, trap, tmp_path, door, name):
    """An honest model.safetensors beside them changes nothing: transformers reads what transformers_weights says."""
    (tmp_path / "outside.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    for pickled in ("adapter_model.bin", "pytorch_model.bin"):
        (checkpoint / pickled).write_bytes(pickle.dumps(trap))
    edit_json(checkpoint / "config.json", transformers_weights=name)
    with pytest.raises(ValueError, match="transformers_weights|neither a safetensors file"):
        MODEL_DOORS[door](checkpoint)
    assert not trap.sprung


@pytest.mark.parametrize("door", MODEL_DOORS)
def test_an_index_that_the_configuration_names_is_checked_too(checkpoint, tmp_path, door):
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights, tmp_path / "outside.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../outside.safetensors")}
    (checkpoint / "own.safetensors.index.json").write_text(json.dumps(index))
    edit_json(checkpoint / "config.json", transformers_weights="own.safetensors.index.json")
    with pytest.raises(ValueError, match=r"own\.safetensors\.index\.json.*outside"):
        MODEL_DOORS[door](checkpoint)


@pytest.mark.parametrize("door", {**MODEL_DOORS, "open_tokenizer": open_tokenizer})
@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "vocab.txt", "additional_chat_templates", "1_Pooling/config.json"]
)
def test_links_out_of_the_directory_are_refused(checkpoint, tmp_path, door, name):
    secret = tmp_path / "secret"
    secret.mkdir() if name.endswith("templates") else secret.write_text("{}")
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).symlink_to(secret)
    if door == "AutoModel":  # reads no such file
        MODEL_DOORS[door](checkpoint)
        return
    with pytest.raises(ValueError, match=rf"{name} is a link to .*secret"):
        {**MODEL_DOORS, "open_tokenizer": open_tokenizer}[door](checkpoint)


def test_links_inside_a_directory_and_those_of_the_hubs_cache_are_followed(checkpoint, tmp_path):
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "same.json").symlink_to("config.json")
    load_embedder(snapshot)
    open_tokenizer(snapshot)
    (blobs / "0").unlink()
    (blobs / "0").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="is a link to"):
        load_embedder(snapshot)


def test_a_checkpoint_does_not_choose_the_attention_which_may_be_code_of_the_hub(checkpoint):
    edit_json(checkpoint / "config.json", attn_implementation="me/kernel", _attn_implementation="me/kernel")
    assert load_embedder(checkpoint, device="cpu")[0].model.config._attn_implementation == "sdpa"
    assert (
        NomicBertModel.from_pretrained(checkpoint, attn_implementation="eager").config._attn_implementation == "eager"
    )
    edit_json(checkpoint / "config.json", dtype="os")
    with pytest.raises(ValueError, match="dtype='os' must be one of float32"):
        load_embedder(checkpoint, device="cpu")


def test_code_that_a_tokenizer_names_is_not_written_into_what_is_saved_with_it(checkpoint, tmp_path):
    edit_json(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["me/code--mine.Tokenizer", None]})
    open_tokenizer(checkpoint).save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
