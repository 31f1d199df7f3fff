import datetime
import gzip
import json

import datasets
import pyarrow as pa
import pytest

from curation import corpus as module
from curation.corpus import CorpusSource, open_corpus
from textfiles.parquet import write_parquet
from textfiles.writing import write_jsonl

ROWS = [
    {"name": "a", "text": "the river", "year": 1900, "share": 1, "tags": ["x", "y"], "note": "n"},
    {"name": "b", "text": "  ", "year": None, "share": 0.5, "tags": None, "note": 3},
    {"name": "c", "text": "a stone", "year": 2000, "share": 2.5, "tags": [], "note": "o"},
]


def opened(tmp_path, texts, **settings):
    return open_corpus(CorpusSource(texts=str(texts), **settings), tmp_path / "work")


def test_columns_of_json_keep_their_types_and_blank_texts_are_counted(tmp_path):
    write_jsonl(ROWS, tmp_path / "corpus.gz.jsonl.gz")
    columns = ["year", "share", "tags", "note", "text"]
    corpus = opened(tmp_path, tmp_path / "corpus.gz.jsonl.gz", id_column="name", columns=columns)
    rows = corpus.read(range(3))
    assert (rows.texts, rows.blank, len(corpus)) == (["the river", "a stone"], 1, 3)
    assert rows.table.to_pydict() == {
        "id": ["a", "c"], "year": [1900, 2000], "share": [1.0, 2.5], "tags": [["x", "y"], []], "note": ["n", "o"],
        "text": ["the river", "a stone"],
    }  # fmt: skip
    assert [str(field.type) for field in corpus.schema] == [
        "string",
        "int64",
        "double",
        "list<item: string>",
        "string",
        "string",
    ]
    assert corpus.read([2, 0]).table["id"].to_pylist() == ["c", "a"]
    again = opened(tmp_path, tmp_path / "corpus.gz.jsonl.gz", id_column="name", columns=columns)  # from the copy
    assert again.read(range(3)).table.equals(rows.table)


