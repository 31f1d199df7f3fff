"""An audit as a person runs it: one process or several ranks, once or again."""

import json
import re
import sys
from functools import partial

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from curation.duplicates import normalize_text
from curation.tokenizer import train_tokenizer
from recipes import audit
from recipes.steps import audit as step
from tests.commands import contents
from tests.commands import refusal as refused
from tests.processes import run_ranks
from textfiles.rows import rows_of
from textfiles.writing import write_jsonl

WORDS = ["river", "stone", "house", "light", "paper", "water", "night", "field"]


def text(place, step, words):
    return " ".join(WORDS[(place * step + word) % 8] for word in range(words))


@pytest.fixture
def data(tmp_path):
    """Two sources that share texts, one of them with negatives and a prefix, an evaluation set, and a tokenizer."""
    plain = [{"query": text(i, 3, 1 + i % 4), "document": text(i, 1, 2 + i % 5)} for i in range(50)]
    mined = [
        {"q": text(i, 1, 2).upper(), "document": text(i, 3, 3 + i % 7) + "!", "negatives": [text(i, 5, 4)] * (i % 3)}
        for i in range(23)
    ]
    write_jsonl(plain, tmp_path / "plain.jsonl.gz")
    write_jsonl(mined, tmp_path / "mined.jsonl")
    mapping = {"name": "mined", "path": str(tmp_path / "mined.jsonl"), "query": "q", "negatives": "negatives"}
    mapping |= {"query_prefix": "search_query", "document_prefix": "search_document"}
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump({"learning_rate": 1.0, "sources": [mapping]}))
    write_jsonl([{"text": "River stone."}, {"text": "nowhere else"}], tmp_path / "held_out.jsonl")
    train_tokenizer([text(i, 3, 8) for i in range(8)], 80, tmp_path / "tokenizer")
    return tmp_path


def argv(data, output, *more):
    options = {"sources_from": "stage.yaml", "tokenizer": "tokenizer", "output_dir": output}
    paths = [word for key, name in options.items() for word in (f"--{key}", str(data / name))]
    sets = ["--evaluation_sets", json.dumps([str(data / "held_out.jsonl")])]
    return [str(data / "plain.jsonl.gz"), *paths, *sets, "--rows_per_shard", "9", "--sample_rows", "15", *more]


refusal = partial(refused, audit.main)


def test_ranks_give_the_same_files(data):
    audit.main(argv(data, "one"))
    run_ranks(2, audit.__file__, argv(data, "ranks"))
    one = contents(data / "one")
    assert one.keys() == {"audit.md", "audit.json", "lengths.png", "shared_documents.png", "shared_queries.png"}
    assert contents(data / "ranks") == one


def test_an_interrupted_run_goes_on_and_ends_the_same(data, monkeypatch):
    audit.main(argv(data, "whole"))
    monkeypatch.setattr(step, "make_report", lambda *_: sys.exit("stopped"))
    assert refusal(argv(data, "again")) == "stopped"
    monkeypatch.undo()
    work = data / "again" / ".work"
    files = sorted(path for path in work.iterdir() if path.suffix in (".npy", ".npz"))
    assert len(files) == 6 + 3 + 2  # shards of keys, and lengths
    for path in files[::3]:
        path.unlink()
    made = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    assert "sample_rows was " in refusal(argv(data, "again", "--sample_rows", "3"))
    monkeypatch.setattr(step, "clear_finished", lambda *_: None)
    audit.main(argv(data, "again"))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    again = {name: (data / "again" / name).read_bytes() for name in contents(data / "whole")}
    assert again == contents(data / "whole")
    monkeypatch.undo()
    assert "holds an audit already" in refusal(argv(data, "again"))
    assert not work.exists()


