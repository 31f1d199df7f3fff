"""Evaluations of a tiny model and their report, killed wherever they touch the file system."""

import json
import random

import pytest

from tests.checkpoints import save_nomic
from tests.crash.damage import assert_notices_damage
from tests.crash.harness import Case, assert_survives
from tests.evaluation.glue.toys import rows, write_tsv
from textfiles.writing import write_jsonl

WORDS = ["matrix", "vector", "solve", "banded", "linear", "system", "tensor", "graph"]
NOT_COMPARED = {
    "*.json": rb'(?s)"(seconds|evaluation_time|date)": [^,\n}]+|"evaluation_phases": \[.*?\n  \]',
    # mteb adds them to a task's line when it saves the task a second time; our encoder does not read them
    "*/run_settings.jsonl": rb'"encode_kwargs": {[^}]*}',
}


def prepare_tasks(directory):
    save_nomic(directory / "model")
    chosen = random.Random(0)

    def text(words):
        return " ".join(chosen.choices(WORDS, k=words))

    write_jsonl([{"query": text(2), "document": text(5)} for _ in range(8)], directory / "pairs.jsonl")
    scored = [{"sentence1": text(3), "sentence2": text(3), "score": n} for n in range(8)]
    write_jsonl(scored, directory / "sts.jsonl")
    entries = [
        {"name": "toy_search", "type": "Retrieval", "path": "pairs.jsonl"},
        {"name": "toy_sts", "type": "STS", "path": "sts.jsonl"},
    ]
    (directory / "tasks.yaml").write_text(json.dumps(entries))


def prepare_results(directory):
    from tests.evaluation.report.result_trees import save, save_glue

    save(directory / "results_of_mteb", "SciFact", 61.5)
    save(directory / "results_of_mteb", "STSBenchmark", 80.25)
    save_glue(directory / "results_of_glue", "ours", {"rte": ("accuracy", 0.625)})


def prepare_glue(directory):
    from evaluation.glue.tasks import GLUE  # after the harness has decided what to import once

    save_nomic(directory / "model")
    (directory / "data").mkdir()
    for task in ("mnli", "rte"):  # the second starts from the weights of the first
        for split, count in (("train", 16), ("dev", 8)):
            write_tsv(directory / "data" / f"{task}_{split}.tsv", rows(GLUE[task], count, split))


MTEB = ("model", "--local_tasks", "tasks.yaml", "--output_dir", "outputs", "--device", "cpu")
GLUE_RUNS = ("--tasks", "mnli", "rte", "--tier", "quick", "--epochs", "2", "--batch_sizes", "8")
GLUE_DATA = ("--learning_rates", "3e-3", "--data_dir", "data", "--save_steps", "1")
CASES = [
    Case("mteb_run", "evaluation/mteb_run.py", MTEB, prepare_tasks, not_compared=NOT_COMPARED),
    Case(
        "long_context",
        "evaluation/long_context.py",
        (*MTEB, "--lengths", "32", "128"),
        prepare_tasks,
        not_compared=NOT_COMPARED,
    ),
    Case(
        "glue",
        "evaluation/glue/__main__.py",
        ("model", "--output_dir", "outputs", *GLUE_RUNS, *GLUE_DATA),
        prepare_glue,
        not_compared=NOT_COMPARED,
    ),
    Case(
        "report",
        "evaluation/report/__main__.py",
        ("results_of_mteb", "results_of_glue/ours", "--output_dir", "outputs"),
        prepare_results,
    ),
]


@pytest.mark.crash
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_evaluation_ends_with_the_same_files_wherever_it_was_killed(tmp_path, case):
    assert_survives(case, tmp_path)


NOT_READ = {
    "*/model_meta.json": "for the report, which names a damaged one",
    "*/run_settings.jsonl": "mteb writes it for people",
    "*/starts/*": "weights that further tasks start from, which compare them then",
}


@pytest.mark.crash
@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=lambda case: case.name)
def test_an_evaluation_makes_damaged_files_again_or_refuses_them(tmp_path, case):
    bits = {"*.json": "results are for people, and in mteb's form"}
    assert_notices_damage(case, tmp_path, bits_not_checked=bits, not_read=NOT_READ)
