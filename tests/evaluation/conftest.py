import pytest

from tests.checkpoints import save_nomic, save_other


@pytest.fixture
def nomic(tmp_path):
    """A checkpoint of stage 1: trained to 64 tokens, usable to 256."""
    return save_nomic(tmp_path / "run" / "final")


@pytest.fixture
def other(tmp_path):
    return save_other(tmp_path / "other")
