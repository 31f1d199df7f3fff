"""Choosing, searching and drawing negatives, and reading what they are mined from."""

import gzip
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from curation.duplicates import normalize_text
from curation.mining.corpora import copy_beir
from curation.mining.negatives import NegativeLimits, draw_random, nearest_documents
from curation.mining.tasks import MiningSource, open_task
from textfiles import rows as row_files
from textfiles.writing import write_jsonl

PREFIXES = {"query_prefix": "", "document_prefix": ""}


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("depth", [1, 7, 30])
def test_nearest_documents_are_those_of_a_full_sort_without_the_excluded(depth):
    queries, documents = unit(40, 6), unit(300, 6)
    random = np.random.default_rng(0)
    # none, some and so many that fewer than `depth` documents are left; 300 and above are in no search
    excluded = [random.choice(320, size, replace=False) for size in [0, 1, 2, 3, 17, 100, 280, 320] * 5]
    shards = [documents[:111].numpy(), documents[111:].numpy()]
    found = nearest_documents(queries, shards, excluded, depth)
    for query, own, candidates in zip(queries, excluded, found, strict=True):
        scores = (documents @ query).numpy()
        order = [number for number in np.argsort(-scores, kind="stable") if number not in set(own.tolist())]
        assert candidates.documents.tolist() == order[:depth]
        np.testing.assert_allclose(candidates.scores, scores[order[:depth]], atol=1e-6)


SCORES = np.array([0.9, 0.8, 0.6, 0.5, 0.5, 0.4, 0.2, -0.1, -0.3], dtype=np.float32)


@pytest.mark.parametrize(
    ("limits", "own_score", "chosen"),
    [
        ({}, 0.7, [0, 1, 2]),
        ({"range_min": 2}, 0.7, [2, 3, 4]),
        ({"range_min": 2, "range_max": 5, "max_score": 0.55}, 0.7, [3, 4]),
        ({"max_score": 0.85}, 0.7, [1, 2, 3]),
        ({"min_score": 0.7}, 0.7, [0, 1]),
        ({"range_min": 1, "max_score": 0.85}, 0.7, [1, 2, 3]),  # passed over by place, whatever the limits say
        ({"absolute_margin": 0.15}, 0.7, [3, 4, 5]),
        ({"relative_margin": 0.05}, 0.7, [2, 3, 4]),
        ({"relative_margin": 0.2}, 0.7, [3, 4, 5]),
        ({"relative_margin": 0.5}, -0.1, [8]),  # half its size below -0.1, not -0.05
        ({"absolute_margin": 0.0, "min_score": 0.3}, 0.55, [3, 4, 5]),
    ],
)
def test_limits_hold_in_their_order(limits, own_score, chosen):
    assert NegativeLimits(num_negatives=3, **limits).choose(SCORES, own_score).tolist() == chosen


def test_the_search_is_as_deep_as_a_limit_needs():
    assert NegativeLimits(num_negatives=5, range_min=2).depth == 7
    assert NegativeLimits(num_negatives=5, range_min=2, range_max=40).depth == 7
    assert NegativeLimits(num_negatives=5, range_min=2, min_score=0.1).depth == 7
    assert NegativeLimits(num_negatives=5, range_min=2, range_max=40, max_score=0.9).depth == 40
    assert NegativeLimits(num_negatives=5, range_min=2, relative_margin=0.1).depth == 52


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1"),
        ({"range_min": -1}, "range_min must be at least 0"),
        ({"range_min": 5, "range_max": 20}, "range_max must be at least range_min \\+ num_negatives, 25"),
        ({"min_score": 0.5, "max_score": 0.4}, "nothing would be left"),
        ({"min_score": 2.0}, "min_score must be a cosine"),
        ({"max_score": math.nan}, "max_score must be a cosine"),
        ({"relative_margin": 1.0}, "relative_margin must be"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits, said):
    with pytest.raises(ValueError, match=said):
        NegativeLimits(**limits)


