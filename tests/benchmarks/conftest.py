from collections.abc import Iterator

import pytest
import torch

from benchmarks import compare


@pytest.fixture(autouse=True)
def threads_kept() -> Iterator[None]:
    """The threads that a benchmark sets are set back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in this process costs less than the new ones that a measurement takes."""
    monkeypatch.setattr(compare, "in_fresh_process", lambda function, *arguments: function(*arguments))
