"""Which runs there are."""

import math

import pytest

from evaluation.glue.protocol import TIERS, Grid, Protocol, choose_grid, costs

SIZES = {"cola": 8551, "sst2": 67349, "mrpc": 3668, "stsb": 5749}
SIZES |= {"qqp": 363846, "mnli": 392702, "qnli": 104743, "rte": 2490}


def test_tiers_are_the_papers_grid_and_parts_of_it():
    runs = {name: grid.all_runs() for name, grid in TIERS.items()}
    assert {name: len(made) for name, made in runs.items()} == {"full": 8 * 6 * 5, "small": 4 * 6 * 5, "quick": 4}
    assert {(run.batch_size, run.learning_rate) for run in runs["full"]} == {
        (batch, rate) for batch in (16, 32) for rate in (1e-5, 2e-5, 3e-5)
    }
    assert {run.seed for run in runs["full"]} == {42, 19, 17, 717, 10536}
    assert len({run.name for run in runs["full"]}) == 240
    assert set(runs["quick"]) < set(runs["small"]) < set(runs["full"])
    assert {(run.batch_size, run.learning_rate, run.seed) for run in runs["quick"]} == {(16, 3e-5, 42)}


def test_mnli_comes_first_and_what_starts_from_it_last():
    order = list(dict.fromkeys(run.task for run in TIERS["full"].all_runs()))
    assert order[0] == "mnli" and set(order[-3:]) == {"rte", "stsb", "mrpc"}


def test_costs_are_those_of_the_published_sizes():
    steps = sum(10 * 3 * 5 * (math.ceil(rows / 16) + math.ceil(rows / 32)) for rows in SIZES.values())
    assert TIERS["full"].steps(10) == steps
    quick = sum(10 * math.ceil(SIZES[task] / 16) for task in ("cola", "mrpc", "stsb", "rte"))
    assert f"4 runs, {quick:>10,} steps" in costs()


def test_parts_of_a_tier_are_replaced():
    grid = choose_grid("quick", tasks=["rte"], seeds=[1, 2])
    assert [(run.task, run.batch_size, run.learning_rate, run.seed) for run in grid.all_runs()] == [
        ("rte", 16, 3e-5, 1),
        ("rte", 16, 3e-5, 2),
    ]


@pytest.mark.parametrize(
    "values",
    [{"tasks": ("wnli",)}, {"seeds": ()}, {"seeds": (1, 1)}, {"batch_sizes": (0,)}, {"learning_rates": (-1.0,)},
     {"learning_rates": (1e-5, math.nan)}, {"learning_rates": (math.inf,)}],
)  # fmt: skip
def test_grids_that_cannot_be_meant_are_refused(values):
    with pytest.raises(ValueError, match=f"--{next(iter(values))}"):
        Grid(**values)
    with pytest.raises(ValueError, match="epochs"):
        Protocol(epochs=0)
    with pytest.raises(ValueError, match="weight_decay"):
        Protocol(weight_decay=math.nan)
