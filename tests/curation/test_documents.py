import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.documents import Documents, DocumentSource, open_documents
from textfiles.writing import write_jsonl


def read_all(documents):
    return documents.texts(list(range(len(documents))))


@pytest.fixture
def files(tmp_path):
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a.txt").write_text("one\n\ndocument")
    write_jsonl([{"text": "two"}, {"text": "three", "other": 1}], directory / "b.jsonl.gz")
    pq.write_table(pa.table({"text": ["four"]}), directory / "c.parquet")
    return directory


def test_every_kind_of_file_is_read_in_the_order_of_the_names(files, tmp_path):
    documents = open_documents([DocumentSource(path=str(files))], tmp_path / "cache")
    assert read_all(documents) == ["one\n\ndocument", "two", "three", "four"]


def test_documents_are_fetched_by_number_across_sources(files, tmp_path):
    sources = [DocumentSource(path=str(files / name)) for name in ("c.parquet", "a.txt", "b.jsonl.gz")]
    documents = open_documents(sources, tmp_path / "cache")
    assert documents.counts == [1, 1, 2]
    assert documents.texts([3, 0, 2, 1, 0]) == ["three", "four", "two", "one\n\ndocument", "four"]


def test_rows_are_joined_to_documents():
    rows = datasets.Dataset.from_dict({"text": [f"s{number}" for number in range(7)]})
    documents = Documents([rows, rows], [3, 1])
    assert documents.counts == [3, 7]
    assert documents.texts([2, 0, 3, 9]) == ["s6", "s0\ns1\ns2", "s0", "s6"]
    gaps = datasets.Dataset.from_dict({"text": ["s0", None, "", "s3"]})
    assert Documents([gaps], [4]).texts([0]) == ["s0\ns3"]


def test_another_column_is_read(tmp_path):
    write_jsonl([{"body": "x"}], tmp_path / "a.jsonl")
    source = DocumentSource(path=str(tmp_path / "a.jsonl"), column="body")
    assert read_all(open_documents([source], tmp_path / "cache")) == ["x"]


def test_a_copy_that_is_there_is_not_made_again_nor_left_half(files, tmp_path):
    source = DocumentSource(path=str(files))
    open_documents([source], tmp_path / "cache")
    (files / "b.jsonl.gz").unlink()
    assert len(open_documents([source], tmp_path / "cache")) == 4
    (files / "d.jsonl").write_text('{"text": "five"}\n{"text": " "}\n')
    with pytest.raises(ValueError, match=r"d\.jsonl, line 2, column 'text': the text is blank"):
        open_documents([source], tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b" \n", "the file is blank"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'{"texts": "x"}\n', "line 1: no column 'text'; did you mean 'texts'.*set the column of its entry"),
        ("a.jsonl", b'{"text": 3}\n', "line 1, column 'text': the int '3', not a text"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        open_documents([DocumentSource(path=str(tmp_path / name))], tmp_path / "cache")
    assert name in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8-sig")
    assert read_all(open_documents([DocumentSource(path=str(tmp_path))], tmp_path / "cache")) == ["one\ntwo"]


def test_a_document_larger_than_a_table_holds_is_named_before_it_is_read(tmp_path):
    with open(tmp_path / "dump.txt", "wb") as file:
        file.truncate(2**31)  # takes no space
    with pytest.raises(ValueError, match=r"dump\.txt: a \.txt file is one document.*; split the file"):
        open_documents([DocumentSource(path=str(tmp_path))], tmp_path / "cache")


def test_a_hub_data_set_is_opened_by_its_configuration(monkeypatch, tmp_path):
    rows = datasets.Dataset.from_dict({"id": [1, 2], "text": ["x", "y"]})
    asked = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, name, split, revision, writer_batch_size: asked.append((path, name, split, revision)) or rows,
    )
    source = DocumentSource(path="wikimedia/wikipedia", name="20231101.en", revision="main")
    assert read_all(open_documents([source], tmp_path)) == ["x", "y"]
    assert asked == [("wikimedia/wikipedia", "20231101.en", "train", "main")]
    with pytest.raises(
        ValueError, match="wikimedia/wikipedia, split train: no column 'body'; the columns are id, text"
    ):
        open_documents([DocumentSource(path="wikimedia/wikipedia", column="body")], tmp_path)


def test_an_entry_of_a_config_is_a_path_or_a_mapping():
    assert DocumentSource.from_config("a/b.txt", "documents[0]") == DocumentSource(path="a/b.txt")
    for entry, said in (
        ({"path": "a", "colum": "x"}, r"documents\[1\]: unknown key 'colum'; did you mean 'column'"),
        ({"column": "x"}, "the key 'path' is missing"),
        ({"path": "a", "rows_per_document": 0}, "rows_per_document"),
        ({"path": ""}, "path must be"),
        (3, "neither a path nor a mapping"),
    ):
        with pytest.raises(ValueError, match=said):
            DocumentSource.from_config(entry, "documents[1]")
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        DocumentSource(path="nowhere.txt").files()
