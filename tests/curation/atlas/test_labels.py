"""Labels say what is particular to a region, stand in it, and do not cover one another."""

import numpy as np

from curation.atlas.labels import region_labels

RANDOM = np.random.default_rng(0)
WORDS = [["salmon", "river"], ["flour", "oven"], ["matrix", "vector"], ["piano", "violin"]]
CORNERS = np.array([[0, 0], [0, 10], [10, 0], [10, 10]])
GROUP = RANDOM.integers(4, size=200)
TEXTS = [f"the common {WORDS[g][i % 2]} 12 <b>" for i, g in enumerate(GROUP)]
PLACES = CORNERS[GROUP] + RANDOM.normal(size=(200, 2)) * 0.1


def test_a_region_is_called_by_its_own_words():
    labels = region_labels(TEXTS, PLACES, 0)
    assert {frozenset(label.text.split(", ")) for label in labels} == {frozenset(words) for words in WORDS}
    for label in labels:
        (corner,) = (corner for corner, words in zip(CORNERS, WORDS, strict=True) if words[0] in label.text)
        assert np.abs(corner - (label.x, label.y)).max() < 0.5
        assert ((label.x, label.y) == PLACES).all(axis=1).any()
    assert region_labels(TEXTS, PLACES, 0) == labels


def test_labels_that_would_overlap_are_left_out():
    near = np.array([[0, 0], [0.2, 0.1], [10, 0], [10, 10]])[GROUP] + PLACES / 1_000
    kept = [set(label.text.split(", ")) for label in region_labels(TEXTS, near, 0)]
    largest = max((0, 1), key=(np.arange(4)[:, None] == GROUP).sum(axis=1).__getitem__)  # of the two side by side
    assert len(kept) == 3 and [words for words in map(set, WORDS) if words not in kept] == [set(WORDS[1 - largest])]


def test_texts_without_words_have_no_labels():
    assert region_labels(["12 34", "the of"] * 10, RANDOM.normal(size=(20, 2)), 0) == []
    assert region_labels(["word"], np.zeros((1, 2)), 0)[0].text == "word"
