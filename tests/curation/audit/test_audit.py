"""Counts of an audit against Python sets of normalized texts."""

import gzip
import json
import random
from collections import Counter
from itertools import combinations

import datasets
import numpy as np
import pytest
from tqdm.auto import tqdm

from curation.audit.counting import (
    SourceKeys,
    choose_rows,
    count_repeated,
    count_shared,
    pair_keys,
    summarize_lengths,
)
from curation.audit.held_out import EvaluationSet, find_overlaps
from curation.audit.page import audit_page
from curation.audit.report import OpenedSource, make_report
from curation.duplicates import normalize_text
from curation.sources import Source
from textfiles.writing import write_jsonl

WORDS = ["river", "stone", "house", "light", "paper", "water"]


def some_text(generator, words=WORDS):
    """One of few short texts, in one of many forms that are equal after normalization."""
    chosen = generator.choices(words, k=generator.choice([1, 2]))
    return generator.choice([" ".join, "  ".join, ", ".join, "_".join])(
        generator.choice([str.upper, str.title, str.lower])(word) for word in chosen
    ) + generator.choice(["", ".", " ?!"])


def some_pairs(seed, rows, words=WORDS):
    generator = random.Random(seed)
    return [{"query": some_text(generator, words), "document": some_text(generator, words)} for _ in range(rows)]


@pytest.fixture
def open_source(tmp_path):
    """Rows -> a source whose keys are written, in shards of 7 rows."""

    def open_rows(rows, number=0, name="one"):
        pairs = datasets.Dataset.from_list(rows)
        keys = SourceKeys(tmp_path, number, len(rows), 7)
        for shard in reversed(range(keys.files.count)):
            keys.make(pairs, shard, tqdm(disable=True))
        return OpenedSource(Source(name=name, path="x", query_prefix="", document_prefix=""), pairs, keys)

    return open_rows


def normalized(rows, side):
    if side == "pair":
        return [(normalize_text(row["query"]), normalize_text(row["document"])) for row in rows]
    return [normalize_text(row[side]) for row in rows]


def test_repeated_and_shared_texts_equal_those_of_sets(open_source):
    sources = {
        "a": some_pairs(1, 60),
        "b": some_pairs(2, 25, WORDS[3:] + ["tree"]),
        "c": some_pairs(3, 8, ["fire", "smoke"]),
    }
    assert all(len(set(normalized(sources["a"], side))) < 60 for side in ("query", "document", "pair"))
    opened = [open_source(rows, number, name) for number, (name, rows) in enumerate(sources.items())]
    report, _ = make_report(opened, dict.fromkeys(sources, {}), [], {"rows_to_read": 2, "seed": 0})
    for described, rows in zip(report["sources"], sources.values(), strict=True):
        for side in ("query", "document", "pair"):
            assert described["distinct"][side] == len(set(normalized(rows, side)))
            assert described["repeated"][side] == len(rows) - len(set(normalized(rows, side)))
        for side in ("query", "document"):
            counts = Counter(normalized(rows, side))
            shown = described["most_repeated"][side]
            assert [entry["rows"] for entry in shown] == sorted(counts.values(), reverse=True)[:3]
            for entry in shown:  # with the text of the first row
                assert counts[normalize_text(entry["text"])] == entry["rows"]
                assert entry["text"] == next(
                    row[side] for row in rows if normalize_text(row[side]) == normalize_text(entry["text"])
                )
    expected = {}
    for first, second in combinations(sources, 2):
        shared = [
            len(set(normalized(sources[first], side)) & set(normalized(sources[second], side)))
            for side in ("document", "query")
        ]
        if any(shared):
            expected[first, second] = shared
    assert ("a", "b") in expected and ("a", "c") not in expected
    assert {tuple(e["sources"]): [e["document"], e["query"]] for e in report["shared"]} == expected


@pytest.mark.parametrize("keys_at_once", [1, 10, 10**6])
def test_shared_keys_over_the_whole_range(keys_at_once):
    generator = np.random.default_rng(0)
    extremes = np.array([-(2**63), 2**63 - 1, -1, 0, 1])
    pool = np.concatenate([generator.integers(-(2**63), 2**63 - 1, 40), extremes])
    sets = [set(generator.choice(pool, size, replace=False).tolist()) for size in (30, 0, 45, 12)]
    shared = count_shared([np.array(sorted(keys), dtype=np.int64) for keys in sets], keys_at_once)
    assert shared.tolist() == [[len(first & second) for second in sets] for first in sets]


def test_the_most_repeated_keys_are_chosen_by_count_then_key():
    distinct, most = count_repeated(np.array([5, 3, 9, 3, 9, 1, 7, 7, 7, 5, 4]), 3)
    assert distinct.tolist() == [1, 3, 4, 5, 7, 9]
    assert most == [(7, 3), (3, 2), (5, 2)]
    assert count_repeated(np.array([2, 1]), 3)[1] == []


def test_equal_pairs_have_both_sides_equal():
    rows = {"query": ["a b", "a", "A.", "a"], "document": ["c", "b c", "B, c", None]}
    _, _, pairs = pair_keys(rows)
    assert len(set(pairs.tolist())) == 3 and pairs[1] == pairs[2]


def test_blank_texts_of_a_hub_set_are_counted(open_source):
    opened = open_source(
        [{"query": "a", "document": " "}, {"query": None, "document": ""}, {"query": "-", "document": "+"}]
    )
    report, _ = make_report([opened], {"one": {}}, [], {"rows_to_read": 1, "seed": 0})
    assert report["sources"][0]["blank"] == {"query": 1, "document": 2}
    page = audit_page({**report, "settings": {"sample_rows": 1, "tokenizer": "t"}})
    assert "one: 1 queries, 2 documents" in page


