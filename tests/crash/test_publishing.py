"""A published directory, killed while it replaces an earlier one."""

import pytest

from nomic_bert.embedder import load_embedder, save_embedder
from publishing.manifest import write_manifest
from tests.checkpoints import save_nomic
from tests.crash.harness import Case, assert_survives


def prepare(directory):
    """A checkpoint, and what was published of another."""
    save_nomic(directory / "model")
    earlier = save_nomic(directory / "earlier", seed=1)
    save_embedder(load_embedder(earlier, device="cpu"), directory / "published")
    (directory / "published" / "README.md").write_text("Earlier.")
    write_manifest(directory / "published")


CASE = Case("hub_upload", "hub_upload.py", ("model", "me/model", "--output_dir", "published"), prepare)


@pytest.mark.crash
def test_a_published_directory_is_the_same_wherever_the_command_was_killed(tmp_path):
    assert_survives(CASE, tmp_path)
