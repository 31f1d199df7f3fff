"""A directory is replaced only while it holds exactly what was written to it."""

import pytest

from publishing.manifest import require_replaceable, write_manifest


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "written" / "onnx").mkdir(parents=True)
    (tmp_path / "written" / "README.md").write_text("card")
    (tmp_path / "written" / "onnx" / "model.onnx").write_text("graph")
    write_manifest(tmp_path / "written")
    return tmp_path / "written"


def test_what_was_written_may_be_replaced(directory):
    require_replaceable(directory)
    (directory / "onnx" / "model.onnx").unlink()
    require_replaceable(directory)
    require_replaceable(directory / "absent")


def add_git(directory):
    (directory / ".git" / "objects").mkdir(parents=True)
    (directory / ".git" / "HEAD").write_text("ref: refs/heads/main")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add_git, r"\.git/HEAD"),
        (lambda directory: (directory / "notes.txt").write_text("mine"), "notes.txt"),
        (lambda directory: (directory / "onnx" / "mine.onnx").write_text("mine"), "onnx/mine.onnx"),
        (lambda directory: (directory / "README.md").write_text("card, edited"), "README.md"),
        (lambda directory: (directory / "checkpoints").symlink_to(directory.parent), "checkpoints"),
    ],
)
def test_what_was_added_or_changed_is_named_and_kept(directory, change, named):
    change(directory)
    with pytest.raises(FileExistsError, match=f"written.*added or changed.*{named}"):
        require_replaceable(directory)


def test_a_directory_of_anything_else_is_not_replaced(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(FileExistsError, match="not written by this command"):
        require_replaceable(tmp_path)
