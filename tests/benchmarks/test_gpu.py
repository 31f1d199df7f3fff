"""`make gpu` where torch sees a GPU and little else is installed; what it would run is only recorded."""

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


class Machine:
    """Stands for the programs that are run: their limits, what they write, and how they end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, results: Path, missing: str = "", **ends: int) -> None:
        self.results, self.ends = results, ends
        self.ran: list[tuple[str, float]] = []
        monkeypatch.setattr(gpu, "require_gpu", lambda: None)
        monkeypatch.setattr(gpu, "has_package", lambda name: name != missing)
        monkeypatch.setattr(gpu, "execute", self.execute)

    def execute(self, arguments: list[str], seconds: float, stop: signal.Signals) -> int:
        name = "tests" if "pytest" in arguments else Path(arguments[0]).stem
        name = "train_negatives" if "--negatives" in arguments else name
        self.ran.append((name, seconds))
        assert stop == (signal.SIGINT if name == "tests" else signal.SIGTERM)
        if name != "tests":
            assert arguments[-1] == str(self.results)
            self.results.mkdir(exist_ok=True)
            (self.results / f"2000-01-01-{name}.md").write_text(f"the table of {name}")
        return self.ends.get(name, 0)

    def run(self, *typed: str) -> int:
        try:
            gpu.main(["--results", str(self.results), *typed])
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0


def test_all_benchmarks_run_and_share_less_than_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "2000-01-01-earlier.md").write_text("an earlier table")
    os.utime(tmp_path / "2000-01-01-earlier.md", (0, 0))
    machine = Machine(monkeypatch, tmp_path)
    assert machine.run() == 0
    assert [name for name, _ in machine.ran] == ["tests", *gpu.BENCHMARKS]
    # the tests a sixth of all; then each benchmark all that is left, divided by those that wait: these took no time
    for (_, limit), share in zip(machine.ran, (6, 5, 4, 3, 2, 1), strict=True):
        assert 560 / share - 10 <= limit <= 560 / share
    printed = capsys.readouterr().out
    assert all(f"the table of {name}" in printed for name in gpu.BENCHMARKS) and "an earlier table" not in printed


def test_training_is_left_out_without_datasets_which_is_said_first_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    machine = Machine(monkeypatch, tmp_path, missing="datasets")
    assert machine.run() == 1 and [name for name, _ in machine.ran] == ["tests", "search", "encode"]
    lines = capsys.readouterr().out.splitlines()
    left_out = " ".join(gpu.NEED_DATASETS)
    assert lines[0].startswith(f"make gpu: left out: {left_out}, for want of datasets; pip install ")
    assert "train_contrastive (needs datasets) train_negatives (needs datasets)" in lines[-1]
    assert machine.run("--benchmarks", "search") == 0 and "datasets" not in capsys.readouterr().out


def test_a_benchmark_or_test_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    machine = Machine(monkeypatch, tmp_path, encode=124)
    assert machine.run("--benchmarks", "encode", "search") == 1 and machine.ran[-1][0] == "search"
    printed = capsys.readouterr().out
    assert "the table of encode" in printed and printed.endswith("encode (exit 124); 124 is the time limit\n")
    machine = Machine(monkeypatch, tmp_path, tests=1)
    assert machine.run("--benchmarks", "search") == 1 and [name for name, _ in machine.ran] == ["tests", "search"]
    machine = Machine(monkeypatch, tmp_path, tests=5)
    assert machine.run("--benchmarks") == 5 and "no GPU test was selected" in capsys.readouterr().out


def test_what_runs_too_long_is_stopped_with_the_processes_that_it_started() -> None:
    program = (
        "import subprocess, sys; subprocess.Popen(['sleep', '60']); sys.stdout.flush(); import time; time.sleep(60)"
    )
    began = time.monotonic()
    assert gpu.execute(["-c", program], 1.0, signal.SIGTERM) == 124 and time.monotonic() - began < 10
    assert gpu.execute(["-c", "raise SystemExit(3)"], 60.0, signal.SIGTERM) == 3


@pytest.mark.parametrize("name", gpu.BENCHMARKS)
def test_each_benchmark_knows_the_options_that_it_is_given(name: str) -> None:
    program, *settings = shlex.split(gpu.BENCHMARKS[name])
    module: Any = importlib.import_module(f"benchmarks.{program.removesuffix('.py')}")
    args = module._parser().parse_args(["--device", "cuda", *settings])
    assert args.device == "cuda" and getattr(args, "precision", "bf16") == "bf16"


def test_make_passes_its_variables_on(repository: Path) -> None:
    command = ["make", "--dry-run", "gpu", "BENCHMARKS=search encode", "GPU_SECONDS=90", "PYTEST_ARGS=-k rotary"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(command, cwd=repository, env=variables, capture_output=True, text=True, check=True).stdout
    args = gpu._parser().parse_args(shlex.split(shown)[2:])
    assert (args.benchmarks, args.seconds, args.pytest_args) == (["search", "encode"], 90.0, ["-k", "rotary"])


WITHOUT_DATASETS = """
import importlib.metadata, sys
look_up = importlib.metadata.Distribution.from_name
def from_name(name):
    if name == "datasets":
        raise importlib.metadata.PackageNotFoundError(name)
    return look_up(name)
# as where it is not installed: neither imported nor listed
sys.modules["datasets"], importlib.metadata.Distribution.from_name = None, from_name
import benchmarks.search
from benchmarks import compare, encode, encode_sides, workloads
workloads.SIZES["tiny"] |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
encode_sides._TIMED_SECONDS = 0.01
compare.in_fresh_process = lambda function, *arguments: function(*arguments)
encode.main(sys.argv[1:])
"""


def test_encode_and_search_need_no_datasets(tmp_path: Path, repository: Path) -> None:
    """In one new Python: what is imported in functions is imported too."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "_", ":", *"abcdef"]))
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "{"a b c d e f " * 9}"}}\n' for _ in range(9)))
    typed = "--workloads query --sides ours_tokens --repeats 1 --threads 1 --profile --texts texts.jsonl "
    typed += f"--tokenizer vocab.txt --results {tmp_path}"
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_DATASETS, *typed.split()], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    page = next(tmp_path.glob("*-encode-tiny-cpu-fp32.md")).read_text()
    assert re.search(r"^\| query \| ours_tokens \| 0\.\d+ ", page, re.M) and "| attention | " in page
