import datasets
import numpy as np
import pyarrow as pa
import pytest

from trainers.negatives import have_negatives

ROWS = {"document": ["a", "b", "c", "d", "e"], "negatives": [[], ["b", "b"], ["c", "x"], ["q"], ["y", "e"]]}
EXPECTED = [False, False, True, True, True]


@pytest.mark.parametrize("large", [False, True], ids=["list", "large list"])
def test_a_row_needs_a_text_that_is_not_its_document(large):
    lists = pa.large_list(pa.large_string()) if large else pa.list_(pa.string())
    pairs = datasets.Dataset(pa.table({"document": ROWS["document"], "negatives": pa.array(ROWS["negatives"], lists)}))
    assert have_negatives(pairs).tolist() == EXPECTED
    assert have_negatives(pairs.select([4, 0, 1])).tolist() == [True, False, False]
    assert have_negatives(pairs.select(range(1, 3))).tolist() == [False, True]
    assert have_negatives(pairs.select([])).tolist() == []


def test_lists_of_one_fixed_length():
    lists = pa.array([["a", "a"], ["a", "z"]], pa.list_(pa.string(), 2))
    pairs = datasets.Dataset(pa.table({"document": ["a", "a"], "negatives": lists}))
    assert have_negatives(pairs).tolist() == [False, True]


def test_null_is_no_negative_and_many_chunks_are_read_in_order():
    tables = [
        pa.table({"document": ["a", "b"], "negatives": pa.array([negatives, ["z"]], pa.list_(pa.string()))})
        for negatives in (None, ["z"], [])
    ]
    pairs = datasets.Dataset(pa.concat_tables(tables))
    assert np.array_equal(have_negatives(pairs), [False, True, True, True, False, True])
