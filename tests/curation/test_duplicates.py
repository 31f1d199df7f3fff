import random

import numpy as np
import pytest

from curation.duplicates import normalize_text, overlapping_rows


def overlaps(text, other, threshold, width):
    """The definition, by sets of word tuples."""

    def shingles(value):
        words = normalize_text(value).split()
        if len(words) < width:
            return {("short", *words)}
        return {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}

    first, second = shingles(text), shingles(other)
    shared = len(first & second)
    return shared / len(first) >= threshold or shared / len(second) >= threshold


@pytest.mark.parametrize("threshold", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_overlap_equals_brute_force(threshold, width, monkeypatch):
    monkeypatch.setattr("curation.duplicates._TEXTS_AT_ONCE", 7)
    generator = random.Random(0)

    def some_text():
        # Runs of a common tongue-twister make partial overlaps of every degree.
        start, length = generator.randrange(40), generator.randrange(0, 20)
        words = [f"w{(start + place) % 50}" for place in range(length)]
        if words and generator.random() < 0.5:
            words[generator.randrange(len(words))] = f"new{generator.randrange(5)}"
        return " ".join(words) + generator.choice(["", ".", " !"])

    texts, held_out = [some_text() for _ in range(150)], [some_text() for _ in range(12)]
    expected = [any(overlaps(text, other, threshold, width) for other in held_out) for text in texts]
    assert 0 < sum(expected) < len(texts)
    np.testing.assert_array_equal(overlapping_rows(texts, held_out, threshold=threshold, shingle_words=width), expected)


def test_case_punctuation_and_layout_do_not_hide_a_copy():
    held_out = ["Return the largest eigenvalue of a symmetric matrix.", "Short text!"]
    texts = [
        "return  the LARGEST eigenvalue,\nof a symmetric_matrix",
        "short   Text",
        "Short text, but longer",
        "Return the smallest eigenvalue of a Hermitian operator.",
        "Before it. Return the largest eigenvalue of a symmetric matrix. And much more text after it, and after it.",
    ]
    assert overlapping_rows(texts, held_out).tolist() == [True, True, False, False, True]


def test_texts_of_punctuation_alone_stay_apart():
    assert normalize_text("+ ") != normalize_text("-")
    assert overlapping_rows(["+", "-"], ["-"]).tolist() == [False, True]


def test_nothing_overlaps_with_nothing():
    assert overlapping_rows(["a", "b"], []).tolist() == [False, False]
    assert overlapping_rows([], ["a"]).tolist() == []


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.5}, {"shingle_words": 0}])
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        overlapping_rows(["a"], ["a"], **wrong)
