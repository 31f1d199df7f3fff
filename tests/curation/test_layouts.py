"""Rows as other libraries publish them are the pairs that a person would read in them."""

import json

import datasets
import pytest

from curation import sources as sources_module
from curation.layouts import converted, has_negatives, layout_of, unknown_layout
from curation.sources import Source, open_pairs
from textfiles.rows import RowBatch

PASSAGES = {
    "query_id": "1",
    "query": "q",
    "positive_passages": [{"docid": "a", "title": "T", "text": "one"}, {"docid": "b", "title": "", "text": "two"}],
    "negative_passages": [{"docid": "c", "title": "U", "text": "no"}, {"docid": "d", "text": "none"}],
}
CASES = [
    ("sentence-transformers", {"anchor": "q", "positive": "one"}, [("q", "one", [])]),
    (
        "sentence-transformers",
        {"anchor": "q", "positive": "one", "negative_1": "b", "negative_2": None, "negative": "a"},
        [("q", "one", ["b", "a"])],
    ),
    ("flagembedding", {"query": "q", "pos": ["one", "two"], "neg": ["n"]}, [("q", "one", ["n"]), ("q", "two", ["n"])]),
    ("flagembedding", {"query": "q", "pos": ["one"]}, [("q", "one", [])]),
    ("tevatron", PASSAGES, [("q", "T one", ["U no", "none"]), ("q", "two", ["U no", "none"])]),
]


@pytest.mark.parametrize(("layout", "row", "expected"), CASES)
def test_a_row_is_read_as_pairs(layout, row, expected):
    batch = converted(RowBatch("file, line", [4], [{**row, "score": 7}]), layout)
    assert [(pair["query"], pair["document"], pair["negatives"]) for pair in batch.rows] == expected
    assert all(pair["score"] == 7 for pair in batch.rows) and list(batch.numbers) == [4] * len(expected)
    assert layout_of(row) == layout
    assert has_negatives(layout, row) == bool(expected[0][2])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path, layout, **settings):
    prefixes = {"query_prefix": "search_query", "document_prefix": "search_document"}
    return Source(name="s", path=str(path), layout=layout, negatives="negatives", **prefixes, **settings)


@pytest.mark.parametrize(("layout", "row", "expected"), CASES)
def test_a_source_in_a_layout_is_opened_as_any_other(tmp_path, layout, row, expected):
    file = write(tmp_path / "a.jsonl", [row] * 3)
    pairs = open_pairs(source(file, layout), tmp_path / "cache")
    assert [tuple(pair.values()) for pair in pairs.to_list()] == expected * 3
    limited = open_pairs(source(file, layout, limit=2), tmp_path / "cache", others=True)
    assert len(limited) == 2
    others = json.loads(limited[0]["others"])
    assert others == {key: value for key, value in row.items() if key == "query_id"}


def test_a_hub_data_set_in_a_layout_is_copied_once(tmp_path, monkeypatch):
    rows = datasets.Dataset.from_list([{"anchor": f"q{n}", "positive": f"p{n}", "negative": f"n{n}"} for n in range(3)])
    monkeypatch.setattr(sources_module, "load_hub_split", lambda *_: rows)
    for _ in range(2):
        pairs = open_pairs(source("owner/name", "sentence-transformers"), tmp_path)
        assert pairs.to_list()[2] == {"query": "q2", "document": "p2", "negatives": ["n2"]}
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    bad = datasets.Dataset.from_list([{"anchor": "q", "positive": " "}])
    monkeypatch.setattr(sources_module, "load_hub_split", lambda *_: bad)
    with pytest.raises(ValueError, match="owner/name, split train, row 1, column 'positive': the text is blank"):
        open_pairs(source("owner/name", "sentence-transformers"), tmp_path)


@pytest.mark.parametrize(
    ("layout", "row", "message"),
    [
        ("sentence-transformers", {"anchor": "q", "positive": ""}, "line 1, column 'positive': the text is blank"),
        ("sentence-transformers", {"anchor": "q"}, "line 1: no column 'positive'"),
        ("sentence-transformers", {"anchor": "q", "positive": "p", "negative": 3}, "column 'negative': the int '3'"),
        ("sentence-transformers", {"anchor": "q", "positive": "p", "document": "d"}, "a column 'document' beside"),
        ("flagembedding", {"query": "q", "pos": "p"}, "column 'pos': the str 'p', not a list of texts"),
        ("flagembedding", {"query": None, "pos": ["p"]}, "column 'query': null, not a text"),
        (
            "tevatron",
            {"query": "q", "positive_passages": ["p"]},
            "column 'positive_passages': .* not a list of passages",
        ),
        ("tevatron", {"query": "q", "positive_passages": [{"title": "t"}]}, "no column 'text'"),
    ],
)
def test_what_a_row_lacks_is_named(tmp_path, layout, row, message):
    file = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1.*" + message.removeprefix("line 1")):
        open_pairs(source(file, layout), tmp_path / "cache")


def test_unknown_names_are_answered_with_the_keys_that_map_them(tmp_path):
    with pytest.raises(ValueError, match="layout: there is no 'flagembeding'; did you mean 'flagembedding'?"):
        source(tmp_path, "flagembeding")
    assert layout_of(["question", "answer"]) is None
    said = str(unknown_layout(["query", "documents"], "my.jsonl"))
    assert "my.jsonl: no column 'document'; did you mean 'documents'?" in said
    for part in ("anchor, positive", "query, pos, neg", "positive_passages", "keys query, document and negatives"):
        assert part in said
    assert str(unknown_layout([], "my.jsonl")) == "my.jsonl: no rows."
