import math
import time
from collections import Counter

import numpy as np
import pytest
from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from tests.trainers.toys import pairs
from trainers.sampling import BatchPlan, EvaluationBatches, StepSampler, TrainBatches, permute

ROWS = {"a": 37, "b": 8, "c": 64}


def keep(batch):
    return batch


def batches(rank=0, ranks=1, accumulation=1, seed=3):
    sources = {name: pairs(rows) for name, rows in ROWS.items()}
    return TrainBatches(sources, BatchPlan(ROWS, 8, seed), keep, rank, ranks, accumulation)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, 1000, 4097])
def test_permute_is_a_permutation(size):
    assert sorted(permute(np.arange(size), size, (1, 2))) == list(range(size))


def test_permute_is_pointwise_and_keyed():
    whole = permute(np.arange(1000), 1000, (1, 2))
    assert permute(np.array(417), 1000, (1, 2)) == whole[417]
    assert (permute(np.arange(1000), 1000, (1, 3)) == whole).sum() < 10
    assert np.abs(np.corrcoef(whole, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("size", [3, 6, 40])
def test_permute_sends_a_position_anywhere_equally_often(size):
    """Chi-square over keys, for each of a few positions; the bound is 5 standard deviations above its mean."""
    draws = 60 * size
    images = np.array([permute(np.arange(min(size, 4)), size, (key, 9)) for key in range(draws)])
    for column in images.T:
        statistic = ((np.bincount(column, minlength=size) - 60) ** 2 / 60).sum()
        assert statistic < size - 1 + 5 * np.sqrt(2 * (size - 1))


def test_weights_are_passes_over_a_source():
    """Of 37 rows 2.5 passes: 4 + 4 batches of 8, and 18 rows, which are 2; of 64 rows a half; 8 rows once."""
    plan = BatchPlan(ROWS, 8, seed=3, weights={"a": 2.5, "c": 0.5})
    assert {name: plan.batches(name) for name in ROWS} == {"a": 10, "b": 1, "c": 4}
    assert {name: plan.dropped(name) for name in ROWS} == {"a": 5, "b": 0, "c": 32}
    halves = []
    for epoch in range(2):
        seen = Counter()
        for step in range(plan.steps_per_epoch):
            source, rows = plan.batch(epoch, step)
            assert len(set(rows.tolist())) == 8
            seen.update((source, row) for row in rows.tolist())
        assert max(count for (source, _), count in seen.items() if source == "a") <= 3
        assert sum(count for (source, _), count in seen.items() if source == "a") == 80
        halves.append({row for source, row in seen if source == "c"})
        assert len(halves[-1]) == 32
    assert halves[0] != halves[1]
    assert BatchPlan(ROWS, 8, 3, {"a": 1.0}).batch(1, 2)[1].tolist() == BatchPlan(ROWS, 8, 3).batch(1, 2)[1].tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"z": 2.0}, r"unknown sources \['z'\]"),
        ({"a": 0.0}, "'a' must be positive, not 0.0"),
        ({"a": math.inf}, "'a' must be positive"),
        ({"b": 0.5}, "'b' with weight 0.5 does not fill one global batch of 8"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(ROWS, 8, 3, weights)


def test_a_batch_has_one_source_and_a_row_comes_once_an_epoch():
    plan = BatchPlan(ROWS, 8, seed=3)
    assert plan.steps_per_epoch == 4 + 1 + 8
    assert {name: plan.dropped(name) for name in ROWS} == {"a": 5, "b": 0, "c": 0}
    for epoch in range(3):
        seen, sources = Counter(), Counter()
        for step in range(plan.steps_per_epoch):
            source, rows = plan.batch(epoch, step)
            assert len(rows) == 8 and rows.min() >= 0 and rows.max() < ROWS[source]
            seen.update((source, row) for row in rows.tolist())
            sources[source] += 1
        assert sources == {"a": 4, "b": 1, "c": 8}
        assert set(seen.values()) == {1}


def test_epochs_and_seeds_differ_in_sources_and_rows():
    def order(epoch, seed):
        plan = BatchPlan(ROWS, 8, seed)
        return [plan.batch(epoch, step) for step in range(plan.steps_per_epoch)]

    first = order(0, 3)
    for other in (order(1, 3), order(0, 4)):
        assert [source for source, _ in first] != [source for source, _ in other]
        assert [rows.tolist() for _, rows in first] != [rows.tolist() for _, rows in other]
    left_out = [set(range(37)) - {r for s, rows in order(e, 3) if s == "a" for r in rows.tolist()} for e in range(5)]
    assert len(set.union(*left_out)) > 5  # not the same five rows for ever


@pytest.mark.parametrize(("ranks", "accumulation"), [(2, 1), (4, 1), (1, 2), (2, 4)])
def test_ranks_and_accumulation_share_out_the_same_batch(ranks, accumulation):
    for step in range(13):
        source, rows = BatchPlan(ROWS, 8, 3).batch(1, step)
        parts = []
        for micro in range(accumulation):
            for rank in range(ranks):
                part = batches(rank, ranks, accumulation).part(1, step * accumulation + micro)
                assert part.source == source
                parts.append(part.rows)
        assert np.array_equal(np.concatenate(parts), rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_right_epoch_after_a_skip(workers):
    """As Trainer resumes: the epoch is not told to the sampler, and the first batches are skipped."""
    dataset = batches(rank=1, ranks=2)
    loader = DataLoader(
        dataset, batch_sampler=StepSampler(13, lambda: 5), collate_fn=lambda x: x[0], num_workers=workers
    )
    resumed = list(skip_first_batches(loader, 10))
    assert len(resumed) == 3
    for step, batch in zip(range(10, 13), resumed, strict=True):
        expected = dataset.part(5, step)
        assert batch.source == expected.source and np.array_equal(batch.rows, expected.rows)


def test_a_late_step_of_a_huge_mixture_is_found_at_once():
    plan = BatchPlan({f"source{i}": 8_000_000 + i for i in range(29)}, 16_384, seed=0)
    start = time.perf_counter()
    sampler = StepSampler(plan.steps_per_epoch, lambda: 0)
    keys = list(sampler)
    source, rows = plan.batch(*keys[14_000][0])
    assert time.perf_counter() - start < 2
    assert len(set(rows.tolist())) == 16_384


def test_a_source_smaller_than_a_batch_is_an_error():
    with pytest.raises(ValueError, match="'b' has 8 rows, fewer than one global batch of 16.*global_batch_size"):
        BatchPlan(ROWS, 16, 0)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_evaluation_covers_every_row_once_on_any_number_of_ranks(ranks):
    sources = {name: pairs(rows) for name, rows in ROWS.items()}
    seen, pools = Counter(), set()
    for rank in range(ranks):
        dataset = EvaluationBatches(sources, 10, keep, 0, rank, ranks)
        for item in range(dataset.items_per_rank):
            if (batch := dataset[item]) is not None:
                seen.update((batch.source, row) for row in batch.rows.tolist())
                pools.add((batch.source, tuple(batch.rows.tolist())))
    assert len(seen) == sum(ROWS.values()) and set(seen.values()) == {1}
    one_rank = EvaluationBatches(sources, 10, keep, 0)
    items = (one_rank[item] for item in range(one_rank.items_per_rank))
    assert pools == {(batch.source, tuple(batch.rows.tolist())) for batch in items}


def test_each_pass_over_a_source_has_an_order_of_its_own():
    """Over two epochs of a source of weight 2, four passes: each takes rows once, no two in the same batches."""
    plan = BatchPlan({"a": 64}, 8, seed=3, weights={"a": 2})
    batches = [
        frozenset(plan.batch(epoch, step)[1].tolist()) for epoch in range(2) for step in range(plan.steps_per_epoch)
    ]
    assert len(batches) == 32
    assert len(set(batches)) == 32
    for epoch in range(2):
        rows = [row for batch in batches[16 * epoch : 16 * epoch + 16] for row in batch]
        assert all(rows.count(row) == 2 for row in range(64))
