"""A file of a checkpoint that is damaged is named with a remedy, whoever opens the checkpoint."""

import errno
import os
import re
import shutil

import pytest

from curation.embedding import ModelSettings, TextEmbedder
from evaluation.harness.encoder import load_encoder
from nomic_bert import checkpoint_files
from nomic_bert.checkpoint_files import require_checkpoint
from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.tokenizer_files import open_tokenizer
from tests.checkpoints import save_nomic, save_other
from textfiles.commands import one_line_errors
from textfiles.replacing import WRITTEN_FILES

SETTINGS = {"config.json": "[]", "tokenizer_config.json": "[1]", "tokenizer.json": "{}", "1_Pooling/config.json": "[]"}
SETTINGS |= {"modules.json": "{}", "sentence_bert_config.json": "[" * 100_000}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    save_embedder(load_embedder(save_nomic(place / "checkpoint"), device="cpu"), place / "ours")
    save_other(place / "other")
    return place


@pytest.fixture
def directory(saved, tmp_path, request):
    return shutil.copytree(saved / getattr(request, "param", "ours"), tmp_path / "model")


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("file", SETTINGS)
@pytest.mark.parametrize("directory", ["ours", "other"], indirect=True)
def test_settings_that_are_not_what_readers_take_them_for_are_named(directory, file):
    (directory / file).write_text(SETTINGS[file])
    doors = [require_checkpoint, lambda path: TextEmbedder(ModelSettings(model_name_or_path=path), "cpu"), load_encoder]
    for door in [*doors, *([open_tokenizer] if "tokenizer" in file else [])]:
        with pytest.raises(ValueError, match=rf"{re.escape(str(directory / file))}.*(again|Fetch)"):
            door(str(directory))


@pytest.mark.parametrize("size", [0, 100, -1])
@pytest.mark.parametrize("directory", ["ours", "other"], indirect=True)
def test_weights_that_are_cut_short_are_named(directory, size):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    for door in (require_checkpoint, lambda path: TextEmbedder(ModelSettings(model_name_or_path=path), "cpu")):
        with pytest.raises(ValueError, match=r"model/model\.safetensors is damaged or cut short .* again"):
            door(str(directory))


def test_weights_that_may_not_be_read_are_not_taken_for_damaged(directory, monkeypatch):
    def deny(file, mode):  # root, as in a container, is denied nothing
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(checkpoint_files, "open", deny, raising=False)
    with pytest.raises(SystemExit, match=r"^error: .*model\.safetensors: permission denied"), one_line_errors():
        require_checkpoint(str(directory))


@pytest.mark.parametrize("place", [-1, -5_000])
def test_one_bit_of_a_weight_is_noticed_unless_the_user_says_that_it_is_meant(directory, place):
    flip(directory / "model.safetensors", place)
    with pytest.raises(ValueError, match=rf"model\.safetensors is not what was written .* remove .*{WRITTEN_FILES}"):
        load_embedder(directory, device="cpu")
    (directory / WRITTEN_FILES).unlink()
    load_embedder(directory, device="cpu")


def test_weights_that_were_saved_over_are_accepted(directory):
    embedder = load_embedder(directory, device="cpu")
    embedder[0].model.embeddings.word_embeddings.weight.data += 1
    embedder.save_pretrained(str(directory), create_model_card=False)
    assert load_embedder(directory, device="cpu").encode("a").tolist() == embedder.encode("a").tolist()
    with pytest.raises(FileExistsError, match="which would be deleted"):
        save_embedder(embedder, directory)


@pytest.mark.parametrize("directory", ["ours", "other"], indirect=True)
def test_a_pipe_is_refused_before_a_reader_waits_for_it(directory):
    os.mkfifo(directory / "vocab.txt")
    doors = [load_embedder, lambda path: TextEmbedder(ModelSettings(model_name_or_path=str(path)), "cpu")]
    for door in (*doors, open_tokenizer):
        with pytest.raises(ValueError, match=r"vocab\.txt is a pipe"):
            door(directory)


def test_a_path_that_is_mistyped_and_so_looks_like_a_hub_name_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    doors = [load_embedder, lambda path: TextEmbedder(ModelSettings(model_name_or_path=path), "cpu"), load_encoder]
    for door in (*doors, open_tokenizer):
        with pytest.raises(FileNotFoundError, match="outputs/finetned is not a directory, .* Correct") as raised:
            door("outputs/finetned")
        assert "\n" not in str(raised.value)


def test_a_directory_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))} is not a model: .* config\.json"):
        TextEmbedder(ModelSettings(model_name_or_path=str(tmp_path)), "cpu")


def test_what_is_not_there_is_told_from_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a checkpoint: there is no such directory"):
        require_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="it has no config.json"):
        require_checkpoint(str(tmp_path))
