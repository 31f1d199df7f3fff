"""What people read of curation shows texts of rows as they are: nothing in them becomes markup."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
from markdown_it import MarkdownIt

from curation.audit.page import audit_page
from curation.filtering import report as filtering
from curation.filtering.consistency import RANK_BINS, KeepRule, Samples
from curation.mining import report as mining
from curation.raw import pairs as raw
from curation.raw.rules import RawSource
from textfiles.shards import ShardFiles, write_receipt

TEXTS = [
    "<script>alert(1)</script>",
    "![seen](https://example.com/pixel.png) [press](https://example.com)",
    "line\n\n# heading\n\n<img src=x onerror=alert(1)>\n\n- item | cell |",
    "```\n</code></pre><b>out</b>\n~~~\n    indented",
    "\u2028<i>x</i>\u2029\r\n<b>y</b>",
]
NAME = "a|b <b>![x](y.png)</b> [c](https://example.com)"


def check(page, plots=()):
    html = MarkdownIt("commonmark").enable("table").render(page)
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "ul", "li",
                    "strong", "img"}  # fmt: skip
    assert re.findall(r'<img src="([^"]*)"', html) == list(plots)
    for text in TEXTS:
        line = " ".join(text.split()).split(" ", 1)[0]
        assert line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in html


def test_the_audit():
    counts = {"query": 1, "document": 1, "pair": 1}
    repeated = [{"rows": 2, "text": text} for text in TEXTS]
    source = {"name": NAME, "rows": 5, "repeated": counts, "distinct": counts, "blank": counts, "lengths": {}}
    source |= {"most_repeated": {"query": repeated, "document": repeated}}
    source["samples"] = [{"row": 1, "query": text, "document": text, "negatives": [text] * 3} for text in TEXTS]
    by_text = [{"kind": NAME, "side": "query", "texts": 1, "rows": 1, "examples": [{"row": 1, "text": text}]}
               for text in TEXTS]  # fmt: skip
    overlaps = [{"source": NAME, "rows_with_both": 1, "by_text": by_text}]
    evaluation = {"name": NAME, "texts": {NAME: 1}, "overlaps": overlaps}
    shared = [{"sources": [NAME, NAME], "document": 1, "query": 1}]
    report = {"settings": {"sample_rows": 1, "tokenizer": NAME}, "sources": [source, source], "shared": shared}
    plots = ["lengths.png", "shared_documents.png", "shared_queries.png"]
    check(audit_page({**report, "evaluation_sets": [evaluation]}), plots)


def test_the_consistency_filter():
    shown = [{"row": 1, "rank": 1, "similarity": 0.5, "query": text, "document": text, "nearest_document": f"{text}."}
             for text in TEXTS]  # fmt: skip
    report = {"source": NAME, "samples": 1, "rows": 9, "kept": 4, "blank": 1, "first_blank_rows": [3]}
    report |= {"ranks": [1] * (len(RANK_BINS) + 1), "threshold": {"similarity": 0.1, "decides_otherwise": 2}}
    report |= {"dropped_with_another_document": 1, "distinct_queries": 1, "distinct_documents": 1}
    job = SimpleNamespace(rule=KeepRule(), samples=Samples(9, 9, 0))
    check(filtering._page(job, {**report, "kept_rows": shown, "dropped_rows": shown}), ["audit.png"])


def test_mining(tmp_path, monkeypatch):
    examples = [{"row": 1, "query": text, "document": text, "negatives": [text]} for text in TEXTS]
    monkeypatch.setattr(mining, "_examples", lambda _: examples)
    scores = ShardFiles(tmp_path, "scores", 1, ".npz")
    np.savez(scores.path(0), counts=np.array([1]), scores=np.array([0.5]), own_scores=np.array([0.75]))
    task = SimpleNamespace(
        source=SimpleNamespace(name=NAME, draw="nearest"), numbering=SimpleNamespace(num_candidates=3)
    )
    settings = SimpleNamespace(limits=SimpleNamespace(num_negatives=2))
    pairs = ShardFiles(tmp_path, "pairs", 0, ".jsonl.gz")
    mining.write_report(SimpleNamespace(scores=scores, pairs=pairs, task=task, settings=settings), tmp_path)
    page = (tmp_path / "report.md").read_text()
    check(page)
    assert "| own document | 0.750 |" in page and "| negatives | 0.500 |" in page


def test_raw_pairs(tmp_path):
    source = RawSource(name="papers", path="a`<b>`.jsonl", query="q", document="d")
    files = ShardFiles(tmp_path, "pairs", 1, ".jsonl.gz")
    files.path(0).write_bytes(b"")
    lengths = {unit: [[3, 5]] for unit in raw._UNITS}
    samples = [[0.1, {"query": text, "document": text, NAME: text}] for text in TEXTS]
    counts = {"rows": 5, "pairs": 5, "left_out": {NAME: 1}, "lengths": lengths, "samples": samples}
    write_receipt(files.receipt(0), [files.path(0)], counts)
    report = raw.finish(source, files)
    page = (tmp_path / "report.md").read_text()
    check(page)
    assert f"    - {json.dumps(report['for_training'], ensure_ascii=False)}\n" in page
    assert dataclasses.asdict(source) == report["source"]
