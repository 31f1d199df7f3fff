import gzip
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.files import read_jsonl, write_jsonl
from curation.sources import Source, load_pairs

ROWS = [{"query": f"query {number}", "document": f"document {number}", "other": number} for number in range(5)]


def source(path, **fields):
    return Source(name="s", path=str(path), query_prefix="search_query", document_prefix="search_document", **fields)


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_come_back_from_jsonl_as_they_were_written(tmp_path, name):
    rows = [*ROWS, {"query": "Ünïcode \u2028 and\nlines", "document": "d", "other": None}]
    assert write_jsonl(rows, tmp_path / name) == 6
    assert list(read_jsonl(tmp_path / name)) == rows
    pairs = load_pairs(source(tmp_path / name))
    assert pairs.column_names == ["query", "document"]
    assert pairs.to_list() == [{"query": row["query"], "document": row["document"]} for row in rows]


def test_parquet_directory_and_glob_give_the_rows_of_sorted_files(tmp_path):
    for name, part in (("b.parquet", ROWS[3:]), ("a.parquet", ROWS[:3])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / name)
    (tmp_path / "notes.md").write_text("passed over")
    (tmp_path / ".partial-1-c.jsonl").write_text('{"half')
    expected = [row["query"] for row in ROWS]
    assert load_pairs(source(tmp_path))["query"] == expected
    assert load_pairs(source(tmp_path / "*.parquet"))["query"] == expected
    assert load_pairs(source(tmp_path, limit=4))["query"] == expected[:4]


def test_columns_are_renamed_and_negatives_kept(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": "x", "d": "y", "n": ["z", "w"]}, {"q": "x", "d": "y", "n": []}])
    pairs = load_pairs(source(path, query="q", document="d", negatives="n"))
    assert pairs.to_list() == [
        {"query": "x", "document": "y", "negatives": ["z", "w"]},
        {"query": "x", "document": "y", "negatives": []},
    ]


GOOD = {"query": "q", "document": "d", "negatives": ["n"]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"query": "q"}, "no column 'document'; the columns are query"),
        ({**GOOD, "query": 3}, "column 'query': the int '3'"),
        ({**GOOD, "document": None}, "column 'document': the NoneType"),
        ({**GOOD, "document": " \n\t"}, "column 'document': the text is blank"),
        ({**GOOD, "query": "\ud800"}, "column 'query': not valid Unicode"),
        ({**GOOD, "negatives": "n"}, "column 'negatives': the str 'n', not a list"),
        ({**GOOD, "negatives": ["n", ""]}, "column 'negatives': the text is blank"),
        ('{"query": "q", ', "not valid JSON"),
        ("[1]", "a list, not an object"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(tmp_path, bad, message):
    path = write(tmp_path / "a.jsonl", [GOOD, "", bad, GOOD])
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3") + "[,:] " + re.escape(message)):
        load_pairs(source(path, negatives="negatives"))


def test_a_bad_parquet_row_is_counted_across_batches(tmp_path):
    rows = [{"query": "q", "document": "d"}] * 25_000
    pq.write_table(pa.Table.from_pylist([*rows, {"query": "q", "document": None}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet, row 25001, column 'document'"):
        load_pairs(source(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match="no column 'body'; the columns are query, document"):
        load_pairs(source(tmp_path / "a.parquet", document="body"))


def test_damaged_files_are_named(tmp_path):
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 500).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-40])
    (tmp_path / "text.jsonl.gz").write_text("not gzip")
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "latin.jsonl").write_bytes('{"query": "é"}'.encode("latin-1"))
    for name in ("cut.jsonl.gz", "text.jsonl.gz", "bad.parquet", "latin.jsonl"):
        with pytest.raises(ValueError, match=f"{name}.*(damaged|readable|UTF-8)"):
            load_pairs(source(tmp_path / name))


def test_missing_empty_and_unreadable_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.jsonl"):
        load_pairs(source(tmp_path / "nothing.jsonl"))
    with pytest.raises(ValueError, match="cannot read this kind of file"):
        load_pairs(source(write(tmp_path / "a.csv", ["query,document"])))
    with pytest.raises(ValueError, match="no rows in"):
        load_pairs(source(write(tmp_path / "empty.jsonl", [])))


def test_a_hub_data_set_is_checked_like_a_file(monkeypatch):
    rows = datasets.Dataset.from_list([{"title": "t", "body": "b"}, {"title": "t", "body": ""}])
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, name, split, revision: asked.append((path, split)) or rows
    )
    hub = source("owner/name", split="validation", query="title", document="body", limit=1)
    assert load_pairs(hub).to_list() == [{"query": "t", "document": "b"}]
    assert asked == [("owner/name", "validation")]
    with pytest.raises(ValueError, match="owner/name, split train, row 2, column 'body'"):
        load_pairs(source("owner/name", query="title", document="body"))


def test_config_sections_are_refused_with_the_place_and_the_nearest_key():
    good = {"name": "s", "path": "p.jsonl", "query_prefix": "search_query", "document_prefix": ""}
    assert Source.from_dict(good, "c.yaml") == Source(**good)
    for change, message in [
        ({"documnet": "d"}, "unknown key 'documnet'; did you mean 'document'"),
        ({"query_prefix": "searchquery"}, "query_prefix: .*search_query, search_document"),
        ({"limit": 0}, "limit must be a positive number"),
        ({"path": ""}, "path must be a non-empty string"),
    ]:
        with pytest.raises(ValueError, match=r"^c.yaml, sources\[0\]: " + message):
            Source.from_dict({**good, **change}, "c.yaml, sources[0]")
    del good["document_prefix"]
    with pytest.raises(ValueError, match="'document_prefix' is missing"):
        Source.from_dict(good, "c.yaml")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_jsonl(ROWS, tmp_path / "a.jsonl.gz")

    def interrupted():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(interrupted(), tmp_path / "a.jsonl.gz")
    assert list(read_jsonl(tmp_path / "a.jsonl.gz")) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl.gz"]


def test_gzipped_rows_give_the_same_bytes_under_any_name(tmp_path):
    write_jsonl(ROWS, tmp_path / "a.jsonl.gz")
    write_jsonl(ROWS, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
