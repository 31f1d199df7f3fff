import csv
import gzip
import json

import pytest

from evaluation.report.results import read_results
from evaluation.report.task_scores import aggregate_parts, paper_tasks
from tests.evaluation.report.result_trees import WEIGHTS, save, save_bm25, save_glue, save_splits


def only_model(path):
    (model,) = read_results([path]).models
    return model


def only_run(path):
    (run,) = only_model(path).runs.values()
    return run


@pytest.mark.parametrize(
    ("task", "splits", "score"),
    [
        ("MSMARCO", {"test": {"default": 0.6369}, "dev": {"default": 0.3654}}, 36.54),
        ("SciFact", {"train": {"default": 0.66}, "test": {"default": 0.6451}}, 64.51),
        ("STS22", {"test": {"de": 0.2, "en": 0.66, "es-en": 0.9}}, 66.0),
        ("AmazonReviewsClassification", {"validation": {"en": 0.3}, "test": {"en": 0.31, "fr": 0.2}}, 31.0),
        ("STS17", {"test": {"en-en": 0.87, "ko-ko": 0.4}}, 87.0),
        # of no benchmark of the paper: test in English, or all that mteb evaluates where there is no test
        ("Core17InstructionRetrieval", {"test": {"default": 0.25}}, 25.0),
        ("LEMBPasskeyRetrieval", {f"test_{256 * 2**i}": {"default": i / 10} for i in range(8)}, 35.0),
        ("mine", {"test": {"default": 0.125}}, 12.5),
    ],
)
def test_only_the_split_and_the_language_of_the_benchmark_count(tmp_path, task, splits, score):
    save_splits(tmp_path, task, splits)
    assert only_run(tmp_path).scores[task].score == pytest.approx(score)


@pytest.mark.parametrize(
    ("task", "splits", "missing"),
    [
        ("MSMARCO", {"test": {"default": 0.6369}}, "no score of the split 'dev'"),
        ("STS22", {"test": {"de": 0.2}}, "no score of the split 'test', en"),
        ("SciFact", {"test": {"default": float("nan")}}, "no score of the split 'test'"),
        ("mine", {"test": {"default": 0.1}, "dev": {"default": 0.2}}, "its file has 2 splits and subsets"),
    ],
)
def test_a_file_without_what_counts_gives_no_score(tmp_path, task, splits, missing):
    save_splits(tmp_path, task, splits)
    run = only_run(tmp_path)
    assert not run.scores
    assert missing in run.incomplete[task]


def test_the_aggregate_is_the_mean_of_its_twelve_parts_or_not_there(tmp_path):
    for number, part in enumerate(aggregate_parts()[:-1]):
        save_splits(tmp_path, part, {"test": {"default": number / 100}})
    assert "CQADupstackRetrieval" not in only_run(tmp_path).scores
    assert only_run(tmp_path).incomplete["CQADupstackRetrieval"] == "11 of its 12 parts are there"
    save_splits(tmp_path, aggregate_parts()[-1], {"test": {"default": 0.37}})
    assert only_run(tmp_path).scores["CQADupstackRetrieval"].score == pytest.approx((sum(range(11)) + 37) / 12)
    save_splits(tmp_path, "CQADupstackRetrieval", {"test": {"default": 0.5}})
    assert only_run(tmp_path).scores["CQADupstackRetrieval"].score == pytest.approx(50)


def test_every_level_of_a_tree_can_be_given_and_no_file_counts_twice(tmp_path):
    file = save(tmp_path / "tree", "SciFact", 60)
    revision = file.parent
    expected = only_model(tmp_path)
    for path in (tmp_path / "tree", revision.parent.parent, revision.parent, revision):
        assert only_model(path) == expected
    assert read_results([tmp_path, revision]).models == [expected]
    save(revision / "experiments", "STS12", 50, name="other/settings")
    assert only_model(tmp_path) == expected


def test_lengths_of_one_model_are_put_together(tmp_path):
    for length, percent in ((8191, 39.0), (128, 20.0), (512, 25.0)):
        save(tmp_path, "NarrativeQARetrieval", percent, length=length, digest="d2" if length > 2048 else "d1")
    model = only_model(tmp_path)
    assert (model.label, model.weights) == ("ours", WEIGHTS)
    scores = {length: run.scores["NarrativeQARetrieval"].score for length, run in model.runs.items()}
    assert scores == pytest.approx({128: 20.0, 512: 25.0, 8191: 39.0})
    assert list(scores) == [128, 512, 8191]


def test_models_of_one_name_are_told_apart_by_what_differs(tmp_path):
    save(tmp_path / "a", "STS12", 70)
    save(tmp_path / "b", "STS12", 71, weights="f" * 16)
    save(tmp_path / "c", "STS12", 72, weights="f" * 16, digest="d3", protocol={"rules": "model"})
    save(tmp_path / "d", "STS12", 73, name="local/another")
    save(tmp_path / "e", "STS12", 74, weights="e" * 16, length=128)
    save(tmp_path / "f", "STS12", 75, name="local/another", length=128, protocol={"rules": "model"})
    models = read_results([tmp_path]).models
    scores = {(model.label, *model.runs): next(iter(model.runs.values())).scores["STS12"].score for model in models}
    assert scores == pytest.approx(
        {
            ("ours (0a1b2c3)", 512): 70,
            ("ours (fffffff, rules paper)", 512): 71,
            ("ours (fffffff, rules model)", 512): 72,
            ("another (rules paper)", 512): 73,
            ("another (rules model)", 128): 75,
            ("ours (eeeeeee)", 128): 74,
        }
    )


