"""Training steps under measurement: what all sides share, and a clock that a Trainer calls back."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.compare import Outcome, peak_memory
from benchmarks.profiles import profiler_of, seconds_by_kind


@dataclass(frozen=True, kw_only=True)
class StepWorkload:
    """What all sides of a comparison of training steps share; a benchmark adds what its steps are made of.

    Attributes:
        directory: holds what the sides read.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16" (autocast).
        warmup: steps before the clock starts.
        steps: that are timed.
        profiled: steps after those.
        workers: of the loader.
        threads: of torch, on the CPU.
    """

    directory: Path
    device: str
    precision: str
    warmup: int
    steps: int
    profiled: int
    workers: int
    threads: int

    @property
    def all_steps(self) -> int:
        """Optimizer steps of one measurement."""
        return self.warmup + self.steps + self.profiled

    def shown(self) -> dict[str, Any]:
        """The settings as results show them, without the directory."""
        return {key: value for key, value in asdict(self).items() if key != "directory"}

    def arguments(self) -> dict[str, Any]:
        """TrainingArguments of all sides: nothing is accumulated, saved, reported or shown."""
        return {
            "output_dir": str(self.directory / "output"),
            "max_steps": self.all_steps,
            "bf16": self.precision == "bf16",
            "use_cpu": self.device == "cpu",
            "dataloader_num_workers": self.workers,
            "dataloader_drop_last": True,
            "seed": 0,
            "logging_steps": self.all_steps,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


def measure_steps(workload: StepWorkload, trainer: Trainer) -> Outcome:
    """Train; `seconds` of a step, `peak_memory` in bytes, the mean training `loss`, and the `profile`."""
    clock = StepClock(trainer.args.device, workload.warmup, workload.steps, workload.profiled)
    trainer.add_callback(clock)
    loss = trainer.train().training_loss
    assert clock.seconds is not None
    return {"seconds": clock.seconds, "peak_memory": clock.peak_memory, "loss": loss, "profile": clock.profile}


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
