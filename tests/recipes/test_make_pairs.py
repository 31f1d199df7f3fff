"""Making pairs as a person runs it: one process or several ranks, once or again."""

import gzip
import json
import os
from functools import partial

import pytest

from curation.raw import pairs as raw_pairs
from curation.raw.rules import NO_DOCUMENT, SAME_TEXT, RawSource
from curation.sources import Source, open_pairs
from recipes import make_pairs
from tests.commands import contents
from tests.commands import refusal as refused
from tests.processes import Forked, run_ranks
from textfiles.rows import rows_of
from textfiles.settings import read_section
from textfiles.writing import write_jsonl

NAMES = ["papers", "sets"]


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Raw files and a config, in the current directory; the output directory is named relative to it."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": i, "title": f"title {i}", "cites": [{"abstract": f"paper {j} of {i}"} for j in range(i % 4)]}
        for i in range(30)
    ]
    rows[5]["cites"][0]["abstract"] = None
    write_jsonl(rows[:20], tmp_path / "papers" / "a.jsonl.gz")
    write_jsonl(rows[20:], tmp_path / "papers" / "b.jsonl")
    write_jsonl([{"set": [f"a {i}", f"b {i}", f"B, {i}", "c " * i]} for i in range(1, 24)], tmp_path / "sets.jsonl")
    papers = {"name": "papers", "path": "papers", "query": "title", "document": "each.abstract", "each": "cites"}
    gone = {"name": "gone", "path": "nowhere/*.jsonl", "query": "q", "document": "d", "available": "taken down"}
    sources = [
        {**papers, "keep": ["id"], "query_prefix": "clustering", "document_prefix": "clustering", "paper_rows": 99},
        {"name": "sets", "path": "sets.jsonl", "pairs_of": "set"},
        gone,
    ]
    (tmp_path / "raw.yaml").write_text(json.dumps({"sources": sources, "rows_per_shard": 7}))
    return tmp_path


def run(*more):
    make_pairs.main(["--config", "raw.yaml", "--output_dir", "out", *more])


refusal = partial(refused, run)


def expected_papers():
    """(query, document, id) in the order of the rows, written without the rules."""
    return [
        (f"title {i}", f"paper {j} of {i}", i) for i in range(30) for j in range(i % 4) if (i, j) != (5, 0)
    ]  # fmt: skip


