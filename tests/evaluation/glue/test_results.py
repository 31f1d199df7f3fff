"""From runs to one number a task."""

import json
from dataclasses import asdict, replace

import pytest

from evaluation.glue.results import (
    TASKS,
    GlueRun,
    average,
    is_glue_directory,
    read_runs,
    summarise,
    summary_content,
    summary_table,
)

RUN = GlueRun(
    model="m", weights="w", task="cola", batch_size=16, learning_rate=1e-5, seed=42, epochs=10, start="encoder",
    scores={"matthews": 0.5}, main_metric="matthews", main_score=0.5, train_rows=9, dev_rows=9, train_loss=0.1, steps=9,
    seconds=1.0, device="cpu",
)  # fmt: skip
SEEDS = (42, 19, 17, 717, 10536)


def seeds_of(scores, **changes):
    return [
        replace(RUN, seed=seed, main_score=score, scores={"matthews": score, "f1": 1 - score}, **changes)
        for seed, score in zip(SEEDS, scores, strict=False)
    ]


def test_the_best_median_wins_where_the_best_mean_is_another():
    steady = seeds_of([0.5, 0.51, 0.52, 0.53, 0.0], learning_rate=2e-5)  # mean 0.412, median 0.51
    lucky = seeds_of([0.9, 0.49, 0.48, 0.47, 0.46], learning_rate=1e-5)  # mean 0.56, median 0.48, best single run
    best = summarise(lucky + steady)["cola"]
    assert best.score == 0.51 and (best.batch_size, best.learning_rate) == (16, 2e-5)
    assert best.scores == pytest.approx({"matthews": 0.51, "f1": 0.49})
    assert best.seed_scores == (0.0, 0.5, 0.51, 0.52, 0.53)
    assert (best.seeds, best.configurations) == (5, 2)
    assert best.differences == ["2 of 6 configurations"]


def test_only_configurations_with_the_most_seeds_are_compared():
    full = seeds_of([0.5, 0.6, 0.7])
    begun = seeds_of([0.95], batch_size=32)
    best = summarise(begun + full)["cola"]
    assert (best.score, best.seeds, best.configurations) == (0.6, 3, 1)


def test_equal_medians_choose_the_smaller_batch_whatever_the_order():
    runs = seeds_of([0.5], batch_size=32) + seeds_of([0.5], batch_size=16, learning_rate=3e-5)
    assert summarise(runs)["cola"].batch_size == summarise(runs[::-1])["cola"].batch_size == 16


@pytest.mark.parametrize("field", ["start", "weights", "epochs", "model"])
def test_runs_that_do_not_belong_together_are_refused(field):
    other = replace(RUN, seed=19, **{field: 3 if field == "epochs" else "other"})
    with pytest.raises(ValueError, match=f"cola: the runs differ in {field}"):
        summarise([RUN, other])


def test_there_is_an_average_of_all_eight_tasks_only():
    every = [replace(RUN, task=task, main_score=number / 10) for number, task in enumerate(TASKS)]
    assert list(summarise(every[::-1])) == list(TASKS), "in the order of Table 2"
    assert average(summarise(every)) == pytest.approx(0.35)
    assert average(summarise(every[1:])) is None
    assert "7 of 8 tasks: no average" in summary_table(summarise(every[1:]))
    assert json.loads(json.dumps(summary_content(summarise(every))))["average"] == pytest.approx(0.35)


def test_what_is_other_than_in_the_paper_is_said():
    full = [
        replace(run, batch_size=batch, learning_rate=rate, task="rte", start="mnli: mnli-batch16-rate1e-05-seed42")
        for batch in (16, 32)
        for rate in (1e-5, 2e-5, 3e-5)
        for run in seeds_of([0.5] * 5)
    ]
    assert summarise(full)["rte"].differences == []
    started = [replace(run, start="encoder", epochs=3) for run in full]
    assert summarise(started)["rte"].differences == [
        "3 of 10 epochs",
        "started from encoder, the paper starts from MNLI",
    ]
    assert summarise([replace(RUN, task="cola", start="encoder")])["cola"].differences[-1] == "1 of 6 configurations"
    other = summarise([replace(RUN, task="rte", start="snli: run")])["rte"]
    assert other.differences[-1] == "started from snli: run, the paper starts from MNLI"
    given = summarise([replace(RUN, task="rte", start="mnli checkpoint: tuned (0123)")])["rte"]
    assert "MNLI" not in given.differences[-1]


def test_files_are_read_back_and_broken_ones_named(tmp_path):
    (tmp_path / "runs").mkdir()
    for run in seeds_of([0.1, 0.2]):
        (tmp_path / "runs" / f"{run.seed}.json").write_text(json.dumps({**asdict(run), "history": [], "versions": {}}))
    (tmp_path / "runs" / ".partial-1.json").write_text("{")
    assert {run.seed: run.main_score for run in read_runs(tmp_path)} == {42: 0.1, 19: 0.2}
    (tmp_path / "runs" / "cut.json").write_text('{"task": "co')
    with pytest.raises(ValueError, match=r"cut\.json.*Remove it"):
        read_runs(tmp_path)
    for score in (float("nan"), None, "0.5"):
        content = {**asdict(RUN), "main_score": score}
        (tmp_path / "runs" / "cut.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"cut\.json: a score is .*, not a number. Remove it"):
            read_runs(tmp_path)
    (tmp_path / "runs" / "cut.json").write_text('{"task": "cola"}')
    with pytest.raises(ValueError, match=r"cut\.json.*no model, weights"):
        read_runs(tmp_path)


def test_a_directory_is_known_by_its_settings(tmp_path):
    assert not is_glue_directory(tmp_path)
    for content, expected in (('{"benchmark": "GLUE"}', True), ('{"benchmark": "x"}', False), ("{", False)):
        (tmp_path / "settings.json").write_text(content)
        assert is_glue_directory(tmp_path) is expected
