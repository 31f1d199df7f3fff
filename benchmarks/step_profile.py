"""When training steps begin and end, and by torch's profiler where their time goes, by kind of work."""

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.measure import markdown_table, peak_memory

# Names of torch's operators (CPU) and of CUDA's, cuBLAS's, cuDNN's and Triton's kernels; the first match decides.
_KINDS = {
    "attention": r"attention|attn|flash|fmha|sdpa",
    "optimizer": r"adam|optimizer|multi_tensor|foreach",
    "data": r"dataloader",
    "matmul": r"::(mm|addmm|bmm|baddbmm|linear|mv)\b|gemm|gemv|cutlass|nvjet|xmma|cublas|mkldnn_linear",
    "norm, softmax and loss": r"layer_?norm|gammabeta|softmax|nll_loss|cross_entropy",
    "embedding and indexing": r"embedding|index|gather|scatter|nonzero|masked_select|radix|devicescan|devicereduce",
    "copies": r"copy|memcpy|memset|::cat\b|catarray|fill|zero|contiguous",
    "elementwise": r"aten::|elementwise|vectorized|triton|cpp_fused|reduce",
}
_REST = "rest"


def kind_of(name: str) -> str:
    """What an operator or a kernel does, by its name; "rest" where no pattern knows it."""
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name, re.IGNORECASE)), _REST)


class StepClock(TrainerCallback):
    """Times whole optimizer steps, the loading of their batches included, and profiles a few more of them.

    Attributes:
        seconds: of one step, the mean over the timed steps; None before they are over.
        peak_memory: bytes, when the timed steps are over.
        profile: kind -> seconds a step; empty without profiled steps. "rest" is time in nothing that has a name:
            Python, kernel launches, a GPU that waits.

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
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self._profiler = profile(activities=activities)
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
            self.profile = self._by_kind(seconds if self.device.type == "cpu" else self.seconds)

    def _by_kind(self, step_seconds: float) -> dict[str, float]:
        seconds = sum_by_kind(self._times(), self.profiled)
        named = sum(time for kind, time in seconds.items() if kind != _REST)
        seconds[_REST] = max(step_seconds - named, 0.0)
        return seconds

    def _times(self) -> Iterable[tuple[str, float]]:
        """(name, microseconds) of every operator on a CPU, of every kernel on a GPU."""
        on_gpu = self.device.type == "cuda"
        for event in self._profiler.key_averages():
            # ranges that are marked on the GPU's time line contain kernels that are counted themselves
            if on_gpu and event.device_type == DeviceType.CUDA and not event.is_user_annotation:
                yield event.key, event.self_device_time_total
            elif not on_gpu and event.device_type == DeviceType.CPU:
                yield event.key, event.self_cpu_time_total

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def sum_by_kind(times: Iterable[tuple[str, float]], steps: int) -> dict[str, float]:
    """Kind -> seconds a step, from (name, microseconds in all steps), longest first."""
    seconds: dict[str, float] = defaultdict(float)
    for name, microseconds in times:
        seconds[kind_of(name)] += microseconds / 1e6 / steps
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def profile_table(profiles: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A heading and a Markdown table of side -> kind -> seconds a step; nothing where no side was profiled."""
    profiles = {name: profile for name, profile in profiles.items() if profile}
    if not profiles:
        return []
    kinds = dict.fromkeys(kind for profile in profiles.values() for kind in profile)
    rows = [
        [kind, *(f"{1e3 * p.get(kind, 0):,.1f} ({p.get(kind, 0) / sum(p.values()):.0%})" for p in profiles.values())]
        for kind in kinds
    ]
    return ["Milliseconds a step, by torch's profiler:", markdown_table(["kind of work", *profiles], rows)]
