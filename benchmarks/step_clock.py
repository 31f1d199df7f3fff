"""When training steps begin and end, and by torch's profiler where their time goes, by kind of work."""

import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.measure import peak_memory
from benchmarks.profiles import profiler_of, seconds_by_kind


class StepClock(TrainerCallback):
    """Times whole optimizer steps, the loading of their batches included, and profiles a few more of them.

    Attributes:
        seconds: of one step, the mean over the timed steps; None before they are over.
        peak_memory: bytes, when the timed steps are over.
        profile: kind -> seconds a step; empty without profiled steps.

    Args:
        device: that is trained on; on a GPU the clock waits for it.
        warmup: steps before the first timed one.
        steps: that are timed.
        profiled: steps after those.
    """

    def __init__(self, device: torch.device, warmup: int, steps: int, profiled: int = 0) -> None:
        self.device = device
        self.starts, self.ends, self.profiled = warmup, warmup + steps, profiled
        self.seconds: float | None = None
        self.peak_memory = 0
        self.profile: dict[str, float] = {}
        self._profiler = profiler_of(device)
        self._began = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Read the clock where a stretch of steps begins or ends."""
        if state.global_step == self.starts:
            self._began = self._now()
        if state.global_step == self.ends:
            self.seconds = (self._now() - self._began) / (self.ends - self.starts)
            self.peak_memory = peak_memory(self.device)
            if self.profiled:
                self._profiler.start()
                self._began = self._now()
        if self.profiled and state.global_step == self.ends + self.profiled:
            seconds = (self._now() - self._began) / self.profiled
            self._profiler.stop()
            assert self.seconds is not None
            # the profiler slows the host, which on a GPU would look as if the device waited
            whole = seconds if self.device.type == "cpu" else self.seconds
            self.profile = seconds_by_kind(self._profiler.key_averages(), self.device, self.profiled, whole)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
