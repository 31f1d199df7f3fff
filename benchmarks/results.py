"""What a number was measured on, and the dated files that keep it."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from textfiles.atomic import write_json, write_text

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "sentence-transformers", "tokenizers", "numpy")


def record() -> dict[str, Any]:
    """Facts that a reader needs to measure again: date (UTC), commit, hardware, threads and versions.

    It holds no host name, no user and no path. `commit` is null outside a git checkout. `uncommitted_changes` says
    whether a tracked file differs from the commit or a file is neither tracked nor ignored.
    """
    status = _git("status", "--porcelain")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if status is None else bool(status),
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": _memory_gib(),
        "gpus": [gpu.name for gpu in gpus],
        "gpu_memory_gib": [round(gpu.total_memory / 2**30) for gpu in gpus],
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "os": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def write_results(name: str, result: Mapping[str, Any], page: str, directory: Path) -> Path:
    """Write `DATE-NAME.json` and `DATE-NAME.md`, each whole or not at all, in place of those of the same day.

    Args:
        name: of the benchmark and the variant, such as `train_mlm-base-cpu-fp32`.
        result: figures as JSON values, written beside `record()` and the command line.
        page: Markdown: the table and what a reader should know about it.
        directory: created if it is missing.

    Returns:
        The .md file.
    """
    facts, command = record(), _command_line(sys.argv)
    commit = facts["commit"][:10] if facts["commit"] else "unknown commit"
    if facts["uncommitted_changes"]:
        commit += " with uncommitted changes"
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items() if version)
    setting = f"{_hardware(facts)}; commit {commit}; Python {facts['python']}, {versions}."
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{facts['date']}-{name}.md"
    write_json(path.with_suffix(".json"), {"name": name, "command": command, **facts, "result": result})
    heading = f"# {name}, {facts['date']}\n\n```\n{command}\n```"
    write_text(path, f"{heading}\n\n{setting}\n\n{page.strip()}\n")
    return path


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
    """As typed, with the program relative to the checkout, and only the last name of places outside it."""
    program = Path(argv[0]).resolve()
    shown = str(program.relative_to(_ROOT)) if program.is_relative_to(_ROOT) else program.name
    return shlex.join(["python", shown, *map(_without_place, argv[1:])])


def _without_place(argument: str) -> str:
    name, equals, value = argument.rpartition("=")
    if Path(value).is_absolute() or value.startswith((os.pardir, "~")):
        value = f".../{Path(value).name}"
    return name + equals + value
