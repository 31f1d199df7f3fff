import csv
from pathlib import Path

import mteb
import pytest
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.types import PromptType

from evaluation.harness.encoder import PAPER_LENGTH
from evaluation.protocol import LENGTHS
from evaluation.tasks.lists import benchmark_tasks, resolve_tasks
from nomic_bert.prompts import PREFIXES, PROMPTS

BENCHMARKS = ("MTEB(eng, v1)", "JinaLongContext", "LoCo")
# Written by hand from the paper: §5.2.1 and Table 4, §5.2.3 and Table 5, §5.2.4 and Table 6. Where it does not say,
# as the authors' code does: prefixes of Reranking and QuoraRetrieval, MSMARCO on dev.
with open(Path(__file__).with_name("paper_tasks.tsv"), encoding="utf-8") as lines:
    TABLE = list(csv.DictReader(lines, delimiter="\t"))


def prompts_that_mteb_knows():
    known = {key: text for key, text in PROMPTS.items() if key not in PREFIXES}
    return AbsEncoder.validate_task_to_prompt_name(known)


def described(benchmark, task):
    """What the table says, of a task as it is resolved."""
    if task.metadata.type in ("Retrieval", "Reranking"):  # the types that mteb asks for with two prompt types
        prompts = [get_prompt(prompts_that_mteb_knows(), task.metadata, side) for side in PromptType]
    else:
        prompts = [get_prompt(prompts_that_mteb_knows(), task.metadata, None)] * 2
    return {
        "benchmark": benchmark,
        "task": task.metadata.name,
        "type": task.metadata.type,
        "main_score": task.metadata.main_score,
        "split": " ".join(task.eval_splits),
        "subset": " ".join(task.hf_subsets),
        "query": prompts[0].removesuffix(": "),
        "document": prompts[1].removesuffix(": "),
        "lengths": " ".join(map(str, LENGTHS.get(benchmark, (PAPER_LENGTH,)))),
    }


def in_order(rows):
    return sorted(rows, key=lambda row: (row["benchmark"], row["task"]))


def test_the_benchmarks_are_those_of_the_paper():
    resolved = [described(name, task) for name in BENCHMARKS for task in benchmark_tasks(name)]
    assert in_order(resolved) == in_order(TABLE)
    assert len(TABLE) == 56 + 4 + 5


def test_a_task_by_name_is_what_its_benchmark_has():
    by_name = [described(row["benchmark"], task) for row in TABLE for task in resolve_tasks([row["task"]])]
    assert by_name == TABLE
    assert [task.metadata.name for task in resolve_tasks(["STS17", "SciFact", "STS17"])] == ["STS17", "SciFact"]


def test_parts_of_the_aggregate_are_asked_as_it_is():
    (task,) = resolve_tasks(["CQADupstackRetrieval"])
    assert isinstance(task, AbsTaskAggregate)
    assert len(task.metadata.tasks) == 12
    whole = described("", task)
    for part in task.metadata.tasks:
        assert described("", part) == {**whole, "task": part.metadata.name}


def test_the_data_are_those_that_published_scores_are_of():
    """BigPatentClustering has a successor with other data, under which nomic-embed-text-v1 scores ten points more."""
    sources = {
        "BigPatentClustering": "jinaai/big-patent-clustering",
        "LoCoGovReport": "tau/scrolls",
        "LoCoQASPERTitle": "allenai/qasper",
    }
    assert {task.metadata.name: task.metadata.dataset["path"] for task in resolve_tasks(list(sources))} == sources


def test_other_tasks_are_evaluated_on_test_and_in_english():
    names = ["STSBenchmarkMultilingualSTS", "GermanQuAD-Retrieval", "LEMBSummScreenFDRetrieval"]
    stsb, german, lemb = resolve_tasks(names)
    assert list(stsb.metadata.eval_splits) == ["dev", "test"]
    assert len(stsb.metadata.hf_subsets) > 5
    assert (list(stsb.eval_splits), stsb.hf_subsets) == (["test"], ["en"])
    assert german.hf_subsets == ["default"]  # there is nothing in English
    assert list(lemb.eval_splits) == ["validation"]  # there is no test


def test_benchmarks_of_mteb_are_as_they_are():
    tasks, theirs = benchmark_tasks("NanoBEIR"), mteb.get_benchmark("NanoBEIR").tasks
    assert [(t.metadata, t.hf_subsets, t.eval_splits) for t in tasks] == [
        (t.metadata, t.hf_subsets, t.eval_splits) for t in theirs
    ]


@pytest.mark.parametrize(
    ("resolve", "message"),
    [
        (lambda: resolve_tasks(["SciFact", "scifact"]), "unknown task 'scifact'; did you mean 'SciFact'"),
        (lambda: resolve_tasks(["LoCoQmsum"]), "did you mean 'LoCoQMSum'.*mteb available-tasks"),
        (lambda: benchmark_tasks("MTEB(eng,v1)"), r"unknown benchmark .* did you mean 'MTEB\(eng, v1\)'"),
        (lambda: benchmark_tasks("loco"), "did you mean 'LoCo'.* mteb available-benchmarks"),
        (lambda: resolve_tasks(["#"]), "unknown task '#'; Ours are"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(resolve, message):
    with pytest.raises(ValueError, match=message):
        resolve()