def test_lengths_of_two_checkpoints_of_one_name_are_not_put_together(tmp_path):
    save(tmp_path, "LoCoQMSum", 44, length=2048)
    save(tmp_path, "LoCoQMSum", 40, length=8192, weights="f" * 16)
    models = read_results([tmp_path]).models
    assert {model.label: list(model.runs) for model in models} == {"ours (0a1b2c3)": [2048], "ours (fffffff)": [8192]}


def test_one_length_with_two_scalings_is_two_models(tmp_path):
    save(tmp_path, "LoCoQMSum", 44, length=8192)
    save(tmp_path, "LoCoQMSum", 40, length=8192, digest="d4", protocol={"rotary_scaling_factor": 4.0})
    models = read_results([tmp_path]).models
    assert {model.label: model.runs[8192].scores["LoCoQMSum"].score for model in models} == pytest.approx(
        {"ours (alpha 2.0)": 44, "ours (alpha 4.0)": 40}
    )


def test_two_directories_of_one_run_are_put_together_unless_they_disagree(tmp_path):
    save(tmp_path / "a", "STS12", 70)
    save(tmp_path / "b", "STS13", 71)
    save(tmp_path / "b", "STS12", 70)
    assert only_run(tmp_path).scores.keys() == {"STS12", "STS13"}
    save(tmp_path / "b", "STS12", 70.5)
    with pytest.raises(ValueError, match="STS12.json: 70.50, and 70.00 in another directory"):
        read_results([tmp_path])


@pytest.mark.parametrize("content", ['{"task_name": "SciFact", "sco', "{}", "[]", '{"scores": {"test": [{}]}}'])
def test_a_file_that_is_no_result_is_named_with_the_remedy(tmp_path, content):
    file = save(tmp_path, "SciFact", 60)
    file.write_text(content)
    with pytest.raises(ValueError, match=r"SciFact.json cannot be read .* Remove it and run the task again"):
        read_results([tmp_path])


@pytest.mark.parametrize("name", ["protocol.json", "model_meta.json"])
def test_facts_that_are_cut_off_are_named(tmp_path, name):
    file = save(tmp_path, "SciFact", 60)
    file.with_name(name).write_text('{"name": ')
    with pytest.raises(ValueError, match=f"{name} is not valid JSON .* Remove it"):
        read_results([tmp_path])


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_results([tmp_path / "nowhere"])
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has no results"):
        read_results([tmp_path])
    file = save(tmp_path, "SciFact", 60)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no task is finished"):
        read_results([tmp_path])


def test_a_tree_of_the_public_repository(tmp_path, shared_data):
    """Published scores, as another's tree without protocol; all splits are in it, and old files' form."""
    with gzip.open(shared_data / "reference" / "mteb_published_scores.tsv.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["model"].endswith("all-MiniLM-L6-v2")]
    splits = {}
    for row in rows:
        splits.setdefault(row["task"], {}).setdefault(row["split"], {})[row["subset"]] = float(row["main_score"]) / 100
    for task, scores in splits.items():
        save_splits(tmp_path, task, scores, name=rows[0]["model"], revision=rows[0]["revision"], mteb_version="1.12.75")
    folder = tmp_path / "results" / "sentence-transformers__all-MiniLM-L6-v2" / rows[0]["revision"]
    (folder / "model_meta.json").unlink()  # as for the earliest results
    (folder / "STS15.json").write_text(
        json.dumps({"mteb_dataset_name": "STS15", "test": {"cos_sim": {"spearman": 0.8539}}, "mteb_version": "1.0.2"})
    )
    model = only_model(tmp_path)
    assert (model.label, model.weights, list(model.runs)) == ("sentence-transformers/all-MiniLM-L6-v2", None, [None])
    scores = {task: round(score.score, 2) for task, score in model.runs[None].scores.items()}
    published = {"STSBenchmark": 82.03, "SciFact": 64.51, "FiQA2018": 36.87, "QuoraRetrieval": 87.55, "STS15": 85.39}
    assert {task: scores[task] for task in published} == published
    assert scores.keys() == splits.keys()


def test_revisions_of_others_are_not_mixed(tmp_path):
    half = list(paper_tasks())[:28]
    for task in paper_tasks():
        known = paper_tasks()[task]
        splits = {known.eval_splits[0]: {known.hf_subsets[0]: 0.5}}
        save_splits(tmp_path, task, splits, revision="external" if task in half else "f" * 40)
    labels = {model.label: len(model.runs[None].scores) for model in read_results([tmp_path]).models}
    assert labels == {"org/model (external)": 28, "org/model (fffffff)": 28}


def test_glue_and_bm25_are_read_beside_them(tmp_path):
    save_glue(tmp_path / "glue", "encoder", {"rte": ("accuracy", 0.7)}, seeds=(1, 2, 3))
    save_glue(tmp_path / "other", "encoder", {"rte": ("accuracy", 0.8)}, weights="f" * 16)
    save_glue(tmp_path / "again", "encoder", {"rte": ("accuracy", 0.9)}, weights="f" * 16)
    save_bm25(tmp_path / "mteb", "SciFact", 66.5)
    results = read_results([tmp_path])
    assert {one.label: one.tasks["rte"].score for one in results.encoders} == {
        "encoder (0a1b2c3)": 0.7,
        "encoder (fffffff, other)": 0.8,
        "encoder (fffffff, again)": 0.9,
    }
    (bm25,) = results.models
    assert (bm25.label, bm25.is_bm25, list(bm25.runs)) == ("bm25", True, [None])
