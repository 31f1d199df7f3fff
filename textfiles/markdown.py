"""Text that people read: Markdown in which text from data cannot break out of its place, and tables of a terminal."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_MARKDOWN = re.compile(r"([\\`*_\[\]|#~$!])")
_ADDRESS = re.compile(r":(?=//)|(?<=\bwww)\.", re.IGNORECASE)  # GitHub makes a link of these without any markup


def render_page(
    template: Path,
    facts: Mapping[str, Any],
    filters: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Fill a Jinja template, a file that reads as the page it makes.

    In every template there are the filters `escaped`, `literal`, `one_line`, `number`, `share` and `table`. Whatever
    comes from data goes through one of the first two, or through `one_line` in a block of code.

    Args:
        template: the file; it may include others beside it.
        facts: what its names stand for; any other name is an error.
        filters: more filters, name -> function.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        **{filter.__name__: filter for filter in (escaped, literal, one_line, number, share)},
        "table": lambda rows, header, numbers=0: table(header, rows, numbers),
        **filters,
    }
    return environment.get_template(template.name).render(facts).rstrip("\n") + "\n"


def one_line(text: str, characters: int | None = None) -> str:
    """A text on one line, cut after some characters. Markup in it still is markup, except in a block of code."""
    line = " ".join(text.split())
    if characters is None or len(line) <= characters:
        return line
    return f"{line[:characters]} ... ({len(line):,} characters)"


def escaped(text: Any) -> str:
    """One line of plain text: no markup, no link, no table cell and no HTML comes from it."""
    line = _ADDRESS.sub(r"\\\g<0>", _MARKDOWN.sub(r"\\\1", one_line(str(text))))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Cells side by side, for a terminal.

    Args:
        rows: of the same number of cells.
        right: numbers of the columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.rjust if number in right else str.ljust for number in range(len(widths))]
    lines = ([side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


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


def counted(count: int, noun: str) -> str:
    """A number of things: 1 source, 2,000 sources."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def share(count: int, of: int) -> str:
    """A share in percent. A part that exists is never shown as 0%, nor an incomplete one as 100%."""
    percent = 100 * count / of if of else 0.0
    if 0 < percent < 0.1:
        return "<0.1%"
    return f"{min(percent, 99.9) if count < of else percent:.1f}%"
