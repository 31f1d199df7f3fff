"""Values of rows as texts, numbers and labels. What is none of these is named with its row and column.

No value becomes text by `str()`: null is not the document "None", nor are bytes their notation.
"""

import datetime
import decimal
import json
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from .rows import RowBatch, require_columns


def text_of(row: Mapping[str, Any], column: str, where: str, *, may_be_blank: bool = False) -> str:
    """The text in a column of a row.

    Args:
        row: column -> value.
        column: its name.
        where: what to call the row in an error.
        may_be_blank: whether a text without letters is fine.

    Raises:
        ValueError: the row lacks the column, or the value is not a text, not valid Unicode, or blank.
    """
    if column not in row:
        require_columns(row, [column], where)
    return check_text(row[column], f"{where}, column {column!r}", may_be_blank=may_be_blank)


def check_text(value: Any, where: str, *, may_be_blank: bool = False) -> str:
    """A value, if it is a text; raises as `text_of` does."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {shown_value(value)}, not a text; correct or remove the row.")
    if not may_be_blank and not value.strip():
        raise ValueError(f"{where}: the text is blank; remove the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        raise ValueError(f"{where}: not valid Unicode ({error}); correct or remove the row.") from error
    return value


def number_of(row: Mapping[str, Any], column: str, where: str) -> float:
    """The finite number in a column of a row, which may be written as text.

    Raises:
        ValueError: the row lacks the column, or the value is not a finite number.
    """
    if column not in row:
        require_columns(row, [column], where)
    value = row[column]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}, column {column!r}: {shown_value(value)}, not a number; correct or remove the row.")
    return number


def id_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """The identifier in a column of a row: a text, or a whole number as text.

    Raises:
        ValueError: the row lacks the column, or the value is neither.
    """
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(row, column, where)


def texts_of(batch: RowBatch, column: str, *, may_be_blank: bool = False) -> pa.Array:
    """A column of a batch as texts (rows,); raises as `text_of` does."""
    values = [row.get(column) for row in batch.rows]
    # A quick look at all of them; rows are checked one by one only to name the first bad one.
    if all(isinstance(value, str) and (may_be_blank or value.strip()) for value in values):
        try:
            return pa.array(values, pa.string())
        except UnicodeEncodeError:
            pass
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        text_of(row, column, f"{batch.where} {number}", may_be_blank=may_be_blank)
    raise AssertionError(f"{batch.where}: a fault that no row has")


def text_lists_of(batch: RowBatch, column: str) -> pa.Array:
    """A column of a batch as lists of texts (rows,); a list may be empty, a text may not be blank.

    Raises:
        ValueError: a row lacks the column, or the value is not a list of texts.
    """
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        where = f"{batch.where} {number}"
        if column not in row:
            require_columns(row, [column], f"{where} (use [] for none)")
        if not isinstance(row[column], list):
            raise ValueError(
                f"{where}, column {column!r}: {shown_value(row[column])}, not a list of texts; use [] for none."
            )
        for text in row[column]:
            check_text(text, f"{where}, column {column!r}")
    return pa.array([row[column] for row in batch.rows], pa.list_(pa.string()))


def json_of(row: Mapping[str, Any], where: str, *, ascii_only: bool = False) -> str:
    """A row as JSON, dates and times in ISO 8601 and decimals as numbers.

    Args:
        row: column -> value.
        where: what to call the row in an error.
        ascii_only: whether other characters are written as escapes, among them those that UTF-8 does not have.

    Raises:
        ValueError: a column holds something that has no form in JSON, such as bytes.
    """
    try:
        return json.dumps(row, ensure_ascii=ascii_only, default=_json_value)
    except TypeError:
        for column, value in row.items():
            try:
                json.dumps(value, default=_json_value)
            except TypeError as error:
                reason = f"{error}, which JSON cannot hold; drop the column"
                raise ValueError(f"{where}, column {column!r}: {reason}.") from error
        raise


def _json_value(value: Any) -> str | float:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def shown_value(value: Any) -> str:
    """A value as an error shows it: its type and its beginning."""
    return "null" if value is None else f"the {type(value).__name__} {str(value)[:40]!r}"
