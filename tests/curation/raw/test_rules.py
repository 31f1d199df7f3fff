"""Rules give the pairs that one would write down by hand, count what they leave out, and name what is wrong."""

import datetime
import re
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curation.raw import rows as raw_rows
from curation.raw import rules
from curation.raw.rows import open_raw_rows
from curation.raw.rules import PairRule, RawSource
from curation.sources import Source
from textfiles.lengths import summarize
from textfiles.settings import read_section
from textfiles.writing import write_jsonl

CONFIGS = Path(__file__).resolve().parents[3] / "recipes" / "configs"


def source(**fields):
    return RawSource(**{"name": "raw", "path": "raw.jsonl"} | fields)


def outcomes(row, **fields):
    """Of a row: (query, document) of each pair, or the reason why there is none."""
    made = PairRule(source(**fields)).pairs(row, "raw.jsonl, line 7")
    return [outcome if isinstance(outcome, str) else (outcome["query"], outcome["document"]) for outcome in made]


def opened(tmp_path, **fields):
    return list(open_raw_rows(source(**fields), tmp_path / "copy.arrow").read(0, 1))


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        ({"query": "title", "document": "body"}, {"title": " Tea\n", "body": "A drink."}, [("Tea", "A drink.")]),
        (
            {"query": "q.text", "document": "{title}\n\n{a.text} {{1}}"},
            {"q": {"text": "why?"}, "title": "T", "a": {"text": "so"}},
            [("why?", "T\n\nso {1}")],
        ),
        ({"query": "set.0", "document": "set.1"}, {"set": ["a", "b", "c"]}, [("a", "b")]),
        ({"query": "set.0", "document": "set.1"}, {"set": ["a"]}, [rules.NO_DOCUMENT]),
        (
            {"query": "t", "document": "each", "each": "cited"},
            {"t": "a", "cited": ["b", "c"]},
            [("a", "b"), ("a", "c")],
        ),
        (
            {"query": "{t}: {each.title}", "document": "each.abstract", "each": "paper.cites"},
            {"t": "a", "paper": {"cites": [{"title": "b", "abstract": "B"}, {"title": "c", "abstract": None}]}},
            [("a: b", "B"), rules.NO_DOCUMENT],
        ),
        ({"query": "t", "document": "each", "each": "cited"}, {"t": "a", "cited": []}, [rules.NO_LIST]),
        ({"query": "t", "document": "each", "each": "cited"}, {"t": "a", "cited": None}, [rules.NO_LIST]),
        ({"pairs_of": "set"}, {"set": ["a", "b", "A!", "a"]}, [("a", "b"), ("b", "A!"), rules.SAME_TEXT]),
        ({"pairs_of": "set"}, {"set": ["alone"]}, [rules.NO_LIST]),
    ],
)
def test_each_kind_of_rule(rule, row, expected):
    assert outcomes(row, **rule) == expected


def test_hard_negatives_are_texts_or_lists_of_them():
    def made(row, **rule):
        (pair,) = PairRule(source(query="q", document="d", **rule)).pairs({"q": "a", "d": "the b", **row}, "")
        return pair["negatives"]

    assert made({"n": "x"}, negatives=["n"]) == ["x"]
    assert made({"n": ["x", None, " ", "y"], "m": None}, negatives=["n", "m"]) == ["x", "y"]
    assert made({"n": ["instruction", "x"]}, negatives=["n.1"]) == ["x"]
    assert made({"n": {"t": "x", "u": "y"}}, negatives=["{n.t}: {n.u}"]) == ["x: y"]
    assert made({"n": ["The B!", "c"]}, negatives=["n"]) == ["c"]  # equal to the document
    with pytest.raises(ValueError, match="column 'n': the int '3', not a text"):
        made({"n": 3}, negatives=["n"])