@pytest.mark.parametrize(("total", "num_excluded"), [(12, 4), (12, 11), (40, 3), (40, 39)])
def test_random_documents_are_distinct_allowed_and_all_as_likely(total, num_excluded):
    excluded = np.arange(num_excluded) * 7 % 41  # one or more of them are outside of the 40
    allowed = set(range(total)) - set(excluded.tolist())
    count = min(3, len(allowed))
    draws = [draw_random(total, excluded, 3, (5, row)).tolist() for row in range(4_000)]
    assert all(len(draw) == len(set(draw)) == count for draw in draws)
    for place in range(count):
        seen = Counter(draw[place] for draw in draws)
        assert seen.keys() == allowed
        expected = len(draws) / len(allowed)
        assert sum((times - expected) ** 2 / expected for times in seen.values()) < 3 * len(allowed) + 10
    assert draw_random(total, excluded, 3, (5, 7)).tolist() == draws[7]
    other = [draw_random(total, excluded, 3, (6, row)).tolist() for row in range(50)]
    assert len(allowed) == 1 or other != draws[:50]


def test_texts_are_numbered_over_case_and_punctuation(tmp_path):
    rows = [{"query": f"Question {n % 5}?", "document": f"Answer {n % 7}."} for n in range(20)]
    rows += [{"query": "question 3", "document": "ANSWER 1"}, {"query": "question 9", "document": "not in it"}]
    corpus = [f"answer: {n}" for n in range(4)] + ["extra", "Extra!", "answer 6"]
    write_jsonl(rows, tmp_path / "rows.jsonl")
    write_jsonl([{"body": text} for text in corpus], tmp_path / "corpus.jsonl.gz")
    source = {"name": "x", "path": str(tmp_path / "rows.jsonl"), **PREFIXES}
    for more in {}, {"corpus": str(tmp_path / "corpus.jsonl.gz"), "corpus_text": "body"}:
        task = open_task(MiningSource(**source, **more), tmp_path / f"work-{len(more)}")
        texts = ([*corpus] if more else []) + [row["document"] for row in rows]
        distinct = list({normalize_text(text): None for text in texts})
        firsts = [next(text for text in texts if normalize_text(text) == key) for key in distinct]
        assert task.document_texts(np.arange(task.num_documents)) == firsts
        candidates = {normalize_text(text) for text in corpus} if more else set(distinct)
        assert distinct[: task.numbering.num_candidates] == [key for key in distinct if key in candidates]
        for number, row in enumerate(rows):
            same = [r for r in rows if normalize_text(r["query"]) == normalize_text(row["query"])]
            own = sorted({distinct.index(normalize_text(r["document"])) for r in same})
            assert task.numbering.positives_of(task.numbering.queries[number]).tolist() == own
            assert distinct[task.numbering.documents[number]] == normalize_text(row["document"])
        assert task.document_texts(np.array([2, 0, 2])) == [firsts[2], firsts[0], firsts[2]]


def write_beir(directory, corpus=None, queries=None, judged=None, split=None):
    write_jsonl(corpus or [{"_id": n, "title": f"t{n}", "text": f"text {n}"} for n in range(6)] +
                [{"_id": "bare", "text": "no title"}], directory / "corpus.jsonl.gz")  # fmt: skip
    write_jsonl(queries or [{"_id": f"q{n}", "text": f"query {n}"} for n in range(4)], directory / "queries.jsonl")
    judged = judged or [("q1", "2", 1), ("q0", "bare", 2), ("q1", "0", 0), ("q1", "5", 1), ("q1", "2", 1)]
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, line)) for line in judged), ""]
    path = directory / ("qrels.tsv.gz" if split is None else f"qrels/{split}.tsv")
    path.parent.mkdir(exist_ok=True)
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if split is None else content)


@pytest.mark.parametrize("split", [None, "dev"])
def test_beir_is_read_as_pairs_and_a_corpus(tmp_path, monkeypatch, split):
    monkeypatch.setattr(row_files, "ROWS_AT_ONCE", 3)
    write_beir(tmp_path / "set", split=split)
    source = MiningSource(name="x", path=str(tmp_path / "set"), split=split or "train", **PREFIXES)
    task = open_task(source, tmp_path / "work")
    pairs = [("query 1", "t2 text 2"), ("query 0", "no title"), ("query 1", "t5 text 5")]
    assert [(row["query"], row["document"]) for row in task.rows] == pairs
    assert json.loads(task.rows[1]["others"]) == {"query-id": "q0", "corpus-id": "bare"}
    documents = [f"t{n} text {n}" for n in range(6)] + ["no title"]
    assert task.document_texts(np.arange(7)) == documents and task.numbering.num_candidates == 7
    limited = MiningSource(**{**vars(source), "limit": 1})
    task = open_task(limited, tmp_path / "limited")
    assert task.num_rows == 1  # and yet the other judgement of its query is known
    assert task.numbering.positives_of(task.numbering.queries[0]).tolist() == [2, 5]


