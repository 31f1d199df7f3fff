"""DeepSpeed ZeRO-2 on two gloo ranks, launched with the file that stage 1 offers, against AdamW on one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.processes import free_port
from tests.trainers.run_zero2 import CLIPPING, run
from trainers import latest_checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = "recipes/configs/accelerate/zero2.yaml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the ranks would take the GPU"),
]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The output directory, and the results of both ranks."""
    output = tmp_path_factory.mktemp("zero2")
    port = free_port()
    process = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIG, "--num_processes", "2"]
        + ["--main_process_port", port, "-m", "tests.trainers.run_zero2", str(output)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-4000:]
    return output, [torch.load(output / f"rank{rank}.pt") for rank in range(2)]


def assert_close(weights, expected):
    """To 1e-6 of each tensor's largest weight: the sums over ranks run in another order."""
    for name, value in expected.items():
        difference = (weights[name] - value).abs().max()
        assert difference <= 1e-6 * value.abs().max(), f"{name}: {difference}"


@pytest.mark.parametrize("name", list(CLIPPING))
def test_zero2_equals_plain_adamw(launched, tmp_path, name):
    """At the same global batch, with accumulation and with numbers of masked tokens that vary."""
    expected = run(tmp_path, max_grad_norm=CLIPPING[name])
    assert expected["distributed_type"] == "NO" and expected["accumulation"] == 4
    for rank in launched[1]:
        zero2 = rank[name]
        assert zero2["distributed_type"] == "DEEPSPEED" and zero2["accumulation"] == 2
        assert zero2["logs"]["loss"] == pytest.approx(expected["logs"]["loss"], rel=1e-6)
        assert zero2["logs"]["accuracy"] == expected["logs"]["accuracy"]
        assert zero2["logs"]["num_input_tokens_seen"] == expected["logs"]["num_input_tokens_seen"]
        assert zero2["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
        assert_close(zero2["weights"], expected["weights"])


def test_clipping_comes_from_max_grad_norm(launched):
    clipped, free = (launched[1][0][name]["weights"] for name in CLIPPING)
    assert any(not torch.equal(clipped[name], free[name]) for name in free)


def test_resumed_equals_uninterrupted_from_whole_checkpoints(launched):
    output, results = launched
    assert latest_checkpoint(output / "killed") == output / "killed" / "checkpoint-6"
    for rank in results:
        assert rank["resumed"]["logs"]["loss"] == rank["clipped"]["logs"]["loss"]
        for name, value in rank["clipped"]["weights"].items():
            assert torch.equal(rank["resumed"]["weights"][name], value), name
