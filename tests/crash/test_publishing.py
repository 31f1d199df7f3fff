"""A published directory, killed while it replaces an earlier one."""

import pytest

from nomic_bert.embedder import load_embedder, save_embedder
from tests.checkpoints import save_nomic
from tests.crash.harness import Case, assert_survives
from textfiles.replacing import replaceable_directory


def prepare(directory):
    """A checkpoint, and what was published of another."""
    save_nomic(directory / "model")
    earlier = save_nomic(directory / "earlier", seed=1)
    with replaceable_directory(directory / "published") as written:
        save_embedder(load_embedder(earlier, device="cpu"), written)
        (written / "README.md").write_text("Earlier.")


CASE = Case(
    "hub_upload", "hub_upload.py", ("model", "me/model", "--output_dir", "published"), prepare, has_readers=True
)


@pytest.mark.crash
def test_a_published_directory_is_the_same_wherever_the_command_was_killed(tmp_path):
    assert_survives(CASE, tmp_path)
