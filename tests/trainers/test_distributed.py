"""Two gloo ranks against one process at the same global batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.run_on_ranks import CONTRASTIVE, MLM, run
from tests.trainers.toys import contrastive_trainer, mlm_trainer
from trainers.distributed import gather_with_gradient

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The results of both ranks."""
    output = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainers.run_on_ranks", str(output)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0, printed[-4000:]
    return [torch.load(output / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    output = tmp_path_factory.mktemp("one")
    return {
        "contrastive": run(contrastive_trainer(output, **CONTRASTIVE)),
        "mlm": run(mlm_trainer(output, **MLM)),
    }


@pytest.mark.parametrize("stage", ["contrastive", "mlm"])
def test_two_ranks_equal_one(ranks, one_rank, stage):
    """Clipped every step, so a hidden factor of the ranks would show in the norm and in the weights."""
    expected = one_rank[stage]
    assert min(expected["logs"]["grad_norm"]) > 1.0
    for key, values in expected["logs"].items():
        assert ranks[0][stage]["logs"][key] == pytest.approx(values, rel=1e-4), key
    for rank in ranks:
        for name, value in expected["weights"].items():
            torch.testing.assert_close(rank[stage]["weights"][name], value, rtol=1e-4, atol=1e-6)
        for name in ("eval_loss", "eval_accuracy"):
            assert rank[stage]["eval"][name] == pytest.approx(expected["eval"][name], rel=1e-4)


@pytest.mark.parametrize("stage", ["contrastive", "mlm"])
def test_resumed_in_epoch_2_equals_uninterrupted(ranks, stage):
    for rank in ranks:
        whole, resumed = rank[stage], rank[f"{stage}-resumed"]
        assert len(resumed["logs"]["loss"]) == len(whole["logs"]["loss"]) == 6
        for name, value in whole["weights"].items():
            assert torch.equal(resumed["weights"][name], value), name


def test_gathering_sums_the_gradient_over_ranks(ranks):
    assert ranks[0]["gathered"].tolist() == [0.0, 1.0 * (1 + 2)]
    assert ranks[1]["gathered"].tolist() == [2.0 * (1 + 2), 3.0 * (1 + 2)]


def test_gathering_on_one_rank_is_the_identity():
    rows = torch.randn(3, 2)
    assert gather_with_gradient(rows) is rows
