from collections import Counter

import pytest

from recipes.quickstart_text.weak_pairs import split_name, weak_pairs


def record(name, summary, body="", package="pkg"):
    return {
        "package": package, "name": name, "summary": summary, "body": body,
        "text": f"{summary}\n\n{body}" if body else summary,
    }  # fmt: skip


LONG = " ".join(f"word{number}" for number in range(60))
SUMMARY = "Solve the banded equation for the unknown vector."


@pytest.mark.parametrize(("name", "words"), [
    ("scipy.linalg.basic.solve_banded", ["basic", "solve", "banded"]),
    ("pandas.core.DataFrame.to_csv", ["Data", "Frame", "to", "csv"]),
    ("a.HTTPServer.__init__", ["HTTP", "Server", "init"]),
])  # fmt: skip
def test_a_name_is_split_where_its_words_end(name, words):
    assert split_name(name) == words


def test_a_name_asks_for_the_whole_text():
    (pair,) = weak_pairs([record("linalg.solve_banded", SUMMARY)], 10, seed=0)
    assert (pair["query"], pair["document"], pair["package"]) == ("linalg solve banded", SUMMARY, "pkg")


def test_words_that_are_cut_out_ask_for_the_rest():
    pairs = weak_pairs([record("f", SUMMARY, LONG)], 10, seed=0)
    (pair,) = pairs  # one word makes no name
    words = LONG.split()
    start, length = words.index(pair["query"].split()[0]), len(pair["query"].split())
    assert 6 <= length <= 16 and pair["query"].split() == words[start : start + length]
    assert pair["document"].split() == words[:start] + words[start + length :]


def test_short_and_equal_texts_give_no_pair_and_a_limit_holds_by_kind_and_package():
    assert weak_pairs([record("linalg.solve", "Solve."), record("f", SUMMARY, "a short body")], 10, seed=0) == []
    twice = [record("linalg.solve", SUMMARY), record("other.solve", SUMMARY)]
    assert len(weak_pairs(twice, 10, seed=0)) == 1
    numbers, packages = range(9), ("a", "b")
    many = [record(f"m.solve_{i}", f"{SUMMARY} {i} {p}", LONG, p) for i in numbers for p in packages]
    assert Counter(pair["package"] for pair in weak_pairs(many, 3, seed=0)) == {"a": 6, "b": 6}
    assert weak_pairs(many, 3, seed=0) == weak_pairs(many, 3, seed=0)
