import gzip
import json

import pytest

from textfiles.beir import beir_of_rows, find_beir, load_beir, read_beir, read_documents, read_judgements

CORPUS = [
    {"_id": 1, "title": " A title ", "text": "and a text"},
    {"_id": "2", "title": None, "text": "no title"},
    {"_id": "3", "text": ""},
]
QUERIES = [{"_id": "q", "text": "judged"}, {"_id": "u", "text": ""}, {"_id": "n", "text": "only zeros"}]
QRELS = "query-id\tcorpus-id\tscore\nq\t1\t2\nq\t2\t0\nn\t2\t0\nq\t3\t1\n"


def write(directory, qrels=QRELS, corpus=CORPUS, queries=QUERIES, suffix="", name="qrels.tsv"):
    files = {
        "corpus.jsonl": "".join(json.dumps(row) + "\n" for row in corpus),
        "queries.jsonl": "".join(json.dumps(row) + "\n" for row in queries),
        name: qrels,
    }
    for file, text in files.items():
        path = directory / (file + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
    return directory


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_set_is_read_with_titles_grades_and_blank_documents(tmp_path, suffix):
    found = load_beir(write(tmp_path, suffix=suffix))
    assert {name: document.whole for name, document in found.documents.items()} == {
        "1": "A title and a text",
        "2": "no title",
        "3": "",
    }
    assert found.queries == {"q": "judged"}, "as in BEIR, queries without a relevant document are left out"
    assert found.grades == {"q": {"1": 2, "2": 0, "3": 1}}
    assert found.describe_absent() is None


HEADER_LESS = QRELS.partition("\n")[2]
FORMS = {
    "header": QRELS,
    "no header": HEADER_LESS,
    "byte order mark": "\ufeff" + QRELS,
    "Windows": QRELS.replace("\n", "\r\n"),
    "TREC": "\n".join(f"{q} 0 {d} {g}" for q, d, g in (line.split() for line in HEADER_LESS.splitlines())),
    "TREC with tabs": HEADER_LESS.replace("\t", "\t0\t", 1).replace("\nq\t", "\nq\t0\t").replace("\nn\t", "\nn\t0\t"),
    "other order": "score\tcorpus-id\tquery-id\n" + "".join(
        "\t".join(reversed(line.split("\t"))) + "\n" for line in HEADER_LESS.splitlines()
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_judgements_are_read_in_each_form(tmp_path, form):
    assert load_beir(write(tmp_path, FORMS[form])).grades == {"q": {"1": 2, "2": 0, "3": 1}}


def test_each_split_has_its_own_judgements(tmp_path):
    write(tmp_path, name="qrels/test.tsv")
    (tmp_path / "qrels" / "dev.tsv.gz").write_bytes(gzip.compress(b"n\t2\t1\n"))
    assert load_beir(tmp_path).queries == {"q": "judged"}
    assert load_beir(tmp_path, "dev").grades == {"n": {"2": 1}}
    with pytest.raises(FileNotFoundError, match="qrels/train.tsv.*the splits are dev, test"):
        find_beir(tmp_path, "train")


def test_judgements_of_what_is_absent_are_counted_unless_the_reader_is_strict(tmp_path):
    write(tmp_path, QRELS + "q\tgone\t1\nq\tgone too\t3\nq\tnever needed\t0\nabsent\t1\t1\nnobody\t1\t0\n")
    found = load_beir(tmp_path)
    assert (found.absent_documents, found.absent_queries) == (2, 1)
    assert found.grades == {"q": {"1": 2, "2": 0, "3": 1}}
    assert "1 name an absent query and 2 name an absent document" in found.describe_absent()
    with pytest.raises(ValueError, match=r"qrels\.tsv, line 6: the document 'gone' is not in .*corpus\.jsonl"):
        read_beir(find_beir(tmp_path), strict=True)


def test_grades_of_zero_or_less_never_demand_that_their_document_exists(tmp_path):
    write(tmp_path, QRELS + "q\tgone\t0\nq\tgone\t0\nabsent\t1\t-1\n")
    assert read_beir(find_beir(tmp_path), strict=True).grades == {"q": {"1": 2, "2": 0, "3": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels": QRELS + "u\t1\t1\n"}, r"queries\.jsonl, line 2, column 'text': the text is blank"),
        ({"qrels": QRELS + "q\t1\n"}, r"qrels\.tsv, line 6: 2 cells under 3 columns"),
        ({"qrels": QRELS + "q\t1\t1\n"}, r"line 6: grade 1 for a document graded 2 above"),
        ({"qrels": QRELS + "q\t4\t0.5\n"}, r"line 6: the grade '0\.5' is not a whole number"),
        ({"qrels": QRELS + "q\t4\tnan\n"}, "line 6, column 'score': the str 'nan', not a number"),
        ({"qrels": "query\tdocument\tscore\nq\t1\t1\n"}, "line 1: no column 'query-id'; did you mean 'query'"),
        ({"qrels": "q\t1\t0\n"}, r"qrels\.tsv: no query has a relevant document"),
        ({"corpus": [*CORPUS, {"_id": "1", "text": "b"}]}, "corpus.jsonl, line 4: the id '1' is used twice"),
        ({"corpus": [{"_id": "1", "text": None}]}, "corpus.jsonl, line 1, column 'text': null, not a text"),
        ({"corpus": [{"_id": None, "text": "a"}]}, "line 1, column '_id': null, not a text"),
        ({"corpus": [{"_id": "1", "title": 3, "text": "a"}]}, "line 1, column 'title': the int '3', not a text"),
        ({"queries": [*QUERIES, {"_id": "q", "text": "b"}]}, "queries.jsonl, line 4: the id 'q' is used twice"),
        ({"queries": [{"_id": "q", "text": 5}]}, "queries.jsonl, line 1, column 'text': the int '5', not a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_beir(tmp_path)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: neither it nor {name}.gz is there"):
        find_beir(tmp_path)


def test_of_a_large_corpus_only_the_wanted_ids_need_to_differ(tmp_path):
    write(tmp_path, corpus=[*CORPUS, {"_id": "2", "text": "again"}])
    assert len(list(read_documents(tmp_path / "corpus.jsonl", unique={"1"}))) == 4
    with pytest.raises(ValueError, match="'2' is used twice"):
        list(read_documents(tmp_path / "corpus.jsonl", unique={"2"}))


def test_rows_in_memory_make_the_same_set(tmp_path):
    judged = [{"query-id": q, "corpus-id": d, "score": int(g)}
              for q, d, g in (line.split("\t") for line in HEADER_LESS.splitlines())]  # fmt: skip
    rows = ([(f"hub, row {number}", row) for number, row in enumerate(part, 1)] for part in (CORPUS, QUERIES, judged))
    assert beir_of_rows(*rows) == load_beir(write(tmp_path))
    with pytest.raises(ValueError, match="hub, row 1, column 'text': null"):
        beir_of_rows([("hub, row 1", {"_id": "1", "text": None})], [], [])


def test_judgements_name_their_line(tmp_path):
    write(tmp_path)
    assert [each.where for each in read_judgements(tmp_path / "qrels.tsv")][-1] == f"{tmp_path}/qrels.tsv, line 5"
