import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textfiles.rows import column_names, find_files, read_row_batches, read_rows, require_columns, rows_of
from textfiles.texts import id_of, number_of, text_lists_of, text_of, texts_of

ROWS = [{"a": "one", "b": 'say "two"'}, {"a": "é", "b": "four"}]
FILES = {
    "rows.jsonl": '{"a": "one", "b": "say \\"two\\""}\n\n{"a": "é", "b": "four"}',
    "rows.tsv": 'a\tb\none\tsay "two"\n\né\tfour\r\n',
    "rows.csv": 'a,b\none,"say ""two"""\n\né,four\n',
}


def write(path, text, encoding="utf-8"):
    content = text if isinstance(text, bytes) else text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_text_files_give_their_rows_and_lines_with_a_byte_order_mark_or_without(tmp_path, name, ending, encoding):
    file = write(tmp_path / (name + ending), FILES[name], encoding)
    last = 3 if "jsonl" in name else 4
    assert [row for _, row in read_rows(file, ("a", "b"))] == ROWS
    assert [where for where, _ in read_rows(file, ())][-1] == f"{file}, line {last}"
    with pytest.raises(ValueError, match=r"line [12]: no column 'z'; the columns are a, b"):
        list(read_rows(file, ("a", "z")))


def test_parquet_files_give_the_columns_that_are_wanted_and_count_rows(tmp_path):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    expected = [(f"{file}, row {number}", {"b": row["b"]}) for number, row in enumerate(ROWS, start=1)]
    assert list(read_rows(file, ("b",))) == expected
    assert list(rows_of(file)) == ROWS
    with pytest.raises(ValueError, match=r"rows.parquet: no column 'z'; the columns are a, b"):
        list(read_rows(file, ("z",)))


def test_quoted_cells_of_a_csv_file_may_hold_lines_and_long_documents_and_lines_are_counted(tmp_path):
    cells = [["a,\nb\nc", "x"], ["long " * 100_000, "y"], ['"', ""]]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([["a", "b"], *cells])
    file = write(tmp_path / "rows.csv", text.getvalue())
    assert [list(row.values()) for _, row in read_rows(file, ("a",))] == cells
    assert [where for where, _ in read_rows(file, ())] == [f"{file}, line {line}" for line in (4, 5, 6)]


def test_characters_that_some_readers_take_for_line_ends_stay_in_a_text(tmp_path):
    text = "a\u2028b\x85c\x0bd\x1ce"
    file = write(tmp_path / "rows.jsonl", json.dumps({"a": text}, ensure_ascii=False) + "\n")
    assert [row["a"] for _, row in read_rows(file, ("a",))] == [text]


CUT = gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9]  # always the same bytes: they name a test
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jsonl.gz", CUT, "after line 9: the gzip stream is damaged or cut short"),
        ("plain.tsv.gz", b"a\tb\n", "after line 0: the gzip stream is damaged"),
        ("latin.csv", "a\nb\nfa\xe7ade\n".encode("latin-1"), "line 3: not UTF-8 .* save the file as UTF-8"),
        ("latin.tsv.gz", gzip.compress(b"a\n\xe7\n", mtime=0), "line 2: not UTF-8"),
        ("list.jsonl", b"[1]\n", "line 1: a list, not an object"),
        ("bad.jsonl", b'{"a": 1}\n{"a"\n', "line 2: not valid JSON"),
        ("tab.jsonl", b'{"a": "1\t2"}\n', r"not valid JSON \(Invalid control character at column 9\)"),
        ("empty.csv", b"", "the file is empty; a table begins with the names of its columns"),
        ("empty.tsv", b"", "the file is empty; a table begins with the names of its columns"),
        ("twice.jsonl", b'{"a": 1}\n{"a": "x", "a": "y"}\n', "line 2: the key 'a' is used twice"),
        ("inner.jsonl", b'{"a": {"b": 1, "b": 2}}\n', "line 1: the key 'b' is used twice"),
        ("deep.jsonl", b'{"a": ' + b"[" * 100_000, "line 1: JSON nested too deeply"),
        ("huge.jsonl", b'{"a": 1' + b"0" * 5_000 + b"}\n", "line 1: .*digits"),
        ("wide.tsv", b"a\tb\n1\t2\t3\n", "line 2: 3 cells under 2 columns"),
        ("twice.tsv", b"a\ta\n1\t2\n", "line 1: the column name 'a' is used twice"),
        (
            "bars.csv",
            b"a|b\n1|2\n",
            r"line 1: the cells are separated by '\|'; save the table with commas or semicolons",
        ),
        ("quoted.tsv", b'a\tb\n"1\n2"\t3\n', "line 2: 1 cells under 2 columns; a .tsv file has no quotes"),
        ("wide.csv", b"a;b\n1;2;3\n", "line 2: 3 cells under 2 columns"),
        ("open.csv", b'a,b\n"1,2\n', "line 2: not valid CSV"),
        ("pointer.parquet", POINTER, "a Git LFS pointer in place of the file; .*git lfs pull"),
        ("pointer.jsonl", POINTER, "a Git LFS pointer"),
        ("no.parquet", b"PAR1", "not a readable parquet file"),
        ("some.txt", b"a\n", "cannot read this kind of file"),
    ],
)
def test_files_that_cannot_be_read_are_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as raised:
        list(read_rows(tmp_path / name, ("a",)))
    assert "\n" not in str(raised.value)


def test_a_parquet_file_that_is_damaged_inside_or_names_a_column_twice_is_named(tmp_path):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"a": f"text {n}"} for n in range(5000)]), file, compression="snappy")
    content = bytearray(file.read_bytes())
    content[100:4000] = b"\xff" * 3900
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows.parquet, after row 0: cannot be read"):
        list(read_rows(file, ("a",)))
    pq.write_table(pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["a", "a"]), file)
    with pytest.raises(ValueError, match="rows.parquet: the column name 'a' is used twice"):
        list(read_rows(file, ("a",)))


