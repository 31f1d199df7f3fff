import pyarrow as pa
import pytest

from textfiles.columns import ColumnTypes, typed_array


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        ([1, None, 3], pa.int64(), [1, None, 3]),
        ([1, 0.5], pa.float64(), [1.0, 0.5]),
        ([True, False], pa.bool_(), [True, False]),
        ([True, 2], pa.string(), ["true", "2"]),
        (["a", 2, None], pa.string(), ["a", "2", None]),
        ([["a"], []], pa.list_(pa.string()), [["a"], []]),
        ([["a"], [1]], pa.string(), ['["a"]', "[1]"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([{"a": 1}], pa.string(), ['{"a": 1}']),
        ([None], pa.string(), [None]),
    ],
)
def test_a_column_has_the_type_that_holds_its_values(values, kind, written):
    types = ColumnTypes()
    for value in values:
        types.note({"c": value})
    assert types.schema().field("c").type == kind
    assert typed_array(values, kind).to_pylist() == written


def test_only_named_columns_are_noted_and_all_of_these_are_there():
    types = ColumnTypes(["b", "a"])
    types.note({"a": 1, "z": 2})
    assert types.schema().names == ["b", "a"]
