"""The upload, by the real client against a hub in this process."""

import os
import subprocess

import pytest
from huggingface_hub import HfApi, constants

from publishing.upload import plan_upload, require_repo_id, upload
from tests.commands import contents
from tests.publishing.fake_hub import FakeHub, Repository

TOKEN = "hf_secretsecretsecretsecret"
CARD = b"---\ntags:\n- nomic-embed-hf\n---\n# A model\n"


@pytest.fixture
def api(hub: FakeHub) -> HfApi:
    return HfApi(endpoint=hub.address, token=TOKEN)


@pytest.fixture
def directory(tmp_path):
    files = {
        "README.md": CARD,
        "config.json": b"{}",
        "model.safetensors": os.urandom(50_000),
        "1_Pooling/config.json": b"{}",
    }
    for name, content in files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def publish(api, directory, revision=None, private=False, overwrite=False):
    return upload(api, directory, plan_upload(api, directory, "me/model", revision, private), overwrite)


def test_a_new_repository_gets_every_file_and_is_private_if_asked(hub, api, directory):
    plan = plan_upload(api, directory, "me/model", None, private=True)
    assert hub.repositories == {}, "planning changed something"
    assert set(plan.added) == set(contents(directory))
    assert "private" in plan.describe() and "model.safetensors (50,000 bytes)" in plan.describe()
    address = upload(api, directory, plan, overwrite=False)
    assert hub.repositories["me/model"].private
    assert hub.repositories["me/model"].branches["main"][-1] == contents(directory)
    assert address.startswith(f"{hub.address}/me/model/commit/")


def test_what_is_there_is_told_apart_by_its_content(hub, api, directory):
    publish(api, directory)
    assert plan_upload(api, directory, "me/model", None, False).is_done
    # git's own idea of a file's hash
    said = subprocess.run(["git", "hash-object", directory / "config.json"], capture_output=True, text=True, check=True)
    tree = {entry.path: entry.blob_id for entry in api.list_repo_tree("me/model")}
    assert tree["config.json"] == said.stdout.strip()
    (directory / "config.json").write_bytes(b"[]")
    (directory / "model.safetensors").write_bytes(os.urandom(50_000))
    plan = plan_upload(api, directory, "me/model", None, False)
    assert set(plan.changed) == {"config.json", "model.safetensors"} and not plan.added


def test_old_weights_go_and_other_files_stay(hub, api, directory):
    old = {"README.md": CARD, "onnx/model.onnx": b"old", "pytorch_model.bin": b"old", "notes.txt": b"mine"}
    hub.repositories["me/model"] = Repository(private=False, branches={"main": [old]})
    plan = plan_upload(api, directory, "me/model", None, False)
    assert plan.removed == ["onnx/model.onnx", "pytorch_model.bin"] and plan.kept == ["notes.txt"]
    assert "remove  onnx/model.onnx" in plan.describe() and "leave   notes.txt" in plan.describe()
    upload(api, directory, plan, overwrite=False)
    there = hub.repositories["me/model"].branches["main"][-1]
    assert there == {**contents(directory), "notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("files", "refused"),
    [
        ({"config.json": b"{}"}, True),
        ({"README.md": b"---\ntags:\n- bert\n---\n", "model.safetensors": b"x"}, True),
        ({".gitattributes": b"", "README.md": b"---\nlicense: mit\n---\n"}, False),
        ({}, False),
        ({"README.md": CARD, "model.safetensors": b"x"}, False),
    ],
)
@pytest.mark.parametrize("revision", [None, "second"])
def test_a_foreign_repository_is_changed_only_when_told(hub, api, directory, files, refused, revision):
    hub.repositories["me/model"] = Repository(private=False, branches={"main": [files]})
    if refused:
        with pytest.raises(FileExistsError, match="--overwrite"):
            publish(api, directory, revision)
        assert hub.repositories["me/model"].branches == {"main": [files]}
        publish(api, directory, revision, overwrite=True)
    else:
        publish(api, directory, revision)
    there = hub.repositories["me/model"].branches[revision or "main"][-1]
    assert contents(directory).items() <= there.items()


