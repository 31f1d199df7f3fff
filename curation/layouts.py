"""Layouts in which others publish pairs with hard negatives, read by name: rows of each become rows of ours.

- `sentence-transformers`: the columns `anchor`, `positive` and perhaps `negative`, `negative_1`, ..., each a text.
- `flagembedding`: `query`, a text, and `pos` and perhaps `neg`, lists of texts.
- `tevatron`: `query`, a text, and `positive_passages` and perhaps `negative_passages`, lists of objects with `text` and
  perhaps `title`, which are joined by a space.

A row with several positives makes a pair of each, with all of the row's negatives. Other columns stay beside the pair.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from textfiles.rows import RowBatch, missing_column, require_columns
from textfiles.texts import check_text, shown_value, text_of

QUERY, DOCUMENT, NEGATIVES = "query", "document", "negatives"
_NEGATIVE = re.compile(r"negative(_\d+)?")


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        query: column with the query.
        positives: column with the document or documents.
        is_negative: whether a column holds hard negatives.
        texts: what a column holds -> its texts, unchecked; the second argument names the place.
        names: of the columns, for people.
    """

    query: str
    positives: str
    is_negative: Callable[[str], bool]
    texts: Callable[[Any, str], list[Any]]
    names: str

    def reads(self, column: str) -> bool:
        """Whether a column belongs to the layout."""
        return column in (self.query, self.positives) or self.is_negative(column)

    def pairs(self, row: Mapping[str, Any], where: str, *, may_be_blank: bool = False) -> list[dict[str, Any]]:
        """A row as rows of `query`, `document`, `negatives` and the row's other columns.

        Args:
            row: column -> value.
            where: what to call it in an error.
            may_be_blank: whether a text may be null or blank.

        Raises:
            ValueError: a column is missing, or holds something else; the message names row and column.
        """
        require_columns(row, (self.query, self.positives), where)
        negatives = [column for column in row if self.is_negative(column) and row[column] is not None]
        others = {column: value for column, value in row.items() if not self.reads(column)}
        if clash := {DOCUMENT, NEGATIVES, QUERY} & others.keys():
            raise ValueError(f"{where}: a column {sorted(clash)[0]!r} beside those of the layout; rename or drop it.")

        def read(column: str) -> list[str]:
            at = f"{where}, column {column!r}"
            found = self.texts(row[column], at)
            return [
                check_text("" if text is None and may_be_blank else text, at, may_be_blank=may_be_blank)
                for text in found
            ]

        if row[self.query] is None and may_be_blank:
            query = ""
        else:
            query = text_of(row, self.query, where, may_be_blank=may_be_blank)
        texts = [text for column in negatives for text in read(column)]
        return [{QUERY: query, DOCUMENT: document, NEGATIVES: texts, **others} for document in read(self.positives)]


def _text(value: Any, where: str) -> list[Any]:
    return [value]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: {shown_value(value)}, not a list of texts; use [] for none.")
    return value


def _passages(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise ValueError(f"{where}: {shown_value(value)}, not a list of passages with title and text; use [] for none.")
    titles = [check_text(each.get("title") or "", f"{where}, 'title'", may_be_blank=True).strip() for each in value]
    texts = [text_of(each, "text", where, may_be_blank=True) for each in value]
    return [f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)]


LAYOUTS = {
    "sentence-transformers": Layout(
        "anchor",
        "positive",
        lambda column: _NEGATIVE.fullmatch(column) is not None,
        _text,
        "anchor, positive, negative, negative_1, ...",
    ),
    "flagembedding": Layout("query", "pos", lambda column: column == "neg", _list, "query, pos, neg"),
    "tevatron": Layout(
        "query",
        "positive_passages",
        lambda column: column == "negative_passages",
        _passages,
        "query, positive_passages, negative_passages",
    ),
}


def layout_of(columns: Iterable[str]) -> str | None:
    """The name of the layout that some columns are in; None: of none."""
    present = set(columns)
    return next((name for name, layout in LAYOUTS.items() if {layout.query, layout.positives} <= present), None)


def has_negatives(name: str, columns: Iterable[str]) -> bool:
    """Whether any of some columns holds hard negatives in a layout."""
    return any(map(LAYOUTS[name].is_negative, columns))


def unknown_layout(columns: Iterable[str], where: str) -> ValueError:
    """The error for rows that are neither of ours nor in a layout: says which keys name the columns."""
    columns = list(columns)
    if not columns:
        return ValueError(f"{where}: no rows.")
    missing = next((name for name in (QUERY, DOCUMENT) if name not in columns), QUERY)
    known = "; ".join(f"{layout.names} ({name})" for name, layout in LAYOUTS.items())
    return ValueError(
        f"{missing_column(missing, columns, where)} Known names are query, document, negatives; {known}. Rename the "
        "columns, or give a source whose keys query, document and negatives name them: --sources '[{name: mine, path: "
        "..., query: ..., document: ..., query_prefix: search_query, document_prefix: search_document}]'."
    )


def converted(batch: RowBatch, name: str) -> RowBatch:
    """A batch of rows in a layout as rows of ours; a row that makes several pairs keeps its number in each."""
    made = list(_numbered(batch, LAYOUTS[name]))
    return RowBatch(batch.where, [number for number, _ in made], [pair for _, pair in made])


def _numbered(batch: RowBatch, layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in zip(batch.numbers, batch.rows, strict=True):
        for pair in layout.pairs(row, f"{batch.where} {number}"):
            yield number, pair
