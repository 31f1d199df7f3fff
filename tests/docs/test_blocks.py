"""Every block of Python and every command of the README and the guides that can run here does, on a tiny model."""

import contextlib
import json
import re
import runpy
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from nomic_bert.embedder import load_embedder, save_embedder
from recipes.quickstart_text.index import build_index
from tests.checkpoints import save_nomic
from tests.docs.markdown_pages import Block, blocks

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/use.md", "docs/train.md")
PROGRAMS = ("python", "accelerate launch")  # with one process, `accelerate launch` is `python`


def runnable(language: str) -> list[Block]:
    pages = PAGES if language == "python" else PAGES[:2]
    found = [block for page in pages for block in blocks(REPOSITORY, page)]
    return [block for block in found if block.language == language and block.reason is None]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: a published model with its index, pairs, and the checkout's recipes."""
    folder = tmp_path_factory.mktemp("reader")
    model = folder / "outputs" / "quickstart" / "model"
    save_embedder(load_embedder(save_nomic(folder / "checkpoint", n_positions=2048), device="cpu"), model)
    build_index(model, ["tqdm"])
    pairs = [
        {"query": f"question {n}", "document": f"answer {n}", "negatives": [f"other {n}"]} for n in range(192)
    ]  # three steps: the first, of warmup, has a rate of 0
    (folder / "my.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    (embed,) = (block for block in runnable("bash") if "recipes/embed.py" in block.code)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        run_commands(embed, patch)  # the vectors that a block of Python reads
    return folder


def run_commands(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where the libraries are imported already."""
    for line in block.code.replace("\\\n", " ").splitlines():
        program = next(program for program in PROGRAMS if line.startswith(program + " "))
        script, *arguments = shlex.split(line.removeprefix(program), comments=True)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(script, run_name="__main__")


@pytest.mark.parametrize("block", runnable("python"), ids=str)
def test_python_runs(block: Block, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published)
    exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", runnable("bash"), ids=str)
def test_a_command_runs(block: Block, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published)
    run_commands(block, monkeypatch)


def test_the_pages_have_blocks_to_run() -> None:
    assert [len(runnable("python")), len(runnable("bash"))] == [9, 3]


def test_finetuning_as_in_the_readme_leaves_an_embedder(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = (block for block in runnable("bash") if "finetune_own_pairs.yaml" in block.code)
    if not (published / "outputs" / "finetuned" / "final").exists():
        test_a_command_runs(command, published, monkeypatch)
    outputs = published / "outputs"
    start, trained = (load_embedder(outputs / name) for name in ("quickstart/model", "finetuned/final"))
    assert abs(trained.encode_query("question") - start.encode_query("question")).max() > 0


def commands() -> dict[str, set[str]]:
    """Script or module -> the options that any page gives it, in blocks that are run and in those that are not."""
    found: dict[str, set[str]] = {}
    for page in ("README.md", *(f"docs/{name}.md" for name in ("use", "train", "data", "evaluate", "publish"))):
        for block in blocks(REPOSITORY, page):
            for line in block.code.replace("\\\n", " ").splitlines():
                if match := re.search(r"(recipes/\w+\.py|evaluation\.\w+|hub_upload\.py)(.*)", line):
                    found.setdefault(match[1], set()).update(re.findall(r" --(\w+)", match[2]))
    return found


@pytest.mark.parametrize("command", commands())
def test_every_option_of_the_pages_is_in_the_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with suppress(SystemExit):
        if command.endswith(".py"):
            runpy.run_path(str(REPOSITORY / command), run_name="__main__")
        else:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    printed = capsys.readouterr().out
    assert len(printed) > 200
    words = set(re.findall(r"\w+", printed)) | {"config"}
    assert commands()[command] - words == set()
