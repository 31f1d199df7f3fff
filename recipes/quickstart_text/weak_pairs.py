"""Pairs that a text gives by itself, as weak supervision: many more than there are summaries with a body.

- The words of a name, and the text: `solve_banded` -> "Solve the equation a x = b for x, ...".
- A few words in a row, and the text without them: the inverse cloze task (Lee, Chang and Toutanova 2019,
  doi:10.18653/v1/P19-1612). It teaches which words tell texts apart, rare ones among them.
"""

import random
import re
from collections.abc import Iterable

from recipes.quickstart_text.docstrings import Docstring, DocstringPair

_MIN_CHARACTERS = 40  # of a text that has a name
_MIN_WORDS = 40  # of a text that a query is cut out of
_QUERY_WORDS = (6, 16)
_MIN_NAME_WORDS = 2
_CASE_CHANGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def weak_pairs(records: Iterable[Docstring], limit: int, seed: int) -> list[DocstringPair]:
    """Make pairs of documentation strings, equal strings counted once.

    Args:
        records: documentation strings, in random order.
        limit: most pairs of each kind and package.
        seed: of where the words are cut out.

    Returns:
        The pairs, in random order.
    """
    draw = random.Random(seed)
    taken: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    pairs: list[DocstringPair] = []
    for record in records:
        if record["text"] in seen:
            continue
        seen.add(record["text"])
        for kind, pair in (("name", _named(record)), ("cloze", _cut_out(record, draw))):
            place = (kind, record["package"])
            if pair is not None and taken.get(place, 0) < limit:
                taken[place] = taken.get(place, 0) + 1
                pairs.append(pair)
    draw.shuffle(pairs)
    return pairs


def split_name(name: str) -> list[str]:
    """The words of the last two parts of a dotted name: `a.b.DataFrame.to_csv` -> Data, Frame, to, csv."""
    return _CASE_CHANGE.sub(" ", " ".join(name.split(".")[-2:]).replace("_", " ")).split()


def _named(record: Docstring) -> DocstringPair | None:
    words = split_name(record["name"])
    if len(words) < _MIN_NAME_WORDS or len(record["text"]) < _MIN_CHARACTERS:
        return None
    return _pair(record, " ".join(words), record["text"])


def _cut_out(record: Docstring, draw: random.Random) -> DocstringPair | None:
    words = record["body"].split()
    if len(words) < _MIN_WORDS:
        return None
    length = draw.randint(*_QUERY_WORDS)
    start = draw.randrange(len(words) - length)
    return _pair(record, " ".join(words[start : start + length]), " ".join(words[:start] + words[start + length :]))


def _pair(record: Docstring, query: str, document: str) -> DocstringPair:
    return DocstringPair(query=query, document=document, package=record["package"], name=record["name"])