def write_beir(directory):
    """Five documents with titles, and four queries, of which three are judged and two have a relevant document."""
    directory.mkdir()
    texts = ["Stone house.", "river river", "paper light", "light house water", "nothing of it"]
    documents = [{"_id": i, "title": "Water" if i < 2 else "", "text": text} for i, text in enumerate(texts)]
    write_jsonl(documents, directory / "corpus.jsonl.gz")
    queries = ["River!", "stone, water", "LIGHT", "paper"]
    write_jsonl([{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)], directory / "queries.jsonl")
    (directory / "qrels").mkdir()
    judged = "query-id\tcorpus-id\tscore\nq0\t1\t1\nq1\t0\t2\nq2\t2\t0\n"
    (directory / "qrels" / "test.tsv").write_text(judged)
    forms = [{normalize_text(f"{d['title']} {d['text']}"), normalize_text(d["text"])} for d in documents]
    return {"queries": [{"river"}, {"stone water"}], "documents": forms}


def test_rows_with_texts_of_evaluation_sets_equal_those_of_sets(open_source, tmp_path):
    rows = some_pairs(4, 80) + [{"query": "water, stone house", "document": "Water: River River"}]
    expected_texts = write_beir(tmp_path / "beir")
    (tmp_path / "sts.tsv").write_text("sentence1\tlabel\tsentence2\nStone Light\triver\tpaper\nfire\triver\t\n")
    held_out = [
        part
        for path in ("beir", "sts.tsv")
        for part in EvaluationSet.from_config(str(tmp_path / path), "evaluation_sets[0]").read()
    ]
    assert [(part.name, part.kind, part.count) for part in held_out] == [
        ("beir", "queries", 2),
        ("beir", "documents", 5),
        ("sts", "sentence1", 2),
        ("sts", "sentence2", 1),
    ]
    found = find_overlaps(open_source(rows).keys, held_out, 3)
    hits = {"query": set(), "document": set()}
    for kind, texts in expected_texts.items():
        for side, hit_rows in hits.items():
            present = normalized(rows, side)
            expected = [row for row, text in enumerate(present) if any(text in forms for forms in texts)]
            hit_rows.update(expected)
            overlap = next(o for o in found["beir"].overlaps if (o.kind, o.side) == (kind, side))
            assert overlap.rows == len(expected) > 0
            assert overlap.texts == sum(bool(forms & set(present)) for forms in texts)
            assert overlap.examples == expected[:3]
    assert found["beir"].rows == len(hits["query"] | hits["document"])
    assert found["beir"].rows_with_both == len(hits["query"] & hits["document"]) > 0
    assert {overlap.kind for overlap in found["sts"].overlaps} == {"sentence1", "sentence2"}


def test_without_judgements_every_query_counts(tmp_path):
    write_beir(tmp_path / "beir")
    (tmp_path / "beir" / "qrels" / "test.tsv").unlink()
    assert EvaluationSet(path=str(tmp_path / "beir")).read()[0].count == 4


def test_an_evaluation_set_that_cannot_be_read_is_named(tmp_path):
    write_jsonl([{"headline": "a", "label": 3}], tmp_path / "news.jsonl")
    with pytest.raises(ValueError, match=r"news.jsonl: no column is called .*columns are headline, label.*columns: \["):
        EvaluationSet(path=str(tmp_path / "news.jsonl")).read()
    assert EvaluationSet(path=str(tmp_path / "news.jsonl"), columns=["headline"]).read()[0].count == 1
    with pytest.raises(ValueError, match="news.jsonl, line 1: no column 'body'"):
        EvaluationSet(path=str(tmp_path / "news.jsonl"), columns=["body"]).read()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EvaluationSet(path=str(tmp_path / "nowhere")).read()
    (tmp_path / "bad.tsv").write_text("text\tlabel\nfine\t1\nno label\n")
    with pytest.raises(ValueError, match="bad.tsv, line 3: 1 cells"):
        EvaluationSet(path=str(tmp_path / "bad.tsv")).read()
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(b"text\nsome\n" * 99)[:-9])
    with pytest.raises(ValueError, match="cut.tsv.gz, after line 198: the gzip stream"):
        EvaluationSet(path=str(tmp_path / "cut.tsv.gz")).read()
    write_beir(tmp_path / "beir")
    (tmp_path / "beir" / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="queries.jsonl: neither it nor"):
        EvaluationSet(path=str(tmp_path / "beir")).files()


def test_summary_of_lengths():
    summary = summarize_lengths(np.array([*range(1, 100), 9000], dtype=np.int32))
    assert summary == {
        **{"texts": 100, "mean": 139.5, "p50": 51, "p90": 91, "p99": 9000, "max": 9000},
        **{"over_512": 1, "over_2048": 1, "over_8192": 1},
    }
    assert summarize_lengths(np.array([512, 513, 2048, 2049]))["over_512"] == 3
    assert summarize_lengths(np.array([512, 513, 2048, 2049]))["over_2048"] == 1
    assert json.dumps(summarize_lengths(np.array([], dtype=np.int32))) == '{"texts": 0}'


def test_chosen_rows_are_distinct_and_belong_to_the_source_and_the_seed():
    rows = choose_rows(10**9, 500, 0, "paq")
    assert rows == sorted(set(rows)) and len(rows) == 500
    assert rows == choose_rows(10**9, 500, 0, "paq")
    assert rows != choose_rows(10**9, 500, 1, "paq") and rows != choose_rows(10**9, 500, 0, "gooaq")
    assert choose_rows(3, 500, 0, "paq") == [0, 1, 2]
