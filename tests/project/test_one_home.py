"""What the ground floor does is done nowhere else: no second reader of rows, lock, table or "did you mean"."""

import re
from pathlib import Path

import pytest

PRODUCT = ("nomic_bert", "curation", "trainers", "evaluation", "publishing", "recipes", "benchmarks", "hub_upload.py")
TELL_TALE = {
    "a reader of tables": r"csv\.(reader|DictReader)|\.split\(\"\\t\"\)",
    "a reader of text files": r"gzip\.open|GzipFile\(",
    "a reader of parquet rows": r"ParquetFile\(|pq\.read_table|read_parquet",
    "a did-you-mean": r"difflib|get_close_matches",
    "a lock": r"fcntl|flock",
    "an atomic write": r"os\.(replace|rename)\(|partial\.(replace|rename)\(",
    "an array on the disk": r"np\.savez?\(",
    "a picture on the disk": r"\.savefig\(",
    "a Markdown table": r"\"\|\s*-{3}|\"\| \" \+|'\|\s*-{3}",
    "a pattern of hub names": r"\[\\w\.-\][^\"]*/[^\"]*\[\\w\.-\]",
    "text made of anything": r"default=str\b",
}
ALLOWED = {
    ("evaluation/harness/encoder.py", "text made of anything"): "a hash of settings, not a text",
    ("publishing/read_embeddings.py", "an array on the disk"): "runs where the project is not installed",
}


def places(root: Path, pattern: str) -> dict[str, list[str]]:
    """File -> its lines that match."""
    files = [
        path for part in PRODUCT for path in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))
    ]
    assert len(files) > 100
    found = {}
    for file in files:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").split("\n") if re.search(pattern, line)]
        if lines:
            found[file.relative_to(root).as_posix()] = lines
    return found


@pytest.mark.parametrize("what", TELL_TALE)
def test_nothing_of_the_ground_floor_is_written_again(repository: Path, what: str) -> None:
    found = places(repository, TELL_TALE[what])
    assert {file: lines for file, lines in found.items() if (file, what) not in ALLOWED} == {}


def test_exceptions_are_still_needed(repository: Path) -> None:
    assert [key for key in ALLOWED if key[0] not in places(repository, TELL_TALE[key[1]])] == []
