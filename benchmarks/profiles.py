"""Where time goes, by torch's profiler: by kind of work, and on a GPU how often it is launched and waited for."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from textfiles.markdown import table

# Names of torch's operators (CPU) and of CUDA's, cuBLAS's, cuDNN's and Triton's kernels; the first match decides.
_KINDS = {
    "attention": r"attention|attn|flash|fmha|sdpa",
    "optimizer": r"adam|optimizer|multi_tensor|foreach",
    "data": r"dataloader",
    "matmul": r"::(mm|addmm|bmm|baddbmm|linear|mv)\b|gemm|gemv|cutlass|nvjet|xmma|cublas|mkldnn(_|::_)linear",
    "norm, softmax and loss": r"layer_?norm|gammabeta|softmax|nll_loss|cross_entropy",
    "embedding and indexing": r"embedding|index|gather|scatter|nonzero|masked_select|radix|devicescan|devicereduce",
    "copies": r"copy|memcpy|memset|::cat\b|catarray|fill|zero|contiguous",
    "elementwise": r"aten::|elementwise|vectorized|triton|cpp_fused|reduce",
}
_REST = "rest"
# What is counted on a GPU -> name of the events, and whether they are the GPU's own or calls of the host.
_COUNTS = {
    "kernels launched": (r"^(?!Memcpy|Memset)", DeviceType.CUDA),
    "copies from the GPU to the host": (r"^Memcpy DtoH", DeviceType.CUDA),
    "waits of the host for the GPU": (r"^cu(da)?(Stream|Device|Event|Ctx)Synchronize", DeviceType.CPU),
}

Events = Iterable[Any]  # torch's FunctionEventAvg: key, count, device_type, self times in microseconds


def kind_of(name: str) -> str:
    """What an operator or a kernel does, by its name; "rest" where no pattern knows it."""
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name, re.IGNORECASE)), _REST)


def profiler_of(device: torch.device) -> profile:
    """A profiler of the operators on a CPU, and on a GPU of its kernels and of the host's calls too."""
    return profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda"))


def seconds_by_kind(events: Events, device: torch.device, repeats: int, seconds: float) -> dict[str, float]:
    """Kind -> seconds of one repeat, longest first; "rest" last.

    Args:
        events: `key_averages()` of a profiler that has stopped.
        device: the work's: on a GPU kernels count, on a CPU operators without those that they call.
        repeats: steps or calls that were profiled.
        seconds: of one repeat. What has no name of it is the rest: Python, kernel launches, a GPU that waits.
    """
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if device.type == "cuda" and _is_on_gpu(event):
            found[kind_of(event.key)] += event.self_device_time_total / 1e6 / repeats
        elif device.type == "cpu" and event.device_type == DeviceType.CPU:
            found[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / repeats
    found.pop(_REST, None)
    by_length = dict(sorted(found.items(), key=lambda item: -item[1]))
    return by_length | {_REST: max(seconds - sum(found.values()), 0.0)}


def counts_on_gpu(events: Events) -> dict[str, int]:
    """How many kernels and copies to the host the GPU ran, and how often the host waited for it.

    One of the waits is the profiler's own, when it stops.
    """
    events = [event for event in events if event.device_type == DeviceType.CPU or _is_on_gpu(event)]
    return {
        what: sum(event.count for event in events if event.device_type == where and re.search(pattern, event.key))
        for what, (pattern, where) in _COUNTS.items()
    }


def _is_on_gpu(event: Any) -> bool:
    # ranges that are marked on the GPU's time line contain kernels that are counted themselves
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def profile_table(
    heading: str,
    profiles: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> list[str]:
    """A heading and a Markdown table of the sides that were profiled; nothing where none was.

    Args:
        heading: what a time in the table is of.
        profiles: side -> kind -> seconds, shown in milliseconds.
        counts: side -> what -> how many; rows below the kinds.
    """
    profiles = {name: profile for name, profile in profiles.items() if profile}
    if not profiles:
        return []
    kinds = dict.fromkeys(kind for profile in profiles.values() for kind in profile if kind != _REST)
    rows = [
        [kind, *(f"{1e3 * p.get(kind, 0):,.1f} ({p.get(kind, 0) / sum(p.values()):.0%})" for p in profiles.values())]
        for kind in [*kinds, _REST]
    ]
    counted = {name: (counts or {}).get(name, {}) for name in profiles}
    for what in dict.fromkeys(what for count in counted.values() for what in count):
        rows.append([what, *(f"{count[what]:,}" if what in count else "-" for count in counted.values())])
    return [heading, table(["kind of work", *profiles], rows, numbers=len(profiles))]