def test_pairs_and_report(raw, capsys):
    run()
    files = sorted((raw / "out" / "papers").glob("*.jsonl.gz"))
    assert [file.name for file in files] == [f"pairs-{shard:05}-of-00005.jsonl.gz" for shard in range(5)]
    pairs = [row for file in files for row in rows_of(file)]
    assert [(row["query"], row["document"], row["id"]) for row in pairs] == expected_papers()
    assert [row["id"] // 7 for row in rows_of(files[2])] == [2] * len(list(rows_of(files[2])))
    report = json.loads((raw / "out" / "papers" / "report.json").read_text())
    assert (report["rows"], report["pairs"]) == (30, len(pairs))
    # rows 0, 4, 8, ... cite nothing
    assert report["left_out"] == {"no usable list": 8, NO_DOCUMENT: 1}
    lengths = [len(row["document"]) for row in pairs]
    assert report["lengths"]["document characters"]["mean"] == round(sum(lengths) / len(lengths), 1)
    assert report["lengths"]["query words"] == {"mean": 2.0, "p50": 2, "p90": 2, "p99": 2, "max": 2}
    assert len(report["samples"]) == 10 and all(sample in pairs for sample in report["samples"])
    assert len({sample["document"] for sample in report["samples"]}) == 10
    page = (raw / "out" / "papers" / "report.md").read_text()
    assert "| raw rows | 30 |" in page and f"| pairs | {len(pairs)} |" in page and "| 99 |" in page
    sets = json.loads((raw / "out" / "sets" / "report.json").read_text())
    assert (sets["pairs"], sets["left_out"][SAME_TEXT]) == (2 * 23, 23)
    assert "gone: skipped, not available: taken down" in capsys.readouterr().out
    assert not list(raw.glob("out/*/.work"))


def test_what_was_made_can_be_trained_on(raw):
    run("--only", "[papers]")
    report = json.loads((raw / "out" / "papers" / "report.json").read_text())
    pairs = open_pairs(read_section(Source, report["for_training"], "report"), raw / "cache")
    assert [(row["query"], row["document"]) for row in pairs] == [pair[:2] for pair in expected_papers()]
    assert not (raw / "out" / "sets").exists()


def test_ranks_give_the_same_files(raw):
    run()
    one = contents(raw / "out")
    (raw / "out").rename(raw / "one")
    run_ranks(2, make_pairs.__file__, ["--config", "raw.yaml", "--output_dir", "out"], raw)
    assert len(one) == (5 + 4) * 2 + 2 * 3  # shards with their counts; settings and two reports
    assert contents(raw / "out") == one


def die_in_the_third_shard():
    """The pairs are there and their counts are not, so the shard is made again."""
    write, done = raw_pairs.write_jsonl, []

    def write_and_die(rows, path):
        write(rows, path)
        done.append(path)
        if len(done) == 3:
            path.write_bytes(b"cut short")
            os.kill(os.getpid(), 9)

    raw_pairs.write_jsonl = write_and_die
    run()


def test_a_killed_run_goes_on_and_ends_the_same(raw):
    run()
    whole = contents(raw / "out")
    (raw / "out").rename(raw / "whole")
    killed = Forked(die_in_the_third_shard, directory=raw)
    assert killed.wait() == -9, killed.printed[-3000:]
    begun = {path: path.stat().st_mtime_ns for path in sorted((raw / "out" / "papers").glob("*-0000[01]-of-*"))}
    assert len(begun) == 4 and len(list(raw.glob("out/papers/*.jsonl.gz"))) == 3
    assert "rows_per_shard was " in refusal("--rows_per_shard", "8")
    run()
    assert contents(raw / "out") == whole
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    run()  # finished: nothing is made
    assert contents(raw / "out") == whole


@pytest.mark.parametrize("share_left", [0, 0.5])
def test_a_lost_shard_of_a_finished_source_is_made_again(raw, share_left):
    run()
    whole = contents(raw / "out")
    shard = raw / "out" / "sets" / "pairs-00001-of-00004.jsonl.gz"
    os.truncate(shard, int(share_left * shard.stat().st_size))
    run()
    assert contents(raw / "out") == whole


def test_a_file_that_was_refused_is_read_again_once_it_is_mended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = {"name": "a", "path": "a.jsonl", "query": "q", "document": "d"}
    (tmp_path / "raw.yaml").write_text(json.dumps({"sources": [source]}))
    write_jsonl([{"q": "one", "d": 1}], tmp_path / "a.jsonl")
    assert "a.jsonl, line 1" in refusal()
    write_jsonl([{"q": "one", "d": "two"}], tmp_path / "a.jsonl")
    run()
    (row,) = (row for file in (tmp_path / "out" / "a").glob("*.jsonl.gz") for row in rows_of(file))
    assert row["document"] == "two"


def test_what_cannot_be_made_is_named(raw, capsys):
    run("--dry_run")
    table = capsys.readouterr().out
    assert "each.abstract of cites" in table and "taken down" in table and "99" in table
    assert not (raw / "out").exists()
    assert refusal("--only", "[gone]") == "error: only: gone is not available: taken down"
    assert "there is no source 'paper'; did you mean 'papers'?" in refusal("--only", "[paper]")
    assert "rows_per_shard must be" in refusal("--rows_per_shard", "0")
    missing = {"name": "x", "path": "nowhere/*.jsonl", "pairs_of": "s", "origin": "ask the library"}
    assert "To get it: ask the library" in refusal("--sources", json.dumps([missing]))
    assert "sources[0] (x): unknown key 'qery'; did you mean 'query'" in refusal("--sources", "[{name: x, qery: a}]")
    twice = [{"name": "x", "path": "p", "pairs_of": "s"}] * 2
    assert "sources: the name 'x' is used twice" in refusal("--sources", json.dumps(twice))
    (raw / "bad.jsonl").write_text('{"q": "fine", "d": "x"}\n{"q": 3, "d": "x"}\n')
    bad = [{"name": "bad", "path": "bad.jsonl", "query": "q", "document": "d"}]
    assert "bad.jsonl, line 2, column 'q': the int '3'" in refusal("--sources", json.dumps(bad))
    none = [{**bad[0], "name": "none", "path": "sets.jsonl", "query": "set.0", "document": "set.1",
             "query_chars": [99, None]}]  # fmt: skip
    assert "none of the 23 rows of sets.jsonl made a pair (23 query outside" in refusal("--sources", json.dumps(none))


def test_real_text(shared_data, tmp_path):
    """A rule that takes each row as it is gives back the file's own rows."""
    file = shared_data / "pairs" / "opentriviaqa.jsonl.gz"
    entry = {"name": "trivia", "path": str(file), "query": "query", "document": "document", "limit": 300}
    assert RawSource(**entry).rule == "query -> document"
    make_pairs.main(["--sources", json.dumps([entry]), "--output_dir", str(tmp_path), "--rows_per_shard", "128"])
    made = [row for path in sorted((tmp_path / "trivia").glob("*.jsonl.gz")) for row in rows_of(path)]
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(300)]
    report = json.loads((tmp_path / "trivia" / "report.json").read_text())
    assert len(made) == report["pairs"] == 300 - sum(report["left_out"].values())
    found = iter((row["query"].strip(), row["document"].strip()) for row in rows)
    assert all((pair["query"], pair["document"]) in found for pair in made)  # in order