def test_only_rows_with_the_value_that_where_says_make_pairs():
    rule = {"query": "q", "document": "d", "where": {"task": ["one", "two"], "lang": "en"}}
    row = {"q": "a", "d": "b", "task": "two", "lang": "en"}
    assert outcomes(row, **rule) == [("a", "b")]
    assert outcomes({**row, "task": "three"}, **rule) == outcomes({**row, "lang": None}, **rule) == [rules.OTHER_VALUE]
    assert PairRule(source(**rule)).columns == ["q", "d", "task", "lang"]


def test_a_layout_is_a_rule_whose_blank_texts_are_left_out():
    rule = PairRule(source(layout="flagembedding", keep=["id"]))
    row = {"query": "q", "pos": ["one", "", None], "neg": ["n", None], "id": 4, "more": 1}
    assert list(rule.pairs(row, "")) == [
        {"query": "q", "document": "one", "negatives": ["n"], "id": 4}, rules.NO_DOCUMENT, rules.NO_DOCUMENT,
    ]  # fmt: skip
    assert list(rule.pairs({"query": None, "pos": ["one"]}, "")) == [rules.NO_QUERY]
    assert [rule.reads(column) for column in ("query", "neg", "id", "more")] == [True, True, True, False]


def test_why_a_row_makes_no_pair():
    def outcome(query, document):
        limits = {"query_chars": [2, 5], "document_chars": [None, 9]}
        (made,) = outcomes({"q": query, "d": document}, query="q", document="d", **limits)
        return made

    assert outcome("tea", "a drink") == ("tea", "a drink")
    assert outcome(None, "a drink") == outcome("  ", "a drink") == rules.NO_QUERY
    assert outcome("tea", None) == outcome("tea", "\n") == rules.NO_DOCUMENT
    assert outcome(" t ", "a drink") == outcome("coffee", "a drink") == rules.QUERY_LENGTH  # measured as it is written
    assert [outcome(text, "a drink")[0] for text in ("te", "teas ", "teacu")] == ["te", "teas", "teacu"]
    assert outcome("tea", "a hot drink") == rules.DOCUMENT_LENGTH
    assert outcome("Tea", "tea?") == rules.SAME_TEXT
    assert outcome("tea", "dr\ud83dink") == rules.NOT_UNICODE
    assert outcomes({"d": "a drink"}, query="q", document="d") == [rules.NO_QUERY]  # no such column in this row


def test_kept_columns_stand_beside_the_pair():
    rule = PairRule(source(query="q", document="d", keep=["id", "tags"]))
    assert rule.columns == ["q", "d", "id", "tags"]
    row = {"q": "tea", "d": "a drink", "id": 3, "unused": 1}
    assert list(rule.pairs(row, "")) == [{"query": "tea", "document": "a drink", "id": 3, "tags": None}]
    assert list(rule.pairs({**row, "tags": ["\udc00"]}, "")) == [rules.NOT_UNICODE]


