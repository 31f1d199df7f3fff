"""Points keep their texts, values and links together, however they are chosen and ordered."""

import numpy as np
import pytest

from curation.atlas import reading
from curation.atlas.points import PairPoints, Points, column_values
from curation.sources import Source
from textfiles.writing import write_jsonl


def linked_texts(points):
    return {(points.texts[a], points.texts[b]) for a, b in points.links}


def test_links_follow_their_points():
    points = Points(list("abcd"), {"n": [0.0, 1.0, 2.0, 3.0]}, np.array([[0, 1], [2, 3], [3, 0]]))
    taken = points.take([3, 0, 1])
    assert taken.texts == ["d", "a", "b"] and taken.columns == {"n": [3.0, 0.0, 1.0]}
    assert linked_texts(taken) == {("a", "b"), ("d", "a")}


def test_equal_texts_of_a_side_are_one_point_with_several_links():
    gathered = PairPoints()
    for query, document in (("q1", "d"), ("q2", "d"), ("q1", "q1"), ("q1", "d")):
        gathered.add("one", query, document)
    gathered.add("two", "q1", "d")
    points = gathered.points()
    assert points.texts == ["q1", "d", "q2", "q1", "q1", "d"]
    assert points.columns["side"] == ["query", "document", "query", "document", "query", "document"]
    assert points.links.tolist() == [[0, 1], [2, 1], [0, 3], [4, 5]]


def test_columns_are_all_numbers_or_all_texts():
    rows = [{"a": 1, "b": 1, "c": True, "d": ["x", 2]}, {"a": None, "b": "two", "c": None, "d": None}]
    assert column_values(rows, "a") == [1, None]
    assert column_values(rows, "b") == ["1", "two"]
    assert column_values(rows, "c") == ["true", None]
    assert column_values(rows, "d") == ["x, 2", None]


def test_a_choice_of_rows_is_even_and_the_same_again(tmp_path):
    write_jsonl(({"text": f"t{i}", "n": i} for i in range(25_000)), tmp_path / "rows.jsonl")  # three batches

    def chosen(seed):
        return reading.read_text_points(str(tmp_path / "rows.jsonl"), "text", ["n"], 2_000, seed)

    points = chosen(0)
    numbers = np.array(points.columns["n"])
    assert points.texts == [f"t{i}" for i in numbers] and len(set(points.texts)) == 2_000
    # 2,000 of 25,000 in 5 equal parts: 400 each, give or take 5 standard deviations of 17
    assert (np.abs(np.bincount(numbers // 5_000) - 400) < 86).all()
    assert chosen(0).texts == points.texts != chosen(1).texts


@pytest.mark.parametrize("most", [100, 9])
def test_pairs_give_linked_points_and_each_source_its_share(tmp_path, most):
    sources = []
    for name, rows in (("large", 20), ("small", 4)):
        write_jsonl(
            ({"query": f"{name} q{i}", "document": f"{name} d{i}"} for i in range(rows)), tmp_path / f"{name}.jsonl"
        )
        sources.append(Source(name=name, path=str(tmp_path / f"{name}.jsonl"), query_prefix="", document_prefix=""))
    points = reading.read_pair_points(sources, most, 0)
    assert len(points) == (48 if most == 100 else 8) and len(points.links) == len(points) // 2
    assert all(query.replace(" q", " d") == document for query, document in linked_texts(points))
    assert set(points.columns["source"]) == {"large", "small"}


@pytest.fixture
def beir(tmp_path):
    documents = [{"_id": f"d{i}", "title": "Title", "text": f"text {i}"} for i in range(30)]
    documents.append({"_id": "blank", "title": "", "text": ""})
    write_jsonl(documents, tmp_path / "corpus.jsonl")
    write_jsonl([{"_id": f"q{i}", "text": f"query {i}"} for i in range(6)], tmp_path / "queries.jsonl.gz")
    lines = [
        "query-id\tcorpus-id\tscore",
        *(f"q{i}\td{i}\t1" for i in range(6)),
        "q0\td1\t2",
        "q1\tblank\t1",
        "q2\td9\t0",
    ]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_beir_set_gives_queries_linked_to_their_relevant_documents(beir):
    points = reading.read_beir_points(beir, 1_000, 0)
    assert len(points) == 36  # the blank document is none
    assert ("query 0", "Title text 1") in linked_texts(points) and len(points.links) == 7
    few = reading.read_beir_points(beir, 10, 0)
    assert len(few) == 10 and 0 < len(few.links) < 6
    assert linked_texts(few) <= linked_texts(points)


def test_faults_are_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    write_jsonl([{"text": "a", "topic": "x"}, {"text": " "}], file)
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2, column 'text': the text is blank"):
        reading.read_text_points(str(file), "text", [], 10, 0)
    write_jsonl([{"text": "a", "topic": "x"}], file)
    with pytest.raises(ValueError, match="no column 'topics'; did you mean 'topic'.*set text_column and columns"):
        reading.read_text_points(str(file), "text", ["topics"], 10, 0)