def test_a_branch_is_made_and_main_stays(hub, api, directory):
    old = {"README.md": CARD, "onnx/model.onnx": b"old"}
    hub.repositories["me/model"] = Repository(private=False, branches={"main": [old]})
    plan = plan_upload(api, directory, "me/model", "v2", False)
    assert "new branch v2" in plan.describe() and plan.removed == ["onnx/model.onnx"]
    upload(api, directory, plan, overwrite=False)
    branches = hub.repositories["me/model"].branches
    assert branches["main"] == [old]
    assert branches["v2"][-1] == contents(directory)


def test_a_branch_of_a_new_repository_is_made_too(hub, api, directory):
    publish(api, directory, revision="v2")
    assert hub.repositories["me/model"].branches["v2"][-1] == contents(directory)


def test_an_interrupted_upload_goes_on_without_sending_the_weights_again(hub, api, directory):
    hub.refuse_commits = 1
    with pytest.raises(ConnectionError, match="refused this time"):
        publish(api, directory)
    assert hub.repositories["me/model"].branches["main"] == [{}], "half an upload is visible"
    publish(api, directory)
    assert hub.repositories["me/model"].branches["main"][-1] == contents(directory)
    sent = [path for method, path, _ in hub.requests if method == "PUT" and path.startswith("/lfs/")]
    assert len(sent) == 1


def test_a_repository_that_has_changed_since_the_plan_is_not_overwritten(hub, api, directory):
    hub.repositories["me/model"] = Repository(private=False, branches={"main": [{"README.md": CARD}]})
    plan = plan_upload(api, directory, "me/model", None, False)
    hub.repositories["me/model"].branches["main"].append({"README.md": CARD, "config.json": b"another's"})
    with pytest.raises(ConnectionError):
        upload(api, directory, plan, overwrite=False)
    assert hub.repositories["me/model"].branches["main"][-1]["config.json"] == b"another's"


def test_hidden_files_stay_here_and_links_are_refused(hub, api, directory, tmp_path):
    (directory / ".env").write_text("secret")
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("secret")
    publish(api, directory)
    assert not [name for name in hub.repositories["me/model"].branches["main"][-1] if ".env" in name or ".git" in name]
    (tmp_path / "outside").write_text("secret")
    (directory / "linked.txt").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="linked.txt is a link"):
        plan_upload(api, directory, "me/model", None, False)


def test_the_token_goes_to_the_hub_and_into_no_message(hub, directory, capsys):
    api = HfApi(endpoint=hub.address, token=TOKEN)
    plan = plan_upload(api, directory, "me/model", None, False)
    assert {authorization for _, _, authorization in hub.requests} == {f"Bearer {TOKEN}"}
    hub.respond = lambda *_: (403, {}, {"error": f"token {TOKEN} may not write"})  # type: ignore[method-assign]
    with pytest.raises(ConnectionError) as error:
        upload(api, directory, plan, overwrite=False)
    said = str(error.value) + str(error.value.__cause__) + plan.describe() + "".join(capsys.readouterr())
    assert "may not write" in said and TOKEN not in said


def test_no_network_is_said(directory, monkeypatch):
    with pytest.raises(ConnectionError, match="offline"):
        plan_upload(HfApi(token=TOKEN), directory, "me/model", None, False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ConnectionError):
        plan_upload(HfApi(endpoint="http://127.0.0.1:9", token=TOKEN), directory, "me/model", None, False)


@pytest.mark.parametrize(
    "name",
    ["model", "../model", "me/..", "me/../../etc", "/etc/passwd", "me/model/x", "me\\model", "me/.hidden", "me/a--b",
     "", "me/", "me/model.git", "a b/model", "me/model\n", "~/model", "me/mödel"],
)  # fmt: skip
def test_what_is_no_repository_name_is_refused(name):
    with pytest.raises(ValueError, match="owner/name"):
        require_repo_id(name)


def test_a_repository_name_is_taken():
    assert require_repo_id("nomic-ai/nomic-embed-text-v1.5") == "nomic-ai/nomic-embed-text-v1.5"
