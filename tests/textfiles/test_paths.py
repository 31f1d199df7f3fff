"""A path that cannot be read or written is told with its option and what to do, wherever it is given."""

import errno
import importlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from recipes.shared.arguments import parse_arguments
from recipes.shared.pair_sources import pair_sources
from recipes.steps.embed import EmbedArguments
from textfiles.atomic import write_text
from textfiles.commands import one_line_errors
from textfiles.paths import file_fault, output_fault


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "tasks.yaml").write_text("- 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_that_is_not_there_is_told_with_a_near_name(place: Path) -> None:
    assert file_fault("tasks.yaml") is None
    assert file_fault("task.yml") == "task.yml does not exist; did you mean tasks.yaml?"
    assert file_fault("other.yaml") == "other.yaml does not exist; correct the path."
    assert file_fault("tasks.csv") == "tasks.csv does not exist; did you mean tasks.yaml?"
    Path("tasks.jsonl").touch()
    assert file_fault("task.jsonl") == "task.jsonl does not exist; did you mean tasks.jsonl?"
    assert file_fault("taskl.csv") == "taskl.csv does not exist; correct the path."
    assert file_fault("nowhere/tasks.yaml") == "nowhere/tasks.yaml does not exist; correct the path."
    assert file_fault("tasks.yaml/x") == "tasks.yaml/x does not exist; correct the path."
    assert file_fault("folder") == "folder is a directory; name a file."


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in directories")
def test_a_pipe_is_a_file_to_read(place: Path) -> None:
    os.mkfifo("pipe")  # as the shell's <(...) gives one
    assert file_fault("pipe") is None


def test_a_directory_can_be_made_below_directories_alone(place: Path) -> None:
    assert [output_fault(path) for path in ("folder", "new", "folder/a/b", place / "x")] == [None] * 4
    fault = "tasks.yaml is a file, not a directory; choose another."
    assert [output_fault(path) for path in ("tasks.yaml", "tasks.yaml/a/b")] == [fault] * 2


def deny(path: str) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", path)  # root, as in a container, is denied nothing


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (Path("nowhere").read_text, "nowhere: there is no such file or directory; correct the path."),
        (Path("folder").read_text, "folder: it is a directory; name a file."),
        (Path("tasks.yaml/x").read_text, "tasks.yaml/x: a part of this path is a file, not a directory; correct"),
        (partial(os.scandir, "nowhere"), "nowhere: there is no such file or directory; correct the path."),
        (partial(deny, "secret"), "secret: permission denied; allow it, or choose another path."),
        (
            partial(write_text, "x", "M\udcfcller"),
            r"'M\\udcfcller' is not valid text: a file's name in another encoding",
        ),
        (Path("tasks.yaml").mkdir, "tasks.yaml: it exists, and is not a directory; choose another path."),
    ],
)
def test_errors_of_the_system_are_sentences(place: Path, act: Callable[[], object], told: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: {told}"), one_line_errors():
        act()


@pytest.mark.parametrize(
    ("command", "before", "option"),
    [
        ("evaluation.mteb_run", ["model"], "--local_tasks"),
        ("evaluation.long_context", ["model"], "--local_tasks"),
        ("hub_upload", ["model", "me/mine"], "--evaluation"),
        ("benchmarks.memory", [], "configs"),
        ("benchmarks.search", [], "--embeddings"),
    ],
)
@pytest.mark.parametrize(("path", "told"), [("tasks.yml", "did you mean tasks.yaml"), ("folder", "is a directory")])
def test_an_option_that_names_no_file_is_refused_by_its_name(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, before: list, option: str, path: str, told: str
) -> None:
    words = [path] if option == "configs" else [option, path]
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(command).main([*before, *words])
    assert f"error: argument {option}: {path} " in (line := capsys.readouterr().err.splitlines()[-1]) and told in line


@pytest.mark.parametrize(
    ("command", "before"),
    [
        ("evaluation.mteb_run", ["model"]),
        ("evaluation.report.__main__", ["results"]),
        ("evaluation.glue.__main__", ["model"]),
        ("hub_upload", ["model", "me/mine"]),
    ],
)
def test_an_output_that_is_a_file_is_refused_by_its_name(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, before: list
) -> None:
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(command).main([*before, "--output_dir", "tasks.yaml/out"])
    assert "argument --output_dir: tasks.yaml is a file" in capsys.readouterr().err


def test_recipes_name_the_key(place: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: --config: task.yaml does not exist; did you mean tasks.yaml\?$"):
        parse_arguments([EmbedArguments], ["--config", "task.yaml"])
    with pytest.raises(SystemExit, match="^error: --output_dir: the output_dir tasks.yaml is a file"):
        parse_arguments([EmbedArguments], ["--output_dir", "tasks.yaml"])
    with pytest.raises(ValueError, match="^sources_from: task.yaml does not exist; did you mean"):
        pair_sources([], "task.yaml", {})
