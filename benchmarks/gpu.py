"""Run every test and every benchmark that needs a GPU, with the packages that this Python has: `make gpu`.

python benchmarks/gpu.py --seconds 560 --benchmarks train_mlm search -- -k rotary

Nothing is installed. torch, transformers, sentence-transformers, accelerate, pyarrow and pytest are enough, save for
the benchmarks of training, which need datasets too, as their peers do. Only files that hold a GPU test are collected,
so a package that only other tests import may be missing. Tests and benchmarks share the time: each may take an equal
part of what is left. A benchmark writes its table after every measurement, so one that is stopped shows what it has.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# The program, and what it measures on a GPU: one round, as short as a figure allows.
BENCHMARKS = {
    "train_mlm": "train_mlm.py --size base --precision bf16 --attend across inside --compile off on --warmup 5 "
    "--steps 15 --repeats 1 --profile",
    "train_contrastive": "train_contrastive.py --size base --precision bf16 --pairs 4096 --chunk_tokens 65536 "
    "--mini_batch_sizes 256 --mini_batch_tokens 32768 --repeats 1 --profile",
    "train_negatives": "train_contrastive.py --size base --precision bf16 --pairs 256 --negatives 7 "
    "--chunk_tokens 65536 --mini_batch_sizes 256 --mini_batch_tokens 32768 --repeats 1 --profile",
    "search": "search.py --rows 100000 500000 --queries 100000 --dim 768 --repeats 2",
    "encode": "encode.py --sizes base --precision bf16 --together --repeats 1 --profile",
}
NEED_DATASETS = ("train_mlm", "train_contrastive", "train_negatives")
_TIME_LIMIT = 124  # exit status of what was stopped, as of `timeout`
_NO_TESTS = 5  # pytest's exit status
_SECONDS_TO_STOP = 5  # after the signal, before the process is killed


def main(argv: Sequence[str]) -> None:
    """Run the tests, then the benchmarks, and print the tables.

    Raises:
        SystemExit: a package or the GPU is missing, or something failed or was stopped.
    """
    args = _parser().parse_args(argv)
    require_gpu()
    end = time.monotonic() + args.seconds
    left_out = [name for name in args.benchmarks if name in NEED_DATASETS and not has_package("datasets")]
    if left_out:
        print(
            f"make gpu: left out: {' '.join(left_out)}, for want of datasets; "
            "pip install datasets dill multiprocess (0.9 MB)",
            flush=True,
        )
    status = run_tests(args.pytest_args, args.seconds / (1 + len(args.benchmarks)))
    not_finished = [f"{name} (needs datasets)" for name in left_out]
    pages = set(args.results.glob("*.md")), time.time()
    names = [name for name in args.benchmarks if name not in left_out]
    for number, name in enumerate(names):
        seconds = max((end - time.monotonic()) / (len(names) - number), 1)
        print(f"make gpu: {name}, at most {seconds:.0f} s", flush=True)
        program, *settings = BENCHMARKS[name].split()
        command = [f"benchmarks/{program}", "--device", "cuda", *settings]
        if ended := execute([*command, "--results", str(args.results)], seconds, signal.SIGTERM):
            not_finished.append(f"{name} (exit {ended})")
    for page in new_pages(args.results, *pages):
        print(page.read_text(encoding="utf-8"), flush=True)
    if not_finished:
        print(f"make gpu: not finished: {' '.join(not_finished)}; {_TIME_LIMIT} is the time limit", flush=True)
    if status or not_finished:
        raise SystemExit(status or 1)


def require_gpu() -> None:
    """Check for the packages and the GPU, in a process of its own so that this one holds no memory of the GPU.

    Raises:
        SystemExit: one is missing.
    """
    if not all(map(has_package, ("pytest", "torch", "transformers"))):
        raise SystemExit(f"make gpu: {sys.executable} must have torch, transformers and pytest")
    check = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", check]).returncode:
        raise SystemExit("make gpu: torch sees no GPU here; nothing was run")


def has_package(name: str) -> bool:
    """Whether this Python can import a package."""
    return importlib.util.find_spec(name) is not None


def run_tests(pytest_args: Sequence[str], seconds: float) -> int:
    """Run the tests with the gpu marker; returns pytest's exit status, 0 where there is no such test."""
    files = [path for path in sorted(_ROOT.glob("tests/**/test_*.py")) if re.search(r"mark\.gpu\b", path.read_text())]
    if not files:
        print("make gpu: no test carries the gpu marker", flush=True)
        return 0
    names = [str(path.relative_to(_ROOT)) for path in files]
    # pytest ends with a summary at a keyboard interrupt
    status = execute(["-m", "pytest", "-m", "gpu", *pytest_args, *names], seconds, signal.SIGINT)
    if status == _NO_TESTS:
        print("make gpu: no GPU test was selected", flush=True)
    return status


def execute(arguments: Sequence[str], seconds: float, stop: signal.Signals) -> int:
    """Run this Python in the checkout's root, without a hub.

    Args:
        arguments: of Python.
        seconds: after which it is stopped.
        stop: the signal that ends it; it is killed if it goes on for more than a few seconds.

    Returns:
        The exit status; 124 if the time ran out.
    """
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_ROOT)}
    process = subprocess.Popen([sys.executable, *arguments], cwd=_ROOT, env=variables, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_STOP)
        return _TIME_LIMIT
    finally:
        _kill_session(process)  # with the processes that it started


def _kill_session(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def new_pages(results: Path, before: set[Path], since: float) -> list[Path]:
    """Result pages that were not there before, or were written again."""
    return [page for page in sorted(results.glob("*.md")) if page not in before or page.stat().st_mtime >= since]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=560, help="tests and benchmarks together")
    parser.add_argument("--benchmarks", nargs="*", choices=BENCHMARKS, default=list(BENCHMARKS), help="none: no names")
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmarks"), help="directory")
    parser.add_argument("pytest_args", nargs="*", help="after --: passed to pytest")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
