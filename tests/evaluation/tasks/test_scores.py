"""Scores of tasks on own files, as `mteb.evaluate` gives them, against other libraries on the same embeddings."""

import json

import numpy as np
import pytest
import pytrec_eval
from mteb.abstasks import AbsTaskClassification
from scipy.stats import spearmanr
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, v_measure_score

from evaluation.tasks.local import read_local_tasks
from tests.evaluation.tasks.stub import embed, evaluate, unit
from textfiles.writing import write_jsonl

SEED = 42  # mteb's


def local_task(directory, **entry):
    directory.joinpath("tasks.yaml").write_text(json.dumps([{"name": "mine", **entry}]))
    (task,) = read_local_tasks(directory / "tasks.yaml")
    return task


def ndcg(grades, ranked, k):
    """From its definition, with the grade as gain."""

    def gain(values):
        return sum(grade / np.log2(rank + 2) for rank, grade in enumerate(values[:k]))

    return gain([grades.get(name, 0) for name in ranked]) / gain(sorted(grades.values(), reverse=True))


def test_retrieval_with_graded_judgements(tmp_path):
    draw = np.random.default_rng(0)
    titles = {f"d{i}": "title" if i % 2 else "" for i in range(60)}
    documents = {name: f"{title} text of {name}".strip() for name, title in titles.items()}
    queries = {f"q{i}": f"text of q{i}" for i in range(15)}
    grades = {
        query: {str(name): int(draw.integers(0, 4)) for name in draw.choice(list(documents), 8, replace=False)}
        for query in queries
    }
    grades["q14"] = {"d1": 0}  # no relevant document: not asked
    corpus = [{"_id": name, "title": title, "text": f"text of {name}"} for name, title in titles.items()]
    write_jsonl(corpus, tmp_path / "beir" / "corpus.jsonl")
    write_jsonl([{"_id": name, "text": text} for name, text in queries.items()], tmp_path / "beir" / "queries.jsonl")
    lines = [f"{query}\t{name}\t{grade}\n" for query, judged in grades.items() for name, grade in judged.items()]
    (tmp_path / "beir" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    _, scores = evaluate(local_task(tmp_path, type="Retrieval", path="beir"))

    similarities = unit(embed(queries.values())) @ unit(embed(documents.values())).T
    run = {q: dict(zip(documents, map(float, row), strict=True)) for q, row in zip(queries, similarities, strict=True)}
    asked = {query: judged for query, judged in grades.items() if query != "q14"}
    measures = {"ndcg_cut.10", "recall.10", "map_cut.10"}
    reference = pytrec_eval.RelevanceEvaluator(asked, measures).evaluate({query: run[query] for query in asked})
    ours = {"ndcg_cut_10": "ndcg_at_10", "recall_10": "recall_at_10", "map_cut_10": "map_at_10"}
    for theirs, name in ours.items():
        assert scores[name] == pytest.approx(np.mean([row[theirs] for row in reference.values()]), abs=1e-5)
    ranked = {query: sorted(run[query], key=run[query].get, reverse=True) for query in asked}
    graded = np.mean([ndcg(asked[query], ranked[query], 10) for query in asked])
    binary = [ndcg({name: 1 for name, grade in asked[q].items() if grade}, ranked[q], 10) for q in asked]
    assert scores["main_score"] == scores["ndcg_at_10"] == pytest.approx(graded, abs=1e-5)
    assert abs(np.mean(binary) - graded) > 0.005  # that grades count is seen


def test_retrieval_of_pairs(tmp_path):
    """Equal queries are one, with several documents; equal documents one."""
    pairs = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "3"), *((f"q{i}", f"d{i}") for i in range(20))]
    write_jsonl([{"ask": query, "answer": document} for query, document in pairs], tmp_path / "pairs.jsonl")
    task = local_task(tmp_path, type="Retrieval", path="pairs.jsonl", columns=["ask", "answer"])
    _, scores = evaluate(task)
    queries, documents = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    relevant = np.array([[(query, document) in pairs for document in documents] for query in queries])
    similarities = unit(embed(queries)) @ unit(embed(documents)).T
    found = np.take_along_axis(relevant, np.argsort(-similarities, axis=1), axis=1)[:, :10]
    assert scores["recall_at_10"] == pytest.approx((found.sum(axis=1) / relevant.sum(axis=1)).mean(), abs=1e-5)