def test_the_shared_sets_are_read_as_they_are_scored(shared_data, tmp_path):
    from evaluation.retrieval import RetrievalSet

    directory = shared_data / "retrieval" / "scifact_train_queries"
    expected = RetrievalSet.from_beir(directory)
    task = open_task(MiningSource(name="x", path=str(directory), **PREFIXES), tmp_path / "work")
    pairs = {(row["query"], row["document"]) for row in task.rows}
    relevant = expected.relevant.items()
    assert pairs == {(expected.queries[q], expected.documents[d]) for q, found in relevant for d in found}
    assert task.numbering.num_candidates == len({normalize_text(text) for text in expected.documents.values()})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"corpus": [{"_id": "0", "text": 3}]}, r"corpus.jsonl.gz, line 1, column 'text': the int '3', not a text"),
        ({"corpus": [{"_id": "0", "body": "a"}]}, r"corpus.jsonl.gz, line 1: no column 'text'"),
        ({"corpus": [{"_id": "2", "text": "a"}, {"_id": "2", "text": "b"}]}, "line 2: the id '2' is used twice"),
        ({"judged": [("q1", "77", 1)]}, r"qrels.tsv.gz: no query has a relevant document"),
        ({"judged": [("q1", "2", "x")]}, r"qrels.tsv.gz, line 2, column 'score': the str 'x', not a number"),
        ({"judged": [("q1", "2", 0)]}, "no query has a relevant document"),
        ({"queries": [{"_id": "q1", "text": ""}, {"_id": "q0", "text": "a"}]}, r"queries.jsonl, line 1, .*blank"),
    ],
)
def test_faults_of_a_beir_set_are_named(tmp_path, parts, said):
    write_beir(tmp_path, **parts)
    with pytest.raises(ValueError, match=said):
        copy_beir(tmp_path, "train", tmp_path / "work")


def test_absent_and_blank_documents_cost_their_pairs_alone(tmp_path, capsys):
    corpus = [{"_id": "blank", "text": " ", "title": None}, {"_id": "a", "text": "one"}, {"_id": "b", "text": "two"}]
    judged = [
        ("q1", "a", 1),
        ("q1", "blank", 1),
        ("q1", "gone", 1),
        ("q0", "b", 1),
        ("gone", "a", 1),
        ("q2", "gone", 0),
    ]
    write_beir(tmp_path / "set", corpus=corpus, judged=judged)
    task = open_task(MiningSource(name="x", path=str(tmp_path / "set"), **PREFIXES), tmp_path / "work")
    assert [(row["query"], row["document"]) for row in task.rows] == [("query 1", "one"), ("query 0", "two")]
    assert task.document_texts(np.arange(task.num_documents)) == ["one", "two"]
    assert "3 judgements left out" in capsys.readouterr().out


def test_missing_files_and_columns_are_named(tmp_path):
    write_beir(tmp_path / "set", split="dev")
    with pytest.raises(FileNotFoundError, match=r"qrels/test.tsv: neither it nor test.tsv.gz"):
        copy_beir(tmp_path / "set", "test", tmp_path / "work")
    write_jsonl([{"query": "a", "document": "b", "negatives": ["c"]}], tmp_path / "rows.jsonl")
    source = {"name": "x", "path": str(tmp_path / "rows.jsonl"), **PREFIXES}
    with pytest.raises(ValueError, match="have a column 'negatives' already"):
        open_task(MiningSource(**source), tmp_path / "a")
    write_jsonl([{"text": "a", "title": "b"}, {"text": "c"}], tmp_path / "corpus.jsonl")
    source |= {"negatives": "negatives", "corpus": str(tmp_path / "corpus.jsonl")}
    with pytest.raises(ValueError, match=r"corpus.jsonl, line 2: no column 'title'.*set corpus_text and corpus_title"):
        open_task(MiningSource(**source, corpus_title="title"), tmp_path / "b")
    with pytest.raises(ValueError, match="draw must be nearest or random"):
        MiningSource(**source, draw="hardest")
    with pytest.raises(ValueError, match="it has a corpus and no negatives"):
        MiningSource(**{**source, "path": str(tmp_path / "set")})
