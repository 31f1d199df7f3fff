"""What every benchmark shares: where and on what a number was measured, sides in turn, results in dated files."""

import importlib.metadata
import json
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).resolve().parent.parent
NOT_MEASURED = "not measured"  # a side, in the table of a benchmark that was stopped before it
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "sentence-transformers", "tokenizers", "numpy")


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
        """The settings as results show them, without the place."""
        return {key: value for key, value in asdict(self).items() if key != "directory"}


def record() -> dict[str, Any]:
    """What a reader must know to measure again: date (UTC), commit, hardware, threads and versions.

    No host name, no user and no path is in it. `commit` is null outside a git checkout, `uncommitted_changes` says
    whether a tracked file differs from the commit or a file is neither tracked nor ignored.
    """
    status = _git("status", "--porcelain")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if status is None else bool(status),
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": _memory_gib(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "gpu_memory_gib": [
            round(torch.cuda.get_device_properties(index).total_memory / 2**30)
            for index in range(torch.cuda.device_count())
        ],
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "os": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def write_results(name: str, result: Mapping[str, Any], table: str, directory: Path) -> Path:
    """Write `DATE-NAME.json` and `DATE-NAME.md`, each whole or not at all; the same name on one day is replaced.

    Args:
        name: of the benchmark and the variant, as in `train_mlm-base-cpu-fp32`.
        result: the figures, as JSON values; written beside `record()` and the command line.
        table: Markdown: the table, with what a reader should know about it.
        directory: made if it is not there.

    Returns:
        The .md file.
    """
    facts, command = record(), _command_line(sys.argv)
    commit = facts["commit"][:10] if facts["commit"] else "unknown commit"
    if facts["uncommitted_changes"]:
        commit += " with uncommitted changes"
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items() if version)
    page = (
        f"# {name}, {facts['date']}\n\n```\n{command}\n```\n\n{_hardware(facts)}; commit {commit}; "
        f"Python {facts['python']}, {versions}.\n\n{table.strip()}\n"
    )
    directory.mkdir(parents=True, exist_ok=True)
    written = json.dumps({"name": name, "command": command, **facts, "result": result}, indent=2) + "\n"
    _write_atomically(directory / f"{facts['date']}-{name}.json", written)
    path = directory / f"{facts['date']}-{name}.md"
    _write_atomically(path, page)
    return path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def alternate(
    sides: Mapping[str, Callable[[], Any]], repeats: int, after_each: Callable[[dict[str, list]], None]
) -> dict[str, list]:
    """Run every side once a round, so that a machine that slows down or warms up meets all sides alike.

    Args:
        sides: name -> one measurement.
        repeats: rounds.
        after_each: called after each measurement with everything so far, so that a benchmark that is stopped, by
            whatever signal, leaves what it has measured. A side of which nothing was measured yet has an empty list.

    Returns:
        name -> one outcome a round.
    """
    outcomes: dict[str, list] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            outcomes[name].append(measure())
            after_each(outcomes)
    return outcomes


def in_whole_rounds(outcomes: Mapping[str, Sequence]) -> bool:
    """Whether every side was measured as often."""
    return len({len(repeats) for repeats in outcomes.values()}) == 1


def describe_rounds(outcomes: Mapping[str, Sequence]) -> str:
    """How many rounds were measured, as results say it, and whether the last one is whole."""
    rounds = max(len(repeats) for repeats in outcomes.values())
    if not in_whole_rounds(outcomes):
        return f"stopped in round {rounds}"
    return f"{rounds} round{'s' if rounds > 1 else ''}"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max of repeats."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a new Python: no memory, threads, caches or compiled code of an earlier side.

    Both must pickle. What the function raises is raised here.

    Raises:
        BrokenProcessPool: the process died, as it does where memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def try_in_fresh_process(
    name: str, show: Callable[[dict[str, Any]], str], function: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
    """What `in_fresh_process` returns, or its `error`: one side without memory must not cost the others' figures.

    Args:
        name: of the side, printed with its outcome.
        show: an outcome as it is printed.
        function: as in `in_fresh_process`.
        arguments: likewise.
    """
    try:
        outcome = in_fresh_process(function, *arguments)
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    print(f"{name}: {outcome.get('error') or show(outcome)}", flush=True)
    return outcome


def exit_at_sigterm() -> None:
    """From now on a time limit ends the program so that temporary directories go; what was measured is written."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` signals twice
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)


def measure_matmul(device: str, precision: str, threads: int) -> float:
    """FLOP/s of large matrix products on this machine.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16", of the matrices.
        threads: of torch, on the CPU.
    """
    from nomic_bert.flops import matmul_rate  # here, for native's process must not have our classes

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return matmul_rate(torch.device(device), dtype)


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held: allocated by torch on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # getrusage would do, but on Linux a new process starts with its parent's maximum
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _git(*command: str) -> str | None:
    try:
        answer = subprocess.run(["git", *command], cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError):
        return None


def _hardware(facts: Mapping[str, Any]) -> str:
    cpu = f"{facts['cpu']} ({facts['cpu_cores']} cores, {facts['cpu_capability']}), {facts['memory_gib']} GiB"
    gpus = [
        f"{name} ({size} GiB, CUDA {facts['cuda']})"
        for name, size in zip(facts["gpus"], facts["gpu_memory_gib"], strict=True)
    ]
    return "; ".join([", ".join(gpus), cpu] if gpus else [cpu]) + f"; {facts['threads']} threads"


def _command_line(argv: Sequence[str]) -> str:
    """As typed, but the program relative to the checkout, and of places outside it the last name only."""
    program = Path(argv[0]).resolve()
    shown = str(program.relative_to(_ROOT)) if program.is_relative_to(_ROOT) else program.name
    return shlex.join(["python", shown, *map(_without_place, argv[1:])])


def _without_place(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    if Path(value).is_absolute() or value.startswith((os.pardir, "~")):
        value = f".../{Path(value).name}"
    return name + equals + value


def _write_atomically(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
