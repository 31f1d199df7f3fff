"""The pages are short, their links lead somewhere, every module of the reference exists, and the site builds."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown_pages import blocks, dead_links

MOST_BYTES = {
    "README.md": 9_000,
    "CONTRIBUTING.md": 2_500,
    "docs/use.md": 9_900,
    "docs/train.md": 7_500,
    "docs/data.md": 5_500,
    "docs/evaluate.md": 4_500,
    "docs/publish.md": 4_500,
}


def pages(repository: Path) -> list[str]:
    files = [repository / "README.md", repository / "CONTRIBUTING.md", *(repository / "docs").rglob("*.md")]
    return [str(file.relative_to(repository)) for file in files]


@pytest.mark.parametrize("page", MOST_BYTES)
def test_a_page_stays_short(repository: Path, page: str) -> None:
    assert len((repository / page).read_bytes()) <= MOST_BYTES[page]


def test_every_link_leads_to_a_file_and_a_heading(repository: Path) -> None:
    checked = pages(repository)
    assert {"README.md", "docs/use.md", "docs/results/README.md"} <= set(checked)
    assert [link for page in checked for link in dead_links(repository, page)] == []


@pytest.mark.parametrize("target", ["nowhere.md", "docs/a.md#no-such-heading", "#missing", "docs/none.png"])
def test_a_dead_link_is_found(tmp_path: Path, target: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("## A `heading`, with code\n")
    good = "[to a page](docs/a.md) [to a heading](docs/a.md#a-heading-with-code) [out](https://example.org)\n"
    (tmp_path / "README.md").write_text(f"# Title\n\n{good}\n```python\nx[0](missing)\n```\n")
    assert dead_links(tmp_path, "README.md") == []
    (tmp_path / "README.md").write_text(f"# Title\n\n{good}[dead]({target})\n")
    assert dead_links(tmp_path, "README.md") == [f"README.md links to {target}"]


def test_the_reference_names_modules_that_exist(repository: Path) -> None:
    named = {
        name
        for page in (repository / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 10
    modules = {name.rpartition(".")[0] if name.rpartition(".")[2][0].isupper() else name for name in named}
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def test_a_block_that_is_not_run_says_why(repository: Path) -> None:
    for page in ("README.md", "docs/use.md"):
        skipped = [block for block in blocks(repository, page) if block.reason is not None]
        assert [str(block) for block in skipped if len(block.reason or "") < 10] == []


def test_the_site_builds_without_a_warning(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nomic_bert.embedder.load_embedder" in (tmp_path / "reference/model/index.html").read_text(encoding="utf-8")
    assert (tmp_path / "overview" / "index.html").exists()  # the README
