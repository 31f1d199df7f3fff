"""Rules that make pairs of raw rows: title -> body, question -> answer, citations, sets of duplicates (paper §4.2.1).

A rule names columns and says nothing else, so a config can hold it, and it serves anyone's local files as well as
the data sets of the paper.
"""

import dataclasses
import json
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from curation.duplicates import normalize_text
from curation.layouts import LAYOUTS
from curation.sources import is_hub_id
from nomic_bert.prompts import prefix_text
from textfiles.rows import ROW_SUFFIXES, file_stats, find_files
from textfiles.settings import did_you_mean, is_filled, is_number, require_at_least, require_filled
from textfiles.texts import json_of, shown_value

AVAILABLE = "yes"
ELEMENT = "each"  # the first key of a path that starts at an element of the list named by `each`
# Why a row, or an element of its list, made no pair.
NO_LIST = "no usable list"
NO_QUERY = "no query"
NO_DOCUMENT = "no document"
QUERY_LENGTH = "query outside the limits"
DOCUMENT_LENGTH = "document outside the limits"
SAME_TEXT = "query equal to document"
NOT_UNICODE = "not valid Unicode"
OTHER_VALUE = "another value than where says"

KeyPath = tuple[str, ...]
_FOLDER_NAME = re.compile(r"\w[\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawSource:
    r"""A raw data set and the rule that makes pairs of its rows.

    A path is the name of a column, or keys joined by dots that lead into nested columns: `answers.text`; a number
    takes one place of a list, from 0: `texts.1`. A text is a path, or a template with paths in braces:
    `"{title}\n\n{body}"` (braces themselves are written twice). White space around texts is removed.

    Attributes:
        name: name of the source and of its output directory.
        path: a local file, directory or glob pattern of .jsonl, .jsonl.gz or .parquet files, or else the id of a
            data set on the hub (`owner/name`).
        query: the query of a pair, a text.
        document: the document of a pair, a text.
        negatives: hard negatives of a pair: texts, or paths of lists of texts. Those that are blank or equal to the
            document are left out.
        layout: in place of query, document and negatives, the name of a layout in which others publish such pairs:
            sentence-transformers, flagembedding or tevatron; see `curation.layouts`.
        each: path of a list, for rows that make one pair for each element. In `query` and `document`, `each`
            stands for the element, and `each.title` for a key of it. Null: a row makes one pair.
        pairs_of: path of a list of texts that mean the same, instead of `query` and `document`: each text is paired
            with the next one, k - 1 pairs of k texts, so that no text is in more than two pairs.
        where: column -> the value, or one of the values, that rows must have there to make pairs; others are left out.
        keep: columns that are written beside the pair under their own names, so that it can be traced to its row.
        query_chars: least and most characters of a query; null for either means no limit. Others are left out.
        document_chars: the same for documents. Long documents are not cut: the trainer does that, in tokens.
        subset: configuration of a hub data set, where it has several.
        split: split of a hub data set, or several joined by `+`. Local files are read whole.
        revision: revision of a hub data set. Null: the newest.
        limit: read at most this many rows, the first ones.
        query_prefix: task prefix for the trainer, as in `curation.sources.Source`; it is not added to the texts.
        document_prefix: likewise.
        paper_rows: pairs that the paper reports, to show beside those that are made.
        license: of the data set, as its publisher states it; null: not known. The data set's card shows it.
        origin: where to get the files of a local path, to show when nothing is there.
        available: "yes", or why the raw form cannot be had; such a source is listed and not made.

    Raises:
        ValueError: a field has a value it cannot have; the message names the field.
    """

    name: str
    path: str
    query: str | None = None
    document: str | None = None
    negatives: tuple[str, ...] = ()
    layout: str | None = None
    each: str | None = None
    pairs_of: str | None = None
    where: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep: tuple[str, ...] = ()
    query_chars: tuple[int | None, int | None] = (None, None)
    document_chars: tuple[int | None, int | None] = (None, None)
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: int | None = None
    query_prefix: str = ""
    document_prefix: str = ""
    paper_rows: int | None = None
    license: str | None = None
    origin: str | None = None
    available: str = AVAILABLE

    def __post_init__(self) -> None:
        require_filled(self, "name", "path", "split")
        require_filled(self, "query", "document", "each", "pairs_of", or_null=True)
        require_filled(self, "subset", "revision", "license", "origin", or_null=True)
        require_at_least(1, self, "limit", "paper_rows")
        if not is_filled(self.available):
            raise ValueError(f'available must be a text, not {self.available!r}; write "yes" in quotation marks.')
        if not _FOLDER_NAME.fullmatch(self.name):
            raise ValueError(f"name must be letters, digits, _, - and . (it names a directory), not {self.name!r}.")
        for key in ("query_prefix", "document_prefix"):
            try:
                prefix_text(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        for key in ("query_chars", "document_chars"):
            object.__setattr__(self, key, _limits(key, getattr(self, key)))
        object.__setattr__(self, "keep", _kept_columns(self.keep))
        object.__setattr__(self, "negatives", _texts("negatives", self.negatives))
        if not isinstance(self.where, Mapping) or not all(is_filled(column) for column in self.where):
            raise ValueError(f"where must map columns to values, not {self.where!r}.")
        self._check_rule()

    def _check_rule(self) -> None:
        if self.layout is not None:
            if self.layout not in LAYOUTS:
                raise ValueError(
                    f"layout: there is no {self.layout!r}; {did_you_mean(self.layout, LAYOUTS, 'layouts')}"
                )
            if any((self.query, self.document, self.each, self.pairs_of, self.negatives)):
                raise ValueError("layout names the texts: leave query, document, negatives, each and pairs_of out.")
            return
        if self.pairs_of is None and (self.query is None or self.document is None):
            raise ValueError("a rule needs query and document, or pairs_of, or layout.")
        if self.pairs_of is not None and any((self.query, self.document, self.each, self.negatives)):
            raise ValueError("pairs_of makes both texts of a pair: leave query, document, negatives and each out.")
        if self.query is not None and self.query == self.document:
            raise ValueError(f"query and document must be different texts, not both {self.query!r}.")
        for key in ("each", "pairs_of"):
            if getattr(self, key) is not None:
                key_path(getattr(self, key), key)
        paths = [path for key in ("query", "document") for _, path in parse_text(getattr(self, key) or "", key) if path]
        uses_element = any(path[0] == ELEMENT for path in paths)
        if uses_element != (self.each is not None):
            raise ValueError(
                "each names the list, and query or document must use an element of it, as `each` or `each.KEY`."
            )

    @property
    def rule(self) -> str:
        """The rule in one line, for people."""
        if self.layout is not None:
            return f"layout {self.layout}"
        if self.pairs_of is not None:
            return f"{self.pairs_of}: each -> next"
        negatives = f", not {', '.join(self.negatives)}" if self.negatives else ""
        rule = f"{self.query} -> {self.document}{negatives}".replace("\n", "\\n")
        return rule + (f" of {self.each}" if self.each else "")

    def identity(self) -> dict[str, Any]:
        """All that decides which pairs are made, with names, sizes and times of local files.

        Raises:
            FileNotFoundError: a local path stands for no file; the message says where to get it.
            ValueError: a named file cannot be read by its ending.
        """
        settings = dataclasses.asdict(self)
        for key in ("paper_rows", "origin", "available"):
            del settings[key]
        if is_hub_id(self.path):
            return settings
        try:
            files = find_files(self.path, ROW_SUFFIXES)
        except FileNotFoundError as error:
            hint = f" To get it: {self.origin}" if self.origin else ""
            raise FileNotFoundError(f"source {self.name!r}: {error}{hint}") from error
        return {**settings, "files": file_stats(files)}


class PairRule:
    """The rule of a source, ready to be used on its rows.

    Args:
        source: the source.

    Attributes:
        list_path: path of the list that `each` or `pairs_of` names, if there is one.
        paths: every path that the rule reads, kept columns and the list included.
        columns: the columns these start from, which are all that must be read.
    """

    def __init__(self, source: RawSource) -> None:
        self._source = source
        self._layout = LAYOUTS[source.layout] if source.layout else None
        listed = source.each or source.pairs_of
        self.list_path = key_path(listed, ELEMENT) if listed else None
        self._query = parse_text(source.query or ELEMENT, "query")
        self._document = parse_text(source.document or ELEMENT, "document")
        self._negatives = [parse_text(text, "negatives") for text in source.negatives]
        texts = [path for parts in (self._query, self._document, *self._negatives) for _, path in parts if path]
        if self._layout is not None:
            texts = [(self._layout.query,), (self._layout.positives,)]
        columns = [(column,) for column in (*source.where, *source.keep)]
        paths = [*([self.list_path] if self.list_path else []), *texts, *columns]
        self.paths = list(dict.fromkeys(path for path in paths if path != (ELEMENT,)))
        self.columns = list(dict.fromkeys(path[0] for path in self.paths if path[0] != ELEMENT))

    def reads(self, column: str) -> bool:
        """Whether the rule reads a column."""
        return column in self.columns or (self._layout is not None and self._layout.reads(column))

    @property
    def reads_more(self) -> bool:
        """Whether it may read more columns than `columns`, which every source has: a layout's hard negatives."""
        return self._layout is not None

    def pairs(self, row: Mapping[str, Any], where: str) -> Iterator[dict[str, Any] | str]:
        """The outcomes of a row, in order: a pair, or the reason why there is none.

        Args:
            row: columns to values; a column that is not there counts as null.
            where: what to call the row in an error.

        Yields:
            Pairs with the keys `query`, `document`, those of `keep` and perhaps `negatives`, or one of the reasons of
            this module.

        Raises:
            ValueError: a value has the wrong type, for instance a number where a text is expected.
        """
        if not all(row.get(column) in _values(wanted) for column, wanted in self._source.where.items()):
            yield OTHER_VALUE
            return
        if self._layout is not None:
            texts = {column: value for column, value in row.items() if self._layout.reads(column)}
            for pair in self._layout.pairs(texts, where, may_be_blank=True):
                yield self._checked(pair["query"].strip(), pair["document"].strip(), pair["negatives"], row, where)
            return
        if self.list_path is None:
            yield self._pair(row, row, row, where)
            return
        elements = value_at(row, self.list_path, where)
        if elements is not None and not isinstance(elements, list):
            raise ValueError(f"{where}, column {'.'.join(self.list_path)!r}: {shown_value(elements)}, not a list.")
        scopes = [{**row, ELEMENT: element} for element in elements or []]
        if self._source.pairs_of is not None:
            following = list(zip(scopes, scopes[1:], strict=False))
        else:
            following = [(scope, scope) for scope in scopes]
        if not following:
            yield NO_LIST
        for first, second in following:
            yield self._pair(first, second, row, where)

    def _pair(self, query_scope: Mapping, document_scope: Mapping, row: Mapping, where: str) -> dict[str, Any] | str:
        query, document = _text(query_scope, self._query, where), _text(document_scope, self._document, where)
        negatives = [text for parts in self._negatives for text in _texts_at(document_scope, parts, where)]
        return self._checked(query, document, negatives, row, where)

    def _checked(
        self, query: str | None, document: str | None, negatives: list[str], row: Mapping, where: str
    ) -> dict[str, Any] | str:
        if not query:
            return NO_QUERY
        if not document:
            return NO_DOCUMENT
        if not _within(query, self._source.query_chars):
            return QUERY_LENGTH
        if not _within(document, self._source.document_chars):
            return DOCUMENT_LENGTH
        if normalize_text(query) == normalize_text(document):
            return SAME_TEXT
        kept = json_of({column: row.get(column) for column in self._source.keep}, where)
        same = normalize_text(document)
        negatives = [text.strip() for text in negatives if text.strip() and normalize_text(text) != same]
        try:
            (query + document + kept + "".join(negatives)).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
            return NOT_UNICODE
        with_negatives = {"negatives": negatives} if self._negatives or self._layout is not None else {}
        return {"query": query, "document": document, **with_negatives, **json.loads(kept)}


def key_path(text: str, what: str) -> KeyPath:
    """The keys of a path.

    Raises:
        ValueError: a key is blank; the message names `what`.
    """
    path = tuple(text.split("."))
    if not all(key.strip() for key in path):
        raise ValueError(f"{what}: {text!r} is no path; write names of columns and keys joined by dots.")
    return path


def parse_text(text: str, what: str) -> list[tuple[str, KeyPath | None]]:
    """A path or template as parts: literal text, then the path whose text follows it, if any.

    Raises:
        ValueError: the template is malformed; the message names `what`.
    """
    if "{" not in text and "}" not in text:
        return [("", key_path(text, what))] if text else []
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{what}: the template {text!r} is malformed ({error}); write braces as {{{{.") from error
    if not any(field for _, field, _, _ in parts):
        raise ValueError(f"{what}: the template {text!r} names no column in braces.")
    if any(form or conversion for _, _, form, conversion in parts):
        raise ValueError(f"{what}: the template {text!r} must have paths alone in its braces.")
    return [(literal, None if field is None else key_path(field, what)) for literal, field, _, _ in parts]


def value_at(row: Any, path: KeyPath, where: str) -> Any:
    """The value at a path; None where the path ends early.

    Raises:
        ValueError: the path leads into a value that has no keys.
    """
    value = row
    for depth, key in enumerate(path):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit():
            value = value[int(key)] if int(key) < len(value) else None
        elif value is not None:
            hint = "name the list as `each`, or one place of it" if isinstance(value, list) else "correct the path"
            raise ValueError(
                f"{where}, column {'.'.join(path[:depth])!r}: {shown_value(value)} has no {key!r}; {hint}."
            )
    return value


def has_path(row: Any, path: KeyPath) -> bool:
    """Whether a path leads to a value of a row, null included."""
    value = row
    for key in path:
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False
    return True


def _text(scope: Mapping, parts: list[tuple[str, KeyPath | None]], where: str) -> str | None:
    """The text of a template, or None where a part of it has no text."""
    pieces = []
    for literal, path in parts:
        pieces.append(literal)
        if path is None:
            continue
        value = value_at(scope, path, where)
        if value is not None and not isinstance(value, str):
            hint = "name it as `each`, or one place of it" if isinstance(value, list) else "name another column"
            raise ValueError(f"{where}, column {'.'.join(path)!r}: {shown_value(value)}, not a text; {hint}.")
        if value is None or not value.strip():
            return None
        pieces.append(value.strip())
    return "".join(pieces).strip()


def _texts_at(scope: Mapping, parts: list[tuple[str, KeyPath | None]], where: str) -> list[str]:
    """The text of a template, or the texts of the list that a path leads to."""
    if len(parts) == 1 and not parts[0][0] and parts[0][1] is not None:
        value = value_at(scope, parts[0][1], where)
        if isinstance(value, list) and all(text is None or isinstance(text, str) for text in value):
            return [text for text in value if text is not None]
    text = _text(scope, parts, where)
    return [] if text is None else [text]


def _values(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(is_filled(text) for text in value):
        raise ValueError(f"{key} must be a list of texts, not {value!r}.")
    return tuple(value)


def _limits(key: str, value: Any) -> tuple[int | None, int | None]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{key} must be [least, most] characters, not {value!r}.")
    least, most = value
    if any(limit is not None and not (is_number(limit) and limit >= 0) for limit in value):
        raise ValueError(f"{key} must be two numbers of characters, or null for no limit, not {value!r}.")
    if least is not None and most is not None and least > most:
        raise ValueError(f"{key}: no text has at least {least} and at most {most} characters.")
    return least, most


def _kept_columns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(is_filled(column) for column in value):
        raise ValueError(f"keep must be a list of columns, not {value!r}.")
    if len({*value, "query", "document", "negatives"}) < len(value) + 3:
        raise ValueError(
            f"keep must name different columns, and none of the name query, document or negatives, not {value!r}."
        )
    return tuple(value)


def _within(text: str, limits: tuple[int | None, int | None]) -> bool:
    least, most = limits
    return (least is None or len(text) >= least) and (most is None or len(text) <= most)