def test_sts(tmp_path):
    scores = np.random.default_rng(1).integers(1, 6, 50).astype(float)
    rows = [{"sentence1": f"one {i}", "sentence2": f"other {i}", "score": score} for i, score in enumerate(scores)]
    write_jsonl(rows, tmp_path / "sts.jsonl")
    _, result = evaluate(local_task(tmp_path, type="STS", path="sts.jsonl"))
    one, other = (unit(embed([row[column] for row in rows])) for column in ("sentence1", "sentence2"))
    assert result["main_score"] == pytest.approx(spearmanr(scores, (one * other).sum(axis=1)).statistic, abs=1e-6)


def test_clustering_is_of_all_texts_at_once(tmp_path):
    rows = [{"text": f"text {i}", "label": f"label {i % 7 % 4}"} for i in range(700)]  # more than mteb's batch of 500
    write_jsonl(rows, tmp_path / "clusters.jsonl")
    _, scores = evaluate(local_task(tmp_path, type="Clustering", path="clusters.jsonl"))
    model = MiniBatchKMeans(n_clusters=4, batch_size=500, n_init="auto", random_state=SEED)
    found = model.fit(embed([row["text"] for row in rows])).labels_
    assert scores["main_score"] == pytest.approx(v_measure_score([row["label"] for row in rows], found), abs=1e-9)
    assert len(scores["v_measures"]) == 1


def undersample(labels, count, already):
    """Eight rows of each label: mteb shuffles the order that it had, always with the same seed."""
    np.random.RandomState(SEED).shuffle(already)
    chosen, seen = [], dict.fromkeys(labels, 0)
    for row in already:
        if seen[labels[row]] < count:
            chosen.append(row)
            seen[labels[row]] += 1
    return chosen


def test_classification(tmp_path, monkeypatch):
    rows = {
        part: [{"text": f"{part} {i}", "label": ["no", "yes", "perhaps"][i % 5 % 3]} for i in range(count)]
        for part, count in (("train", 120), ("test", 60))
    }
    for part in rows:
        write_jsonl(rows[part], tmp_path / f"{part}.jsonl")
    task = local_task(tmp_path, type="Classification", path="test.jsonl", train="train.jsonl")
    looked_up = []
    theirs = AbsTaskClassification._undersample_data

    def watched(self, dataset, *arguments):
        looked_up.append(type(dataset["label"]))
        return theirs(self, dataset, *arguments)

    monkeypatch.setattr(AbsTaskClassification, "_undersample_data", watched)
    _, scores = evaluate(task)
    assert looked_up == [list] * 10  # not columns on the disk

    labels = [row["label"] for row in rows["train"]]
    train, test = (embed([row["text"] for row in rows[part]]) for part in ("train", "test"))
    order, expected = list(range(len(labels))), []
    for _ in range(10):
        chosen = undersample(labels, 8, order)
        model = LogisticRegression(max_iter=100, random_state=SEED).fit(train[chosen], [labels[row] for row in chosen])
        expected.append(model.score(test, [row["label"] for row in rows["test"]]))
    assert scores["main_score"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert np.std(expected) > 0


def test_pair_classification(tmp_path):
    labels = np.random.default_rng(2).integers(0, 2, 80)
    rows = [{"sentence1": f"one {i}", "sentence2": f"other {i}", "label": int(label)} for i, label in enumerate(labels)]
    write_jsonl(rows, tmp_path / "pairs.jsonl")
    _, scores = evaluate(local_task(tmp_path, type="PairClassification", path="pairs.jsonl"))
    one, other = (embed([row[column] for row in rows]) for column in ("sentence1", "sentence2"))
    similarities = {
        "cosine": (unit(one) * unit(other)).sum(axis=1),
        "dot": (one * other).sum(axis=1),
        "euclidean": -np.linalg.norm(one - other, axis=1),
        "manhattan": -np.abs(one - other).sum(axis=1),
    }
    expected = {name: average_precision_score(labels, values) for name, values in similarities.items()}
    assert {name: scores[f"{name}_ap"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert scores["main_score"] == pytest.approx(max(expected.values()), abs=1e-6)
    assert len(set(expected.values())) == 4
