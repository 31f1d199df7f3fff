"""The command as a user runs it: a directory that every reader opens alike, then the upload when told."""

import contextlib
import io
import json

import pytest

import hub_upload
from nomic_bert.training_record import read_training, write_training
from publishing import directory as directory_module
from publishing.readers import EXPORT_READERS, READERS
from publishing.verification import Agreement
from tests.checkpoints import save_nomic
from tests.publishing.fake_hub import Repository
from textfiles.replacing import WRITTEN_FILES

FILES = {
    "README.md", "config.json", "model.safetensors", "training.json",
    "attention_nomic_bert.py", "configuration_nomic_bert.py", "cpu_nomic_bert.py", "heads_nomic_bert.py",
    "layers_nomic_bert.py", "loading_nomic_bert.py", "modeling_nomic_bert.py", "rotary_nomic_bert.py",
    "unpadding_nomic_bert.py",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
    "1_Pooling/config.json", "2_Normalize/config.json", "onnx/model.onnx", "onnx/model_quantized.onnx",
    "openvino/openvino_model.xml", "openvino/openvino_model.bin", "openvino/input_maxima.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = save_nomic(tmp_path_factory.mktemp("checkpoint") / "final", seed=2)
    write_training(directory, [{"stage": "masked language modelling", "steps": 3}])
    return directory


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory):
    """What the command wrote, and what it said, without a token."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    directory = tmp_path_factory.mktemp("hub") / "model"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(hub_upload.huggingface_hub, "get_token", lambda: None)
        hub_upload.main(
            [
                str(checkpoint),
                "me/model",
                "--output_dir",
                str(directory),
                "--onnx_int8",
                "--openvino",
                "--openvino_int8",
            ]
        )
    return directory, said.getvalue()


def test_every_reader_gives_the_checkpoints_embeddings(written):
    _, said = written
    for reader in (*READERS, *EXPORT_READERS.values()):
        (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{reader.name}:")]
        lengths = "5, 64 tokens" if reader.trained_length_only else "5, 64, 65, 256 tokens"
        assert lengths in line
        assert float(line.rsplit(" ", 1)[1]) <= reader.tolerance


def test_the_directory_is_complete_and_holds_nothing_else(written, checkpoint):
    directory, said = written
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert found == FILES | {WRITTEN_FILES}
    assert json.loads((directory / "tokenizer_config.json").read_text())["model_max_length"] == 256
    assert read_training(directory) == read_training(checkpoint)
    assert "No token" in said and f"hf upload me/model {directory}" in said


def test_the_command_to_upload_later_can_be_typed_as_it_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub_upload.huggingface_hub, "get_token", lambda: None)
    publish(tmp_path / "my model")
    assert capsys.readouterr().out.endswith(f"hf upload me/model '{tmp_path / 'my model'}'\n")


def publish(directory, *words):
    hub_upload.publish(directory, hub_upload._parser().parse_args(["checkpoint", "me/model", *words]))


def test_nothing_is_uploaded_without_being_told(hub, written, capsys):
    directory, _ = written
    publish(directory)  # a test has no terminal to ask
    said = capsys.readouterr().out
    assert "add     model.safetensors" in said and "Nothing was uploaded" in said
    assert hub.repositories == {}
    publish(directory, "--yes", "--private")
    assert hub.repositories["me/model"].private
    assert set(hub.repositories["me/model"].branches["main"][-1]) == FILES
    publish(directory, "--yes")
    assert "Nothing to upload" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "uploads"), [("y", True), ("", False), ("no", False)])
def test_a_person_is_asked(hub, written, monkeypatch, answer, uploads):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    publish(written[0])
    assert ("me/model" in hub.repositories) == uploads


def test_a_foreign_repository_stops_the_command(hub, written):
    hub.repositories["me/model"] = Repository(private=False, branches={"main": [{"config.json": b"{}"}]})
    with pytest.raises(FileExistsError, match="--overwrite"):
        publish(written[0], "--yes")
    publish(written[0], "--yes", "--overwrite")
    assert set(hub.repositories["me/model"].branches["main"][-1]) == FILES


def test_without_a_network_the_directory_stays(written, monkeypatch):
    monkeypatch.setattr(hub_upload.huggingface_hub, "get_token", lambda: "hf_secret")
    with pytest.raises(ConnectionError, match="(?s)offline.*is ready"):
        publish(written[0], "--yes")


def test_a_directory_that_a_reader_sees_otherwise_is_not_written(checkpoint, tmp_path, monkeypatch):
    wrong = Agreement(READERS[0], {}, (5,), 0.5)
    monkeypatch.setattr(directory_module, "verify_directory", lambda *_: [wrong, Agreement(READERS[1], {}, (5,), 0.0)])
    with pytest.raises(SystemExit, match=r"other embeddings.*trust_remote_code \(5\.0e-01\); nothing was written"):
        hub_upload.main([str(checkpoint), "me/model", "--output_dir", str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_meant_is_refused_in_one_line(checkpoint, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    for words, said in {
        (str(checkpoint), "../model"): "owner/name",
        (str(tmp_path / "nowhere"), "me/model"): "nowhere",
        (str(checkpoint), "me/model", "--output_dir", str(tmp_path / "notes")): "which would be deleted",
    }.items():
        with pytest.raises(SystemExit, match=f"error: .*{said}"):
            hub_upload.main(list(words))
    assert (tmp_path / "notes" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--license", "Apache 2.0", "'Apache 2.0' is no identifier of the hub"),
        ("--license", "MIT", "'MIT' is no identifier"),
        ("--language", "english", "'english' is no code of ISO 639; write en for English"),
        ("--language", "EN", "'EN' is no code"),
    ],
)
def test_what_the_hub_would_refuse_at_the_end_is_refused_at_once(option, value, said, capsys):
    with pytest.raises(SystemExit):
        hub_upload.main(["checkpoint", "me/model", option, value])
    assert f"{option}: {said}" in capsys.readouterr().err


def test_licences_and_languages_of_the_hub_are_taken():
    known = ["--license", "cc-by-nc-sa-4.0", "--language", "en", "ceb", "zh-Hant", "multilingual"]
    args = hub_upload._parser().parse_args(["checkpoint", "me/model", *known])
    assert args.license == "cc-by-nc-sa-4.0" and args.language == ["en", "ceb", "zh-Hant", "multilingual"]
