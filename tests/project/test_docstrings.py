"""Docstrings have one dialect: Google style, with entries that begin in lower case."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PRODUCT = ("textfiles", "nomic_bert", "curation", "trainers", "evaluation", "publishing", "recipes", "benchmarks")
SECTION = re.compile(r"(\s*)(\w+):\s*")
ENTRY = re.compile(r"\s*[^:]+: (\w+)")
# Words that begin in upper case anywhere; abbreviations such as JSON are known by their form.
PROPER = {"False", "None", "True", "Trainer", "Python", "Markdown", "Arrow", "Retrieval"}


def entries(docstring: str) -> Iterator[str]:
    """The first lines of the entries under Args, Attributes and Raises."""
    base = None
    for line in docstring.split("\n"):
        indent = len(line) - len(line.lstrip())
        if (head := SECTION.fullmatch(line)) and head[2] in ("Args", "Attributes", "Raises"):
            base = len(head[1])
        elif base is not None and line.strip() and indent <= base:
            base = None
        elif base is not None and indent == base + 4:
            yield line.strip()


def capitalized(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for entry in entries(ast.get_docstring(node) or ""):
                word = match[1] if (match := ENTRY.match(entry)) else ""
                if re.fullmatch(r"[A-Z]([a-z]+)?", word) and word not in PROPER:
                    found.append(entry)
    return found


@pytest.mark.parametrize("part", PRODUCT)
def test_entries_begin_in_lower_case(repository: Path, part: str) -> None:
    files = sorted((repository / part).rglob("*.py"))
    assert files
    assert {str(file): found for file in files if (found := capitalized(file.read_text(encoding="utf-8")))} == {}


def test_an_entry_in_upper_case_is_found() -> None:
    lines = ["Do it.", "", "Args:", "    a: The thing.", "    b: JSON.", "", "Returns:", "    A thing: One.", ""]
    source = 'def f(a):\n    """' + "\n    ".join(lines) + '"""'
    assert capitalized(source) == ["a: The thing."]
