from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from benchmarks.steps import StepClock


def test_the_clock_counts_the_timed_steps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock(torch.device("cpu"), warmup=2, steps=3)
    args, state, control = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(), TrainerControl()
    for step, now in enumerate([100.0, 110.0, 11.5, 12.5, 20.5, 999.0], start=1):
        monkeypatch.setattr(clock, "_now", lambda now=now: now)
        state.global_step = step
        clock.on_step_end(args, state, control)
    assert clock.seconds == pytest.approx((20.5 - 110.0) / 3)
    assert clock.profile == {} and clock.peak_memory > 0