def test_every_kind_of_file_gives_the_same_texts(tmp_path):
    expected = ["one text", "two, with a comma", "three"]
    (tmp_path / "t.txt").write_text("\n".join(expected) + "\n", encoding="utf-8")
    with gzip.open(tmp_path / "g.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(expected))
    write_jsonl([{"text": text} for text in expected], tmp_path / "j.jsonl")
    (tmp_path / "c.csv").write_text('text\none text\n"two, with a comma"\nthree\n', encoding="utf-8")
    (tmp_path / "v.tsv").write_text("text\n" + "\n".join(expected) + "\n", encoding="utf-8")
    write_parquet([pa.table({"text": expected})], pa.schema({"text": pa.string()}), tmp_path / "p.parquet")
    for name in ("t.txt", "g.txt.gz", "j.jsonl", "c.csv", "v.tsv", "p.parquet"):
        corpus = open_corpus(CorpusSource(texts=str(tmp_path / name)), tmp_path / f"work-{name}")
        rows = corpus.read(range(3))
        assert rows.texts == expected, name
        assert rows.table.to_pydict() == {"id": [0, 1, 2]}
    together = opened(tmp_path, tmp_path / "*.t?[tv]").read(range(6))
    assert together.texts == expected * 2 and together.table["id"].to_pylist() == list(range(6))


def test_a_beir_corpus_is_read_as_evaluation_reads_it(tmp_path):
    rows = [{"_id": "d1", "title": "Rivers", "text": "are old", "metadata": {}}, {"_id": 7, "text": "no title"}]
    write_jsonl(rows, tmp_path / "beir" / "corpus.jsonl.gz")
    write_jsonl([{"_id": "q", "text": "not of the corpus"}], tmp_path / "beir" / "queries.jsonl")
    found = opened(tmp_path, tmp_path / "beir", columns=["title"]).read(range(2))
    assert found.texts == ["Rivers are old", "no title"]
    assert found.table.to_pydict() == {"id": ["d1", "7"], "title": ["Rivers", None]}
    with pytest.raises(ValueError, match="BEIR layout joins title and text"):
        CorpusSource(texts=str(tmp_path / "beir"), text_column="title")


def test_whole_numbers_as_ids_stay_numbers(tmp_path):
    write_jsonl([{"n": 5, "text": "a"}, {"n": 3, "text": "b"}], tmp_path / "a.jsonl")
    table = opened(tmp_path, tmp_path / "a.jsonl", id_column="n").read(range(2)).table
    assert table["id"].type == pa.int64() and table["id"].to_pylist() == [5, 3]


def test_dates_of_parquet_are_iso_texts(tmp_path):
    table = pa.table({"text": ["a"], "day": [datetime.date(2020, 1, 2)]})
    write_parquet([table], table.schema, tmp_path / "p.parquet")
    assert opened(tmp_path, tmp_path / "p.parquet", columns=["day"]).read([0]).table["day"].to_pylist() == [
        "2020-01-02"
    ]


def hub(monkeypatch, **columns):
    rows = datasets.Dataset.from_dict(columns)
    monkeypatch.setattr(module, "load_hub_split", lambda *_: rows)


def test_a_hub_data_set_is_read_in_place_with_its_own_types(tmp_path, monkeypatch):
    hub(monkeypatch, key=[4, 5, 6], body=["a", " ", "c"], tags=[["x"], [], ["y", "z"]])
    settings = {"text_column": "body", "id_column": "key", "columns": ["tags", "body"], "limit": 3}
    corpus = opened(tmp_path, "owner/name", **settings)
    rows = corpus.read(range(3))
    assert (rows.texts, rows.blank) == (["a", "c"], 1)
    assert rows.table.to_pydict() == {"id": [4, 6], "tags": [["x"], ["y", "z"]], "body": ["a", "c"]}
    assert not (tmp_path / "work").exists()
    hub(monkeypatch, key=["q", None], body=["a", None])
    with pytest.raises(ValueError, match="owner/name, split train, row 2, column 'body': null, not a text"):
        opened(tmp_path, "owner/name", text_column="body").read(range(2))
    hub(monkeypatch, key=["q", None], body=["a", "b"])
    with pytest.raises(ValueError, match="row 2, column 'key': null; name another id_column"):
        opened(tmp_path, "owner/name", text_column="body", id_column="key").read(range(2))
    with pytest.raises(ValueError, match="no column 'txt'; the columns are key, body"):
        opened(tmp_path, "owner/name", text_column="txt")
    hub(monkeypatch, key=[0.5], body=["a"])
    with pytest.raises(ValueError, match="'key': double, neither text nor whole number"):
        opened(tmp_path, "owner/name", text_column="body", id_column="key")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"text": "a"}, {"text": 3}], {}, "line 2, column 'text': the int '3', not a text"),
        ([{"text": "a"}], {"id_column": "k"}, "line 1: no column 'k'"),
        ([{"text": "a"}], {"columns": ["txt"]}, "no column 'txt'; did you mean 'text'"),
        ([{"txt": "a"}], {}, "line 1: no column 'text'; did you mean 'txt'"),
        ([], {}, "no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, settings, message):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, tmp_path / "a.jsonl", **settings)
    assert not (tmp_path / "work" / "texts.arrow").exists()


def test_settings_that_cannot_be_meant_are_refused(tmp_path):
    for settings, message in (
        ({"columns": ["vector"]}, "'vector' is a column of every vector file"),
        ({"columns": ["a", "a"]}, "name each column once"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"text_column": ""}, "text_column must be a non-empty string"),
    ):
        with pytest.raises(ValueError, match=message):
            CorpusSource(texts="x", **settings)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"a\.txt: lines of text have no column 'url'"):
        opened(tmp_path, tmp_path / "a.txt", columns=["url"])


def test_limit_takes_the_first_rows_of_all_files(tmp_path):
    for name in "ab":
        write_jsonl([{"text": f"{name}{n}"} for n in range(3)], tmp_path / f"{name}.jsonl")
    assert opened(tmp_path, tmp_path / "?.jsonl", limit=4).read(range(4)).texts == ["a0", "a1", "a2", "b0"]
