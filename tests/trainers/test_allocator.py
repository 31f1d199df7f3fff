import platform
import resource

import pytest
import torch

from tests.processes import Forked
from tests.trainers.toys import mlm_trainer
from trainers.allocator import keep_freed_memory

TENSORS, BYTES = 10, 100 * 2**20


def take_and_free() -> None:
    """Print whether freed memory is kept, and the pages that a step's tensors then cost: before, and with it."""
    counts = []
    for keep in (lambda: None, keep_freed_memory):
        kept = keep()
        torch.ones(BYTES, dtype=torch.uint8)  # the first step takes its memory in any case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(TENSORS):
            torch.ones(BYTES, dtype=torch.uint8)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(kept, *counts)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_memory_of_a_step_is_there_for_the_next_one():
    process = Forked(take_and_free)
    assert process.wait() == 0
    kept, by_default, told = process.printed.split()
    assert kept == "True"
    assert int(told) < int(by_default) / 10


def test_what_the_environment_says_of_the_allocator_holds(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()


def test_training_on_a_cpu_asks_for_it(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("trainers.base.keep_freed_memory", lambda: calls.append(1))
    mlm_trainer(tmp_path).train()
    assert calls == [1]
