"""Nothing of a checkpoint reaches those who open the published directory but data: no code, unknown key or link."""

import json

import pytest

from nomic_bert.embedder import load_embedder, save_embedder
from publishing.directory import DirectorySettings, write_directory
from publishing.known_files import keep_known_files
from publishing.readers import READERS, Probe, read_embeddings
from tests.checkpoints import edit_json, save_nomic

SPY = "raise SystemExit('the checkpoint's code ran')\n"


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint that asks for code of its own wherever a reader would look."""
    directory = save_nomic(tmp_path / "checkpoint")
    (directory / "spy.py").write_text(SPY)
    edit_json(
        directory / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "spy.Tokenizer"]}, custom="x",
        chat_template="{{ 1 }}",
    )  # fmt: skip
    edit_json(
        directory / "config.json", custom_pipelines={"feature-extraction": {"impl": "spy.Pipeline"}}, beam="x",
        auto_map={"AutoModel": "spy.Model", "AutoConfig": "spy.Config"},
    )  # fmt: skip
    (directory / "chat_template.jinja").write_text("{{ 1 }}")
    return directory


def test_a_checkpoints_own_code_and_unknown_keys_are_not_carried_on(hostile, tmp_path):
    embedder = load_embedder(hostile, device="cpu")
    written = tmp_path / "written"
    save_embedder(embedder, written)
    edit_json(written / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "spy.Tokenizer"]})
    edit_json(written / "config.json", custom_pipelines={"feature-extraction": {"impl": "spy.Pipeline"}}, beam="x")
    edit_json(written / "sentence_bert_config.json", transformer_task="feature-extraction")
    (written / "chat_template.jinja").write_text("{{ 1 }}")
    (written / "additional_chat_templates").mkdir()
    (written / "additional_chat_templates" / "secret.jinja").write_text("secret")
    keep_known_files(written, embedder.tokenizer)
    text = "".join(path.read_text() for path in written.rglob("*.json"))
    assert not any(word in text for word in ("spy", "beam", "custom", "chat_template"))
    assert not list(written.rglob("*.jinja")) and not (written / "additional_chat_templates").exists()
    assert json.loads((written / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 256, "do_lower_case": False,
    }  # fmt: skip
    tokens = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    assert json.loads((written / "special_tokens_map.json").read_text()) == {**tokens, "mask_token": "[MASK]"}
    remote = [reader for reader in READERS if reader.code == "remote"]
    assert len(read_embeddings(remote, written, [Probe("ab", 4)], [])) == 2


def test_a_layer_norm_after_the_mean_keeps_its_weights(tmp_path):
    embedder = load_embedder(save_nomic(tmp_path / "checkpoint"), layer_norm=True, device="cpu")
    written = tmp_path / "written"
    save_embedder(embedder, written)
    keep_known_files(written, embedder.tokenizer)
    reopened = load_embedder(written, device="cpu")
    assert [type(module).__name__ for module in reopened] == ["Transformer", "Pooling", "LayerNorm", "Normalize"]
    assert (reopened.encode("a b") == embedder.encode("a b")).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda written: (written / "spy.py").write_text(SPY),
        lambda written: (written / "modeling_nomic_bert.py").write_text(SPY),
        lambda written: (written / "rotary_nomic_bert.py").unlink(),
        lambda written: edit_json(written / "config.json", auto_map={"AutoModel": "spy.Model"}),
    ],
)
def test_code_that_is_not_this_packages_is_refused_before_it_is_run(tmp_path, change):
    embedder = load_embedder(save_nomic(tmp_path / "checkpoint"), device="cpu")
    save_embedder(embedder, tmp_path / "written")
    change(tmp_path / "written")
    with pytest.raises(ValueError, match="this package's.*nothing was published"):
        keep_known_files(tmp_path / "written", embedder.tokenizer)


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates", "vocab.txt", "deep/model.txt"])
def test_a_link_out_of_the_checkpoint_is_refused_before_it_is_read(tmp_path, name):
    checkpoint = save_nomic(tmp_path / "checkpoint")
    (tmp_path / "secret").write_text("secret")
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=f"{name} is a link to"):
        write_directory(DirectorySettings(checkpoint=str(checkpoint), repo_id="me/model"), tmp_path / "written")
    assert not (tmp_path / "written").exists()
