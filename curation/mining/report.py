"""What mining found: counts, how near the negatives are beside the pairs' own documents, and rows to read."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from curation.mining.miner import SourceMiner
from textfiles.atomic import write_text
from textfiles.markdown import render_page
from textfiles.rows import rows_of
from textfiles.shards import write_receipt

_PERCENTILES = (5, 25, 50, 75, 95)
_EXAMPLES, _NEGATIVES_SHOWN = 5, 3
REPORT = "report.json"


def write_report(miner: SourceMiner, directory: Path) -> dict[str, Any]:
    """Write report.md and then report.json, which says that the source is mined, and return the latter's content.

    Args:
        miner: all of its shards are there.
        directory: where to.

    Returns:
        `rows`, and of these `mined`, `left_alone`, `with_fewer` than the negatives asked for, `with_none` of them;
        `documents` that negatives were taken from; the cosines of `negatives` and `own_documents` with the query,
        where they were computed: `mean` and percentiles; and some `examples`, whose rows are counted from 1.
    """
    shards = [np.load(path) for path in miner.scores.paths()]
    counts = np.concatenate([shard["counts"] for shard in shards])
    mined = counts[counts >= 0]
    report = {
        "source": miner.task.source.name,
        "draw": miner.task.source.draw,
        "documents": miner.task.numbering.num_candidates,
        "rows": len(counts),
        "mined": len(mined),
        "left_alone": len(counts) - len(mined),
        "with_fewer": int((mined < miner.settings.limits.num_negatives).sum()),
        "with_none": int((mined == 0).sum()),
        "negatives": _distribution([shard["scores"] for shard in shards]),
        "own_documents": _distribution([shard["own_scores"] for shard in shards]),
        "examples": _examples(miner),
    }
    facts = {**report, "summary": summary(report, miner.settings.limits.num_negatives)}
    write_text(directory / "report.md", render_page(Path(__file__).with_name("report.md.jinja"), facts))
    write_receipt(directory / REPORT, [directory / "report.md", *miner.pairs.paths()], report)
    return report


def summary(report: dict[str, Any], num_negatives: int) -> str:
    """The counts of a report in a line."""
    return (
        f"{report['source']}: {report['rows']:,} rows, {report['mined']:,} mined ({report['draw']} of "
        f"{report['documents']:,} documents), {report['left_alone']:,} left alone, which had negatives; "
        f"{report['with_fewer']:,} have fewer than {num_negatives}, of which {report['with_none']:,} have none"
    )


def _distribution(scores: list[np.ndarray]) -> dict[str, float] | None:
    values = np.concatenate(scores)
    if not len(values):
        return None
    percentiles = np.percentile(values, _PERCENTILES).tolist()
    named = {f"p{place}": round(value, 4) for place, value in zip(_PERCENTILES, percentiles, strict=True)}
    return {"mean": round(float(values.mean(dtype=np.float64)), 4), **named}


def _examples(miner: SourceMiner) -> list[dict[str, Any]]:
    random, source = np.random.default_rng(miner.settings.seed), miner.task.source
    rows = random.choice(miner.task.num_rows, min(_EXAMPLES, miner.task.num_rows), replace=False)
    examples = []
    for number in sorted(rows.tolist()):
        shard, place = divmod(number, miner.settings.rows_per_shard)
        row = next(itertools.islice(rows_of(miner.pairs.path(shard)), place, None))
        texts = {"query": row[source.query], "document": row[source.document]}
        examples.append({"row": number + 1, **texts, "negatives": row[source.negatives_column][:_NEGATIVES_SHOWN]})
    return examples
