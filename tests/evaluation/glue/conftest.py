import gc

import pytest

from tests.checkpoints import save_nomic
from tests.evaluation.glue.toys import write_data


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """Every training begins with a garbage collection, which takes seconds where all of mteb is loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def place(tmp_path):
    """A directory with a model that drops out, and data of every task."""
    save_nomic(tmp_path / "model", resid_pdrop=0.1, embd_pdrop=0.1)
    write_data(tmp_path / "data")
    return tmp_path
