"""A directory is replaced only while it holds exactly what was written to it."""

import pytest

from textfiles.replacing import WRITTEN_FILES, replaceable_directory, require_replaceable


@pytest.fixture
def directory(tmp_path):
    return write(tmp_path / "written")


def write(directory, card="card"):
    with replaceable_directory(directory) as written:
        (written / "onnx").mkdir()
        (written / "2_Normalize").mkdir()
        (written / "README.md").write_text(card)
        (written / "onnx" / "model.onnx").write_text("graph")
    return directory


def test_what_was_written_may_be_replaced(directory):
    require_replaceable(directory)
    (directory / "onnx" / "model.onnx").unlink()
    require_replaceable(directory)
    require_replaceable(directory / "absent")
    write(directory, "new card")
    assert sorted(path.name for path in directory.iterdir()) == [WRITTEN_FILES, "2_Normalize", "README.md", "onnx"]
    assert (directory / "README.md").read_text() == "new card"


def add_git(directory):
    (directory / ".git" / "objects").mkdir(parents=True)
    (directory / ".git" / "HEAD").write_text("ref: refs/heads/main")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add_git, r"\.git/HEAD"),
        (lambda directory: (directory / "checkpoint-100").mkdir(), "checkpoint-100"),
        (lambda directory: (directory / "notes.txt").write_text("mine"), "notes.txt"),
        (lambda directory: (directory / "onnx" / "mine.onnx").write_text("mine"), "onnx/mine.onnx"),
        (lambda directory: (directory / "README.md").write_text("card, edited"), "README.md"),
        (lambda directory: (directory / "checkpoints").symlink_to(directory.parent), "checkpoints"),
    ],
)
def test_what_was_added_or_changed_is_named_and_kept(directory, change, named):
    change(directory)
    with pytest.raises(FileExistsError, match=f"written.*added or changed.*{named}"):
        write(directory)
    assert (directory / "onnx" / "model.onnx").is_file()


def test_what_is_added_while_the_new_directory_is_filled_is_kept(directory):
    with pytest.raises(FileExistsError, match="notes.txt"), replaceable_directory(directory):
        (directory / "notes.txt").write_text("mine")
    assert (directory / "notes.txt").read_text() == "mine"


def test_a_directory_of_anything_else_is_not_replaced(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(FileExistsError, match="holds other files, such as modules.json, which would be deleted"):
        require_replaceable(tmp_path)
