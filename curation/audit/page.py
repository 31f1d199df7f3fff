"""The page that a person reads of an audit: Markdown made of what audit.json holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curation.audit.counting import LIMITS

_SHOWN_CHARACTERS = 240
_SHOWN_SHARED = 60  # pairs of sources; all are in audit.json
_SHOWN_EXAMPLES = 5  # of each evaluation set
_NAMES = {"query": "queries", "document": "documents", "negatives": "hard negatives"}
LENGTHS_PLOT = "lengths.png"
SHARED_PLOTS = {"document": "shared_documents.png", "query": "shared_queries.png"}


def audit_page(report: Mapping[str, Any]) -> str:
    """The content of audit.md.

    Args:
        report: The content of audit.json.
    """
    sources = report["sources"]
    rows = sum(source["rows"] for source in sources)
    what = f"{sources[0]['name']}" if len(sources) == 1 else f"{len(sources)} sources"
    parts = [
        f"# Audit of {what}: {rows:,} pairs",
        "Texts are equal here if they differ in case, punctuation and layout alone. Rows are counted from 1. "
        "Everything on this page, and what it leaves out, is in audit.json.",
        "## Rows and repetitions",
        *_repetitions(sources),
        "## Lengths in tokens",
        *_lengths(report),
    ]
    if len(sources) > 1:
        parts += ["## Texts that sources share", *_shared(report)]
    parts += ["## Texts of evaluation sets", *_evaluation(report)]
    parts += ["## Most repeated texts", *_most_repeated(sources), "## Sample rows", *_samples(sources)]
    return "\n\n".join(parts) + "\n"


def _repetitions(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["source", "rows", "repeated pairs", "repeated queries", "repeated documents", "distinct documents"]
    rows = [
        [
            source["name"],
            f"{source['rows']:,}",
            *(_with_share(source["repeated"][side], source["rows"]) for side in ("pair", "query", "document")),
            f"{source['distinct']['document']:,}",
        ]
        for source in sources
    ]
    parts = [
        _table(header, rows),
        "Repeated: rows whose pair, query or document stands in an earlier row of the source.",
    ]
    if blank := [source for source in sources if any(source["blank"].values())]:
        counts = [f"{s['name']}: {s['blank']['query']:,} queries, {s['blank']['document']:,} documents" for s in blank]
        parts.append("**Blank texts**, which training refuses: " + "; ".join(counts) + ".")
    return parts


def _lengths(report: Mapping[str, Any]) -> list[str]:
    limits = [f"over {limit:,}" for limit in LIMITS]
    header = ["source", "texts", "mean", "50%", "90%", "99%", "max", *limits]
    parts = [
        f"Of {report['settings']['sample_rows']:,} rows of each source, a random choice, or all if there are fewer; "
        f"with task prefix and special tokens, uncut. Tokenizer: {report['settings']['tokenizer']}.",
        f"![Lengths in tokens]({LENGTHS_PLOT})",
    ]
    for name, plural in _NAMES.items():
        found = [(source["name"], source["lengths"].get(name)) for source in report["sources"]]
        rows = [_length_row(source, lengths) for source, lengths in found if lengths and lengths["texts"]]
        if rows:
            parts += [f"### {plural.capitalize()}", _table(header, rows)]
    return parts


def _length_row(source: str, lengths: Mapping[str, Any]) -> list[str]:
    numbers = [f"{lengths[key]:,}" for key in ("p50", "p90", "p99", "max")]
    over = [_with_share(lengths[f"over_{limit}"], lengths["texts"]) for limit in LIMITS]
    return [source, f"{lengths['texts']:,}", f"{lengths['mean']:,.1f}", *numbers, *over]


def _shared(report: Mapping[str, Any]) -> list[str]:
    shared = report["shared"]
    if not shared:
        return ["No two sources share a query or a document."]
    distinct = {source["name"]: source["distinct"] for source in report["sources"]}
    rows = []
    for entry in shared[:_SHOWN_SHARED]:
        first, second = entry["sources"]
        row = [first, second]
        for side in ("document", "query"):
            count = entry[side]
            row.append(f"{count:,}")
            row += [_share(count, distinct[name][side]) for name in (first, second)]
        rows.append(row)
    header = ["A", "B", "documents", "of A", "of B", "queries", "of A", "of B"]
    more = len(shared) - len(rows)
    return [
        "Distinct documents that are documents of both, and distinct queries that are queries of both."
        + (f" {more:,} more pairs of sources, with less in common, are in audit.json." if more else ""),
        *(f"![Shared {_NAMES[side]}]({plot})" for side, plot in SHARED_PLOTS.items() if any(e[side] for e in shared)),
        _table(header, rows),
    ]


def _evaluation(report: Mapping[str, Any]) -> list[str]:
    if not report["evaluation_sets"]:
        return ["No evaluation set was given (`--evaluation_sets`)."]
    parts = ["Whole texts are compared: one that a source repeats in part is not found here."]
    for held_out in report["evaluation_sets"]:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in held_out["texts"].items())
        parts.append(f"### {held_out['name']}\n\nDistinct texts: {counts}.")
        if not held_out["overlaps"]:
            parts.append("No source holds one of them.")
            continue
        rows, both = [], []
        for found in held_out["overlaps"]:
            source = found["source"]
            for overlap in found["by_text"]:
                share = _with_share(overlap["texts"], held_out["texts"][overlap["kind"]])
                side = _NAMES[overlap["side"]]
                rows.append([source, overlap["kind"], side, share, f"{overlap['rows']:,}"])
            if found["rows_with_both"]:
                both.append(f"{source} {found['rows_with_both']:,}")
        parts.append(_table(["source", "the set's", "found among its", "texts found", "rows with one"], rows))
        parts.append(f"Rows with both query and document from the set: {', '.join(both) or 'none'}.")
        parts.append(_block(_examples(held_out["overlaps"])))
    return parts


def _examples(overlaps: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """The first example of each source, kind and side, then the second of each, and so on."""
    groups = [(found["source"], overlap) for found in overlaps for overlap in found["by_text"]]
    longest = max(len(overlap["examples"]) for _, overlap in groups)
    lines = [
        f"{source}, row {overlap['examples'][place]['row']:,}, {overlap['side']} (the set's {overlap['kind']}):\n"
        f"    {_one_line(overlap['examples'][place]['text'])}"
        for place in range(longest)
        for source, overlap in groups
        if place < len(overlap["examples"])
    ]
    return lines[:_SHOWN_EXAMPLES]


def _most_repeated(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{entry['rows']:>11,}  {source['name']}, {side}: {_one_line(entry['text'])}"
        for source in sources
        for side in ("query", "document")
        for entry in source["most_repeated"][side]
    ]
    return ["Rows, and the text as the first of them has it.", _block(lines)] if lines else ["None is repeated."]


def _samples(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = []
    for source in sources:
        lines = []
        for row in source["samples"]:
            lines.append(f"row {row['row']:,}")
            lines += [f"  {side:<9} {_one_line(row[side])}" for side in ("query", "document")]
            negatives = row.get("negatives") or []
            lines += [f"  negative  {_one_line(text)}" for text in negatives[:2]]
            if len(negatives) > 2:
                lines.append(f"            and {len(negatives) - 2:,} more")
        parts += [f"### {source['name']}", _block(lines)]
    return parts


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table, text to the left and numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    numeric = [all(row[place].lstrip("<")[:1].isdigit() for row in cells) for place in range(len(header))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *cells])


def _block(lines: Iterable[str]) -> str:
    """Text that Markdown shows as it is: four spaces before every line."""
    return "\n".join("    " + line for entry in lines for line in entry.split("\n"))


def _one_line(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + f" ... ({len(line):,} characters)"


def _share(count: int, of: int) -> str:
    """In percent; what is there is never shown as 0, nor what is incomplete as 100."""
    percent = 100 * count / of if of else 0.0
    if 0 < percent < 0.1:
        return "<0.1%"
    return f"{min(percent, 99.9) if count < of else percent:.1f}%"


def _with_share(count: int, of: int) -> str:
    return f"{count:,} ({_share(count, of)})" if count else "0"
