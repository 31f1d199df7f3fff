"""The page that a person reads of an audit: `audit.md.jinja`, filled with what audit.json holds."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.audit.counting import LIMITS
from textfiles.markdown import number, one_line, render_page, share

_SHOWN_CHARACTERS = 240
_SHOWN_SHARED = 60  # pairs of sources; all are in audit.json
_SHOWN_EXAMPLES = 5  # of each evaluation set
_PLURALS = {"query": "queries", "document": "documents", "negatives": "hard negatives"}
LENGTHS_PLOT = "lengths.png"
SHARED_PLOTS = {"document": "shared_documents.png", "query": "shared_queries.png"}


def audit_page(report: Mapping[str, Any]) -> str:
    """The content of audit.md.

    Args:
        report: the content of audit.json.
    """
    sources = report["sources"]
    facts = {
        "map": None,  # where there is one, its place
        **report,
        "plurals": _PLURALS,
        "limits": LIMITS,
        "lengths": {kind: _measured(sources, kind) for kind in _PLURALS},
        "lengths_plot": LENGTHS_PLOT,
        "shared_plots": SHARED_PLOTS,
        "shown_shared": _SHOWN_SHARED,
        "distinct": {source["name"]: source["distinct"] for source in sources},
        "with_blank": [source for source in sources if any(source["blank"].values())],
        "most_repeated": [
            (source["name"], side, entry)
            for source in sources
            for side in ("query", "document")
            for entry in source["most_repeated"][side]
        ],
    }
    filters = {
        "with_share": lambda count, of: f"{number(count)} ({share(count, of)})" if count else "0",
        "shown": lambda text: one_line(text or "", _SHOWN_CHARACTERS),
        "examples": lambda overlaps: itertools.islice(_examples(overlaps), _SHOWN_EXAMPLES),
    }
    return render_page(Path(__file__).with_name("audit.md.jinja"), facts, filters)


def _measured(sources: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The sources that have texts of a kind, each with their lengths."""
    found = [(source["name"], source["lengths"].get(kind)) for source in sources]
    return [(name, lengths) for name, lengths in found if lengths and lengths["texts"]]


def _examples(overlaps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The first example of each source, kind and side, then the second of each, and so on."""
    groups = [(found["source"], overlap) for found in overlaps for overlap in found["by_text"]]
    longest = max(len(overlap["examples"]) for _, overlap in groups)
    for place in range(longest):
        for source, overlap in groups:
            if place < len(overlap["examples"]):
                yield source, overlap, overlap["examples"][place]