def test_the_report_says_what_is_there(data):
    audit.main(argv(data, "out", "--sample_rows", "100"))
    report = json.loads((data / "out" / "audit.json").read_text())
    plain, mined = report["sources"]
    assert (plain["name"], plain["rows"], mined["name"], mined["rows"]) == ("plain", 50, "mined", 23)
    rows = list(rows_of(data / "mined.jsonl"))
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    for name, texts in {
        "query": ["search_query: " + row["q"] for row in rows],
        "document": ["search_document: " + row["document"] for row in rows],
        "negatives": ["search_document: " + negative for row in rows for negative in row["negatives"]],
    }.items():
        lengths = [len(tokenizer(words)["input_ids"]) for words in texts]
        assert mined["lengths"][name]["texts"] == len(texts)
        assert mined["lengths"][name]["mean"] == round(np.mean(lengths), 1)
        assert mined["lengths"][name]["max"] == max(lengths)
    for sample in mined["samples"]:
        row = rows[sample["row"] - 1]
        assert (sample["query"], sample["negatives"]) == (row["q"], row["negatives"])
    (held_out,) = report["evaluation_sets"]
    plain_rows = list(rows_of(data / "plain.jsonl.gz"))
    hits = [i for i, row in enumerate(plain_rows, 1) if normalize_text(row["document"]) == "river stone"]
    (overlap,) = [o for o in held_out["overlaps"][0]["by_text"] if o["side"] == "document"]
    assert (overlap["texts"], overlap["rows"]) == (1, len(hits))
    assert [example["row"] for example in overlap["examples"]] == hits[:5]
    page = (data / "out" / "audit.md").read_text()
    assert "# Audit of 2 sources: 73 pairs" in page
    assert f"| plain | text | documents | 1 (50.0%) | {len(hits)} |" in page
    assert f"| plain | mined | {report['shared'][0]['document']} |" in page


def test_what_cannot_be_audited_is_named(data):
    assert "no column 'body'" in refusal(argv(data, "x", "--document", "body"))
    assert "nowhere.jsonl" in refusal([str(data / "nowhere.jsonl"), *argv(data, "x")[1:]])
    assert "two are called 'plain'" in refusal([str(data / "plain.jsonl.gz"), *argv(data, "x")])
    assert "there are no sources" in refusal(["--tokenizer", "x", "--output_dir", str(data / "x")])
    assert "stage.yaml" in refusal(argv(data, "x", "--sources_from", str(data / "tokenizer" / "stage.yaml")))
    (data / "other.yaml").write_text("learning_rate: 1.0")
    assert "other.yaml: no list of sources" in refusal(argv(data, "x", "--sources_from", str(data / "other.yaml")))
    assert "sample_rows must be at least 1" in refusal(argv(data, "x", "--sample_rows", "0"))
    assert "evaluation_sets[0]: unknown key 'pth'" in refusal(argv(data, "x", "--evaluation_sets", "[{pth: a}]"))
    write_jsonl([{"headline": "a"}], data / "news.jsonl")
    news = refusal(argv(data, "y", "--evaluation_sets", f"[{data / 'news.jsonl'}]"))
    assert "news.jsonl: no column is called" in news
    assert not (data / "y").exists()  # nothing was begun


def test_real_sources_against_sets(shared_data, data):
    paths = [shared_data / "pairs" / f"{name}.jsonl.gz" for name in ("foldoc", "jargon_file")]
    audit.main([*map(str, paths), *argv(data, "real")[3:]])
    report = json.loads((data / "real" / "audit.json").read_text())
    queries = [{normalize_text(row["query"]) for row in rows_of(path)} for path in paths]
    (shared,) = report["shared"]
    assert shared["query"] == len(queries[0] & queries[1]) > 1000
    assert [source["distinct"]["query"] for source in report["sources"]] == [len(found) for found in queries]


def test_a_map_is_drawn_where_one_is_asked_for_and_the_page_links_to_it(data, minilm_dir):
    pytest.importorskip("bokeh", reason="needs the extra: pip install -e '.[map]'")
    audit.main(argv(data, "with", "--map_model", str(minilm_dir), "--map_points", "60"))
    page = (data / "with" / "audit.md").read_text()
    assert "[Map of the pairs](map/index.html)" in page and (data / "with" / "map" / "index.html").is_file()
    facts = json.loads((data / "with" / "map" / "map.json").read_text())
    assert facts["columns"] == ["source", "side"] and 20 < facts["points"] <= 60
    audit.main(argv(data, "without"))
    assert (data / "without" / "audit.md").read_text() == re.sub(r"\n\*\*\[Map.*\n", "", page)
