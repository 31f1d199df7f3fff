"""Two and three gloo ranks against one process at the same global batch."""

import shutil
from pathlib import Path

import pytest
import torch

from nomic_bert.training_record import read_training
from tests.processes import run_ranks
from tests.trainers.run_on_ranks import CONTRASTIVE, MLM, closing_loss, main, repeating, run
from tests.trainers.toys import assert_same_gradient, contrastive_trainer, mlm_trainer
from trainers.distributed import gather_with_gradient


def results(output, count):
    """The results of every rank."""
    run_ranks(count, main, [output])
    return [torch.load(output / f"rank{rank}.pt") for rank in range(count)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results(tmp_path_factory.mktemp("ranks"), 2)


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory):
    return results(tmp_path_factory.mktemp("three"), 3)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    output = tmp_path_factory.mktemp("one")
    return {
        "contrastive": run(contrastive_trainer(output, train=repeating(), **CONTRASTIVE)),
        "mlm": run(mlm_trainer(output, **MLM)),
        "closing_loss": closing_loss(output),
    }


@pytest.mark.parametrize("stage", ["contrastive", "mlm"])
@pytest.mark.parametrize("count", ["ranks", "three_ranks"])
def test_ranks_equal_one(one_rank, stage, count, request):
    """Clipped every step, so a hidden factor of the ranks would show in the norm and in the weights."""
    expected, ranks = one_rank[stage], request.getfixturevalue(count)
    assert min(expected["logs"]["grad_norm"]) > 1.0
    for key, values in expected["logs"].items():
        assert ranks[0][stage]["logs"][key] == pytest.approx(values, rel=1e-4), key
    assert ranks[0][stage]["logs"]["loss"][0] == pytest.approx(expected["logs"]["loss"][0], rel=1e-6)
    if stage == "contrastive":
        assert sum(expected["logs"]["duplicate_documents"]) > 0
    for rank in ranks:
        assert_same_gradient(
            {name.removeprefix("module."): value for name, value in rank[stage]["gradient"].items()},
            expected["gradient"],
        )
        for name, value in expected["weights"].items():
            torch.testing.assert_close(rank[stage]["weights"][name], value, rtol=1e-4, atol=1e-6)
        for name in ("eval_loss", "eval_accuracy"):
            assert rank[stage]["eval"][name] == pytest.approx(expected["eval"][name], rel=1e-4)


def test_the_closing_loss_is_of_all_ranks(one_rank, ranks):
    for rank in ranks:
        assert rank["closing_loss"] == pytest.approx(one_rank["closing_loss"], rel=1e-4)


@pytest.mark.parametrize("stage", ["contrastive", "mlm"])
def test_resumed_in_epoch_2_equals_uninterrupted(ranks, stage):
    for rank in ranks:
        whole, resumed = rank[stage], rank[f"{stage}-resumed"]
        assert len(resumed["logs"]["loss"]) == len(whole["logs"]["loss"]) == 8
        for name, value in whole["weights"].items():
            assert torch.equal(resumed["weights"][name], value), name


@pytest.mark.parametrize("stage", ["contrastive", "mlm"])
def test_the_record_is_of_all_ranks(ranks, stage):
    (said,) = read_training(Path(ranks[0]["output"], stage, "checkpoint-5"))
    assert said["processes"] == sum(said["devices"].values()) == 2
    assert (said["steps"], said["tokens"]) == (5, ranks[0][stage]["logs"]["num_input_tokens_seen"][4])


@pytest.mark.parametrize("stage", ["contrastive", "mlm"])
def test_two_ranks_go_on_as_one(ranks, tmp_path, stage):
    """From a checkpoint of 2 ranks on 1: the same batches, and the same weights to float noise."""
    make, settings = {
        "contrastive": (contrastive_trainer, {"train": repeating(), **CONTRASTIVE}),
        "mlm": (mlm_trainer, MLM),
    }[stage]
    shutil.copytree(Path(ranks[0]["output"], stage, "checkpoint-5"), tmp_path / "checkpoint-5")
    alone = run(make(tmp_path, **settings), resume=True)
    assert alone["logs"]["loss"][-1] == pytest.approx(ranks[0][stage]["logs"]["loss"][-1], rel=1e-4)
    for name, value in ranks[0][stage]["weights"].items():
        torch.testing.assert_close(alone["weights"][name], value, rtol=1e-4, atol=1e-6)


def test_evaluators_are_shared_out_and_all_ranks_know_what_they_gave(three_ranks):
    for rank in three_ranks:
        found = {
            name: rank["contrastive"]["eval"][f"eval_{name}"] for name in ("word1", "rank_of_word1", "rank_of_word2")
        }
        assert found == {"word1": 16, "rank_of_word1": 0, "rank_of_word2": 1}


def test_gathering_sums_the_gradient_over_ranks(ranks):
    assert ranks[0]["gathered"].tolist() == [0.0, 1.0 * (1 + 2)]
    assert ranks[1]["gathered"].tolist() == [2.0 * (1 + 2), 3.0 * (1 + 2)]


def test_gathering_on_one_rank_is_the_identity():
    rows = torch.randn(3, 2)
    assert gather_with_gradient(rows) is rows


def test_ranks_with_other_data_or_settings_are_refused_by_all(ranks):
    for rank in ranks:
        assert "data.a.digest" in rank["refusals"]["text"]
        assert "data.a.rows was 19, is 20" in rank["refusals"]["rows"]
        assert "arguments.seed was 5, is 6" in rank["refusals"]["seed"]
