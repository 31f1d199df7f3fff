"""Markdown that people read: tables and code in which text from data cannot break out of its place."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~$!])")


def escaped(text: Any) -> str:
    """One line of plain text: no markup, no table cell and no HTML comes from it."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split())).replace("&", "&amp;")


def literal(text: Any) -> str:
    """A text shown as it is, spaces included, in a code span that also holds in a table."""
    line = str(text).replace("\r", " ").replace("\n", " ").replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else "none"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table of ready cells.

    Args:
        header: titles.
        rows: cells, as many as titles.
        numbers: columns at the right that hold numbers.
    """
    texts = len(header) - numbers
    lines = [header, ["---"] * texts + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```"


def number(value: Any) -> str:
    """A number for people: 16,384, 0.0002, 2e-05; other values as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{escaped(key)} {number(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(inner) for inner in value)
    return escaped(value)