@pytest.mark.parametrize(
    ("rule", "row", "message"),
    [
        ({"query": "q", "document": "d"}, {"q": 3, "d": "x"}, "line 7, column 'q': the int '3', not a text; name an"),
        ({"query": "q", "document": "d"}, {"q": "x", "d": ["y"]}, "column 'd': .* not a text; name it as `each`"),
        ({"query": "q.a", "document": "d"}, {"q": [{"a": "x"}], "d": "y"}, "column 'q': .* has no 'a'; name the list"),
        ({"query": "q.a", "document": "d"}, {"q": "x", "d": "y"}, "column 'q': the str 'x' has no 'a'; correct"),
        ({"pairs_of": "set"}, {"set": "a b"}, "column 'set': the str 'a b', not a list"),
        ({"pairs_of": "set"}, {"set": ["a", 2]}, "the int '2', not a text"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(rule, row, message):
    with pytest.raises(ValueError, match=r"raw\.jsonl, line 7.*" + message.removeprefix("line 7")):
        outcomes(row, **rule)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../up", "query": "q", "document": "d"}, "name must be letters"),
        ({"query": "q"}, "needs query and document, or pairs_of"),
        ({"query": "q", "document": "q"}, "must be different texts"),
        ({"pairs_of": "set", "query": "q"}, "leave query, document, negatives and each out"),
        ({"layout": "tevatron", "query": "q"}, "layout names the texts: leave query"),
        ({"layout": "tevatro"}, "there is no 'tevatro'; did you mean 'tevatron'"),
        ({"query": "q", "document": "d", "negatives": "n"}, "negatives must be a list of texts"),
        ({"query": "q", "document": "d", "where": ["n"]}, "where must map columns to values"),
        ({"query": "q", "document": "d", "each": "list"}, "must use an element"),
        ({"query": "q", "document": "each"}, "each names the list"),
        ({"query": "q", "document": "{d"}, "document: the template '{d' is malformed"),
        ({"query": "q", "document": "{d!r}"}, "must have paths alone"),
        ({"query": "q..a", "document": "d"}, "query: 'q..a' is no path"),
        ({"query": "q", "document": "d", "query_chars": [5, 2]}, "at least 5 and at most 2"),
        ({"query": "q", "document": "d", "document_chars": 5}, r"document_chars must be \[least, most\]"),
        ({"query": "q", "document": "d", "keep": ["query"]}, "keep must name different columns"),
        ({"query": "q", "document": "d", "query_prefix": "search"}, "query_prefix: "),
        ({"query": "q", "document": "d", "available": True}, 'write "yes" in quotation marks'),
        ({"query": "q", "document": "d", "limit": 0}, "limit must be at least 1"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        source(**fields)


def test_rows_of_several_files_keep_their_values_and_their_names(tmp_path):
    write_jsonl([{"q": "a", "n": {"d": "x"}, "skip": 1}], tmp_path / "1.jsonl")
    (tmp_path / "2.jsonl").write_text('{"q": 5, "n": {"d": null}}\n\n{"q": "c\\ud800"}\n')
    pq.write_table(pa.table({"q": ["p", "last"], "n": [{"d": "y"}, None], "skip": [1, 2]}), tmp_path / "3.parquet")
    rows = open_raw_rows(source(path=str(tmp_path), query="q", document="n.d", limit=4), tmp_path / "copy.arrow")
    assert list(rows.read(0, len(rows))) == [
        (f"{tmp_path}/1.jsonl, line 1", {"q": "a", "n": {"d": "x"}}),
        (f"{tmp_path}/2.jsonl, line 1", {"q": 5, "n": {"d": None}}),
        (f"{tmp_path}/2.jsonl, line 3", {"q": "c\ud800"}),
        (f"{tmp_path}/3.parquet, row 1", {"q": "p", "n": {"d": "y"}}),
    ]
    assert [where for where, _ in rows.read(1, 3)] == [f"{tmp_path}/2.jsonl, line {line}" for line in (1, 3)]


def test_no_text_is_made_of_bytes_or_dates(tmp_path):
    row = {
        "title": "café".encode(),
        "day": datetime.date(2026, 11, 30),
        "body": "text",
        "more": "m",
        "price": Decimal("1.5"),
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "raw.parquet")
    path = str(tmp_path / "raw.parquet")
    for column in ("title", "day"):
        with pytest.raises(ValueError, match=r"raw.parquet, row 1: Object of type \w+ is not .*; name other columns"):
            opened(tmp_path, path=path, query=column, document="body")
    with pytest.raises(ValueError, match=r"raw.parquet, row 1, column 'title': a value of type bytes"):
        opened(tmp_path, path=path, query="body", document="more", keep=["title"])
    rows = opened(tmp_path, path=path, query="body", document="more", keep=["day", "price"])
    assert rows == [(f"{path}, row 1", {"body": "text", "more": "m", "day": "2026-11-30", "price": 1.5})]


def test_a_column_that_no_row_has_is_named(tmp_path):
    write_jsonl([{"q": "a"}, {"q": "b", "d": [{"t": "c"}]}], tmp_path / "raw.jsonl")
    path = str(tmp_path / "raw.jsonl")
    assert opened(tmp_path, path=path, query="q", document="each.t", each="d")  # one row that has it is enough
    (tmp_path / "copy.arrow").unlink()
    for rule, column in (
        ({"query": "q", "document": "body"}, "body"),
        ({"query": "q", "document": "each.x", "each": "d"}, "each.x"),
        ({"query": "q", "document": "d.4.t"}, "d.4.t"),
        ({"query": "q", "document": "d.0.t", "keep": ["id"]}, "id"),
    ):
        with pytest.raises(ValueError, match=rf"raw\.jsonl: no row has column '{re.escape(column)}'; .* are d, q"):
            opened(tmp_path, path=path, **rule)
        assert not (tmp_path / "copy.arrow").exists()
    pq.write_table(pa.table({"q": ["a"]}), tmp_path / "raw.parquet")
    with pytest.raises(ValueError, match=r"raw\.parquet: no column 'd'; the columns are q"):
        opened(tmp_path, path=str(tmp_path / "raw.parquet"), query="q", document="d")


def test_hub_data_sets(tmp_path, monkeypatch):
    nested = [{"q": "a", "d": [{"t": "x"}], "skip": 1}, {"q": "b", "d": [{"t": "y"}, {"t": "z"}], "skip": 2}]
    table = datasets.Dataset.from_list(nested)
    asked = []
    monkeypatch.setattr(raw_rows, "load_hub_split", lambda *given: asked.append(given) or table)
    hub = {"path": "own/er", "split": "train+test", "subset": "pair", "revision": "v1", "query": "q"}
    rows = open_raw_rows(source(**hub, document="each.t", each="d"), tmp_path / "copy.arrow")
    assert asked == [("own/er", "train+test", "pair", "v1")]
    assert list(rows.read(1, 2)) == [("hub data set own/er, split train+test, row 2", {"q": "b", "d": nested[1]["d"]})]
    assert len(open_raw_rows(source(**hub, document="d.0.t", limit=1), tmp_path / "copy.arrow")) == 1
    for rule, message in (
        ({"document": "body"}, "no column 'body'; the columns are q, d, skip"),
        ({"document": "each.x", "each": "d"}, "there is no column 'each.x'"),
        ({"document": "d.t"}, "there is no column 'd.t'"),
    ):
        with pytest.raises(ValueError, match="hub data set own/er, split train.test: " + message):
            open_raw_rows(source(**hub, **rule), tmp_path / "copy.arrow")


def test_lengths_are_summarized_as_numpy_does():
    # distinct, and 200 of them, so that each percentile falls on the end of a length, where it is decided
    lengths = np.random.default_rng(0).permutation(200) + 5
    values, counts = np.unique(lengths[:70], return_counts=True)
    more, more_counts = np.unique(lengths[70:], return_counts=True)
    summary = summarize([list(zip(values, counts, strict=True)), list(zip(more, more_counts, strict=True))])
    expected = np.percentile(lengths, [50, 90, 99], method="inverted_cdf")
    assert [summary["p50"], summary["p90"], summary["p99"]] == list(expected)
    assert summary["max"] == lengths.max() and summary["mean"] == pytest.approx(lengths.mean(), abs=0.05)


def test_the_config_has_the_29_sources_of_stage_2():
    entries = yaml.safe_load((CONFIGS / "raw_sources.yaml").read_text())["sources"]
    raw = [read_section(RawSource, entry, f"sources[{i}]") for i, entry in enumerate(entries)]
    stage_2 = [Source(**entry) for entry in yaml.safe_load((CONFIGS / "stage2.yaml").read_text())["sources"]]
    assert len(raw) == 29
    shared = ("name", "query_prefix", "document_prefix", "paper_rows")
    assert [[getattr(entry, key) for key in shared] for entry in raw] == [
        [getattr(entry, key) for key in shared] for entry in stage_2
    ]
    assert [entry.name for entry in raw if entry.available != rules.AVAILABLE] == ["s2orc_abstract_body"]


def test_every_source_of_the_config_says_what_was_verified():
    text = (CONFIGS / "raw_sources.yaml").read_text()
    for section in re.split(r"\n\n", text.split("sources:\n")[1]):
        assert re.search(r"# (not )?verified: ", section), section
