import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.rows import read_rows

ROWS = [{"a": "one", "b": 'say "two"'}, {"a": "é", "b": "four"}]
FILES = {
    "rows.jsonl": '{"a": "one", "b": "say \\"two\\""}\n\n{"a": "é", "b": "four"}',
    "rows.tsv": 'a\tb\none\tsay "two"\n\né\tfour\r\n',
    "rows.csv": 'a,b\none,"say ""two"""\n\né,four\n',
}


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_text_files_give_their_rows_and_lines(tmp_path, name, ending):
    file = tmp_path / (name + ending)
    write(file, FILES[name])
    last = 3 if "jsonl" in name else 4
    assert [row for _, row in read_rows(file, ("a", "b"))] == ROWS
    assert [where for where, _ in read_rows(file, ())][-1] == f"{file}, line {last}"
    with pytest.raises(ValueError, match=r"line [12]: no column 'c'; there are a, b"):
        list(read_rows(file, ("a", "c")))


def test_parquet_files_give_the_columns_that_are_wanted(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert [row for _, row in read_rows(tmp_path / "rows.parquet", ("b",))] == [{"b": row["b"]} for row in ROWS]
    with pytest.raises(ValueError, match=r"rows.parquet: no column 'c'; there are a, b"):
        list(read_rows(tmp_path / "rows.parquet", ("c",)))


def test_a_cell_of_a_csv_file_may_be_a_long_document(tmp_path):
    document = "long " * 100_000
    write(tmp_path / "rows.csv", f'a,b\n"{document}",x\n')
    assert [row["a"] for _, row in read_rows(tmp_path / "rows.csv", ("a",))] == [document]


CUT = gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9]  # always the same bytes: they name a test


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jsonl.gz", CUT, "after line 9: damaged, cut short or not UTF-8"),
        ("plain.tsv.gz", b"a\tb\n", "after line 0: damaged"),
        ("latin.tsv", "a\nfa\xe7ade\n".encode("latin-1"), "damaged, cut short or not UTF-8"),
        ("list.jsonl", b"[1]\n", "line 1: cannot be read .list instead of an object"),
        ("bad.jsonl", b'{"a": 1}\n{"a"\n', "line 2: cannot be read"),
        ("wide.tsv", b"a\tb\n1\t2\t3\n", "line 2: cannot be read .3 cells under 2 columns"),
        ("no.parquet", b"PAR1", "no.parquet: not a readable parquet file"),
        ("some.txt", b"a\n", "some.txt: cannot read this kind of file"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}" if name not in message else message):
        list(read_rows(tmp_path / name, ("a",)))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        list(read_rows(tmp_path / "none.jsonl", ()))
