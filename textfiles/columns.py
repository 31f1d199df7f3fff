"""Column types inferred from the rows of text files, for files that have a schema."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

_INT64 = range(-(2**63), 2**63)
# Kinds of the values of a column, nulls aside -> its type; any other mixture is kept as JSON.
_TYPES = {
    frozenset(["int"]): pa.int64(),
    frozenset(["float"]): pa.float64(),
    frozenset(["int", "float"]): pa.float64(),
    frozenset(["bool"]): pa.bool_(),
    frozenset(["texts"]): pa.list_(pa.string()),
}


class ColumnTypes:
    """What the columns of rows hold. Texts, numbers, true and false and lists of texts stay what they are.

    Args:
        names: of the columns to note; None: all there are.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._found: dict[str, set[str]] = {name: set() for name in names or ()}
        self._all = names is None

    def note(self, row: Mapping[str, Any]) -> None:
        """Take the values of a row into account."""
        for name, value in row.items():
            if self._all or name in self._found:
                kinds = self._found.setdefault(name, set())
                if value is not None:
                    kinds.add(_kind(value))

    def schema(self) -> pa.Schema:
        """The columns in the order of their first appearance; values of no common type become text, partly JSON."""
        return pa.schema([(name, _TYPES.get(frozenset(kinds), pa.string())) for name, kinds in self._found.items()])


def typed_array(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column of a type of `ColumnTypes.schema`; what is no text is written as JSON in a column of texts."""
    if pa.types.is_string(kind):
        values = (value if value is None or isinstance(value, str) else json.dumps(value) for value in values)
    return pa.array(values, kind)


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT64:
        return "large"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "texts"
    return type(value).__name__
