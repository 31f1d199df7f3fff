"""The quickstart over a slice of its text, killed in the middle of any of its steps."""

import pytest

from tests.crash.harness import Case, assert_survives

TIMES = "holds running times, and tokens a second"
CASE = Case(
    "quickstart --smoke",
    "recipes/quickstart.py",
    ("--smoke", "--output_dir", "outputs"),
    prepare=lambda directory: None,
    has_readers=True,
    may_differ={
        "outputs/.in-use": "names the process",
        "*trainer_state.json": TIMES,
        "*.png": "drawn of these",
        "*/training.json": "has the date and the seconds",
    },
    not_compared={
        # the checksums of such files
        "*/files.json": rb'"(trainer_state|training).json": \{[^}]*\}|"sha256": "\w+"\n\}',
        "*/.nomic-embed-files.json": rb'"training.json": "\w+",?',
        # when the quickstart's own text was written, in nanoseconds
        "outputs/negatives/*/settings.json": rb"\b\d{19}\b",
    },
)


@pytest.mark.crash
def test_the_quickstart_ends_with_the_same_files_wherever_it_was_killed(tmp_path):
    assert_survives(CASE, tmp_path)