def test_a_csv_file_of_a_spreadsheet_may_have_semicolons(tmp_path):
    file = write(tmp_path / "rows.csv", '\ufeffa;b\r\none, two;"x;\ny"\r\n0,5;z\r\n')
    assert [row for _, row in read_rows(file, ("a", "b"))] == [{"a": "one, two", "b": "x;\ny"}, {"a": "0,5", "b": "z"}]
    file = write(tmp_path / "commas.csv", "a,b;c\n1;2,3\n")
    assert [row for _, row in read_rows(file)] == [{"a": "1;2", "b;c": "3"}]


@pytest.mark.parametrize(
    "header, names",
    [
        ('"Name, Vorname";"Frage\n(kurz)";Antwort', ["Name, Vorname", "Frage\n(kurz)", "Antwort"]),
        ('"a ""b"", c";d;e', ['a "b", c', "d", "e"]),
        ('size 5";depth 3";text', ['size 5"', 'depth 3"', "text"]),
        ('"a;b","c\n;d",e', ["a;b", "c\n;d", "e"]),
    ],
)
def test_quoted_names_of_columns_may_hold_commas_semicolons_and_lines(tmp_path, header, names):
    mark = "," if '","' in header else ";"
    file = write(tmp_path / "rows.csv", f"{header}\n1{mark}2{mark}3\n")
    assert [row for _, row in read_rows(file)] == [dict(zip(names, "123", strict=True))]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_blank_line_in_place_of_the_header_is_named(tmp_path, name):
    with pytest.raises(ValueError, match="line 1: blank, in place of the names of the columns"):
        list(read_rows(write(tmp_path / name, "\na\tb\n1\t2\n")))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        list(read_rows(tmp_path / "none.jsonl", ()))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; correct the path"):
        find_files(tmp_path / "nowhere")


def test_the_columns_of_a_file_are_those_of_all_its_rows(tmp_path):
    file = write(tmp_path / "rows.jsonl", '{"query": "a"}\n{"query": "b", "negatives": ["c"]}\n')
    assert column_names([file]) == ["query", "negatives"]


def test_a_near_name_of_a_column_is_asked_about():
    for present, near in ((["negative"], "negative"), (["neg", "query"], "neg"), (["Negatives"], "Negatives")):
        with pytest.raises(ValueError, match=f"here: no column 'negatives'; did you mean '{near}'"):
            require_columns(present, ["negatives"], "here")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("null", "null, not a text"),
        ("NaN", "the float 'nan', not a text"),
        ("7", "the int '7', not a text"),
        ("true", "the bool 'True', not a text"),
        ('["a"]', r"the list .*, not a text"),
        ('" \\n"', "the text is blank"),
        (r'"half \ud83d"', "not valid Unicode"),
    ],
)
def test_what_is_not_a_text_is_named_with_file_line_and_column_by_each_reader(tmp_path, value, message):
    lines = f'{{"a": "good", "list": ["good"]}}\n\n{{"a": {value}, "list": ["good", {value}]}}\n'
    file = write(tmp_path / "rows.jsonl", lines)
    (batch,) = read_row_batches(file)
    named = rf"rows\.jsonl, line 3, column 'a': {message}"
    for read in (lambda: [text_of(row, "a", where) for where, row in read_rows(file, ("a",))],
                 lambda: texts_of(batch, "a")):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            read()
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 3, column 'list': {message}"):
        text_lists_of(batch, "list")


def test_nulls_and_bytes_of_a_parquet_file_do_not_become_text(tmp_path):
    for value, message in ((None, "row 2, column 'a': null"), (b"caf\xc3\xa9", "row 1, column 'a': the bytes")):
        values = ["good", None] if value is None else [value]
        pq.write_table(pa.table({"a": pa.array(values)}), tmp_path / "rows.parquet")
        with pytest.raises(ValueError, match=message):
            [text_of(row, "a", where) for where, row in read_rows(tmp_path / "rows.parquet", ("a",))]


def test_blank_texts_pass_only_where_they_may():
    assert text_of({"a": " "}, "a", "row 1", may_be_blank=True) == " "
    with pytest.raises(ValueError, match="row 1, column 'a': the text is blank"):
        text_of({"a": " "}, "a", "row 1")


def test_numbers_are_finite_and_identifiers_are_texts_or_whole_numbers():
    assert [number_of({"n": value}, "n", "") for value in (3, 2.5, "1e3")] == [3.0, 2.5, 1000.0]
    for value in (None, True, "nan", float("inf"), [1], "", 10**400):
        with pytest.raises(ValueError, match="row 1, column 'n': .*not a number"):
            number_of({"n": value}, "n", "row 1")
    assert [id_of({"_id": value}, "_id", "") for value in ("d1", 7)] == ["d1", "7"]
    for value in (None, True, 1.5, " "):
        with pytest.raises(ValueError, match="row 1, column '_id'"):
            id_of({"_id": value}, "_id", "row 1")


def test_a_directory_is_read_in_the_order_of_names_without_unfinished_files(tmp_path):
    for name in ("b/2.jsonl", "a.tsv", ".partial-1-c.jsonl", "b/.ipynb_checkpoints/2.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in find_files(tmp_path)] == ["a.tsv", "2.jsonl"]
    with pytest.raises(ValueError, match=r"notes\.txt: cannot read this kind of file"):
        find_files(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; correct the path"):
        next(read_rows(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"a\.tsb does not exist; did you mean .*a\.tsv\?$"):
        find_files(tmp_path / "a.tsb")
