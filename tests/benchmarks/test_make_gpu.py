"""`make gpu` where torch sees a GPU and little else is installed, with a Python that only tells what it was asked."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("timeout")), reason="needs make and GNU timeout"
)

PYTHON = """#!/bin/sh
case "$*" in
    *"import datasets"*) exit {datasets};;
    *"-c import"*) exit 0;;
    *"-m pytest"*) echo "tests"; exit 0;;
    *benchmarks/encode.py*) echo "run $1"; echo "the table of encode" > {results}/2000-01-01-encode.md; exit {encode};;
    *) echo "run $1";;
esac
"""
# Stands before `timeout`, to tell the limit.
TIMEOUT = """#!/bin/sh
while true; do case "$1" in --*) shift;; *) break;; esac; done
echo "limit $1"; shift; exec "$@"
"""


def make_gpu(place: Path, repository: Path, *typed: str, datasets: int = 0, encode: int = 0) -> tuple[int, list[str]]:
    results = place / "results"
    for name, text in {"python": PYTHON, "timeout": TIMEOUT}.items():
        text = text.replace("{results}", str(results)).replace("{datasets}", str(datasets))
        (place / name).write_text(text.replace("{encode}", str(encode)))
        (place / name).chmod(0o755)
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "gpu", f"PYTHON={place / 'python'}", f"RESULTS={results}", *typed]
    # of a make that runs these tests, neither flags nor job server
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | {"PATH": path}
    ended = subprocess.run(command, cwd=repository, env=variables, capture_output=True, text=True)
    return ended.returncode, ended.stdout.splitlines()


def test_all_benchmarks_run_and_share_less_than_ten_minutes(tmp_path: Path, repository: Path) -> None:
    status, lines = make_gpu(tmp_path, repository)
    assert status == 0 and lines[-1] == "the table of encode"
    ran = [line.split("/")[1] for line in lines if line.startswith("run ")]
    assert ran == ["train_mlm.py", "train_contrastive.py", "search.py", "encode.py"] and "tests" in lines
    limits = [int(line.split()[1]) for line in lines if line.startswith("limit ")]
    # the tests a fifth of all; then each benchmark all that is left, divided by those that wait: these took no time
    assert len(limits) == 5 and limits[0] == 560 // 5
    for limit, share in zip(limits[1:], (4, 3, 2, 1), strict=True):
        assert 560 // share - 10 <= limit <= 560 // share


def test_training_is_left_out_without_datasets_and_make_says_so_first_and_fails(
    tmp_path: Path, repository: Path
) -> None:
    status, lines = make_gpu(tmp_path, repository, datasets=1)
    assert lines[0].startswith("make gpu: left out: train_mlm train_contrastive, for want of datasets; pip install ")
    assert [line for line in lines if line.startswith("run ")] == [
        "run benchmarks/search.py",
        "run benchmarks/encode.py",
    ]
    assert status == 2 and lines[-2:] == [
        "the table of encode",
        "make gpu: not finished: train_mlm (needs datasets) train_contrastive (needs datasets); 124 is the time limit",
    ]
    status, lines = make_gpu(tmp_path, repository, "BENCHMARKS=search", datasets=1)
    assert status == 0 and not any("datasets" in line for line in lines)


def test_a_benchmark_that_fails_costs_the_others_nothing(tmp_path: Path, repository: Path) -> None:
    status, lines = make_gpu(tmp_path, repository, "BENCHMARKS=encode search", encode=124)
    assert status == 2 and "run benchmarks/search.py" in lines
    assert lines[-2:] == [
        "the table of encode",
        "make gpu: not finished: encode (exit 124); 124 is the time limit",
    ]


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
from benchmarks import encode, encode_sides, encode_workloads, measure
encode_workloads.SIZES["tiny"] |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
encode_sides._TIMED_SECONDS = 0.01
measure.in_fresh_process = encode.in_fresh_process = lambda function, *arguments: function(*arguments)
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
