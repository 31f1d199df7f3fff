"""Filtering as a person runs it: one process or several ranks, killed and started again, with a real model."""

import json
from functools import partial

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from recipes import filter_pairs
from recipes.steps import filter_pairs as step
from tests.commands import contents
from tests.commands import refusal as refused
from tests.processes import Forked, run_ranks
from textfiles.rows import rows_of
from textfiles.writing import write_jsonl

refusal = partial(refused, filter_pairs.main)
COLOURS = ["red", "green", "blue", "yellow", "black", "white", "purple", "orange"]
THINGS = ["river", "stone", "house", "lamp", "paper", "bottle", "engine", "field", "coat", "boat"]


def pairs():
    """Rows that fit, and every fifth one with the document of another row."""
    rows = [
        {"query": f"What about the {colour} {thing}?", "document": f"The {thing} is {colour} and old.", "id": place}
        for place, (colour, thing) in enumerate((colour, thing) for colour in COLOURS for thing in THINGS)
    ]
    return [{**row, "document": rows[(row["id"] * 7 + 3) % 80]["document"] if row["id"] % 5 == 0 else row["document"]}
            for row in rows]  # fmt: skip


@pytest.fixture
def settings(minilm_dir, tmp_path):
    """Settings of the recipe: two sources in three samples each."""
    write_jsonl(pairs(), tmp_path / "a.jsonl.gz")
    write_jsonl([{"ask": row["document"], "reply": row["query"]} for row in pairs()[::-1]], tmp_path / "b.jsonl")
    prefixes = {"query_prefix": "", "document_prefix": ""}
    sources = [
        {"name": "a", "path": str(tmp_path / "a.jsonl.gz"), **prefixes},
        {"name": "b", "path": str(tmp_path / "b.jsonl"), "query": "ask", "document": "reply", **prefixes},
    ]
    return ["--sources", json.dumps(sources), "--model_name_or_path", str(minilm_dir), "--sample_size", "30"]


@pytest.mark.slow
def test_any_number_of_ranks_and_a_killed_run_give_the_same_files(settings, tmp_path):
    filter_pairs.main([*settings, "--output_dir", str(tmp_path / "one")])
    one = contents(tmp_path / "one")
    assert len(one) == 2 * (1 + 3 + 3 * 3)
    for ranks in (2, 3):
        printed = run_ranks(ranks, filter_pairs.__file__, [*settings, "--output_dir", tmp_path / str(ranks)])
        assert f"6 samples of 2 sources on {ranks} rank" in printed
        assert contents(tmp_path / str(ranks)) == one
    killed = Forked(filter_pairs.__file__, [*settings, "--output_dir", tmp_path / "killed"])
    killed.wait_until(lambda: list((tmp_path / "killed").glob("a/audit/sample-*")))
    killed.kill()
    assert not (tmp_path / "killed" / "b" / "audit.md").exists()
    first = next((tmp_path / "killed").glob("a/audit/sample-*"))
    before = first.stat().st_mtime_ns
    filter_pairs.main([*settings, "--output_dir", str(tmp_path / "killed")])
    left = {name: text for name, text in contents(tmp_path / "killed").items() if ".partial-" not in name}
    assert left == one
    assert first.stat().st_mtime_ns == before


def test_rows_are_judged_as_the_definition_says(settings, minilm_dir, tmp_path, capsys):
    filter_pairs.main([*settings, "--output_dir", str(tmp_path / "out"), "--sample_size", "100", "--seed", "5"])
    embedder = SentenceTransformer(str(minilm_dir), device="cpu")
    rows = pairs()
    queries, documents = (
        embedder.encode([row[side] for row in rows], normalize_embeddings=True) for side in ("query", "document")
    )
    scores = queries @ documents.T
    own = np.diagonal(scores)
    distinct = {row["document"]: place for place, row in enumerate(rows)}
    ranks = 1 + (scores[:, list(distinct.values())] > own[:, None] + 1e-6).sum(axis=1)
    written = {row["id"]: row for what in ("kept", "dropped")
               for row in rows_of(tmp_path / "out" / "a" / what / "sample-00000-of-00001.jsonl.gz")}  # fmt: skip
    assert [written[number]["rank"] for number in range(80)] == ranks.tolist()
    assert np.allclose([written[number]["similarity"] for number in range(80)], own, atol=1e-5)
    mismatched = list(range(0, 80, 5))
    assert (ranks[mismatched] > 2).mean() > 0.8 and (np.delete(ranks, mismatched) <= 2).mean() > 0.9
    assert "| a | 80 |" in capsys.readouterr().out


def test_a_finished_run_is_not_done_again(settings, tmp_path, monkeypatch):
    arguments = [*settings, "--output_dir", str(tmp_path / "out"), "--sample_size", "80"]
    filter_pairs.main(arguments)
    before = contents(tmp_path / "out")
    monkeypatch.setattr(step, "TextEmbedder", None)  # would be called to judge a sample
    filter_pairs.main(arguments)
    assert contents(tmp_path / "out") == before


def test_what_cannot_be_filtered_is_named(settings, tmp_path):
    arguments = [*settings, "--output_dir", str(tmp_path / "out")]
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "notes.txt").write_text("mine")
    assert "out/a holds other files, and no settings.json of an earlier run" in refusal(arguments)
    (tmp_path / "out" / "a" / "notes.txt").unlink()
    assert "both null" in refusal([*arguments, "--top_k", "null"])
    assert "no column 'question'" in refusal(
        ["--sources", json.dumps([{"name": "a", "path": str(tmp_path / "a.jsonl.gz"), "query": "question",
                                   "query_prefix": "", "document_prefix": ""}]), *arguments[2:]]
    )  # fmt: skip
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    broken = [{"name": "c", "path": str(tmp_path / "broken.parquet"), "query_prefix": "", "document_prefix": ""}]
    assert "broken.parquet: not a readable parquet file" in refusal(["--sources", json.dumps(broken), *arguments[2:]])
    (tmp_path / "old.yaml").write_text("batch_size: 256\n")
    assert "old.yaml: unknown key 'batch_size'; --help lists" in refusal(["--config", str(tmp_path / "old.yaml")])
    twice = [{"name": "c", "path": "c", "query_prefix": "", "document_prefix": ""}] * 2
    assert "the name 'c' is used twice" in refusal(["--sources", json.dumps(twice), *arguments[2:]])
    assert "a/b" in refusal(["--sources", json.dumps([{**twice[0], "name": "a/b"}]), *arguments[2:]])
    new = [*settings, "--output_dir", str(tmp_path / "new")]
    assert "sample_size must be" in refusal([*new, "--sample_size", "1"])
    assert "seed must be" in refusal([*new, "--seed", "-1"])
    assert "rows_to_read must be" in refusal([*new, "--rows_to_read", "-1"])
    assert "no column 'question'" in refusal([*new, "--sources", json.dumps([{**broken[0], "query": "question",
                                              "path": str(tmp_path / "a.jsonl.gz")}])])  # fmt: skip
    assert "no-such-model" in refusal([*new, "--model_name_or_path", str(tmp_path / "no-such-model")])
    assert not (tmp_path / "new").exists()


def test_another_seed_in_the_same_place_is_refused(settings, tmp_path):
    arguments = [*settings, "--output_dir", str(tmp_path / "out"), "--sample_size", "80"]
    filter_pairs.main(arguments)
    assert "begun with other settings: seed was 0, is 1" in refusal([*arguments, "--seed", "1"])
