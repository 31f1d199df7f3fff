"""A map as a person draws it: of texts, pairs, a BEIR set and vectors, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes import map as recipe
from tests.commands import refusal as refused
from textfiles.writing import write_jsonl

for library in ("bokeh", "openTSNE"):
    pytest.importorskip(library, reason="needs the extra: pip install -e '.[map]'")

TOPICS = {"fish": "salmon trout river water swim", "bread": "flour oven bake sugar cake"}
ROWS = [{"text": f"{words} {i}", "topic": topic, "n": i} for i in range(15) for topic, words in TOPICS.items()]


def draw(output, *arguments):
    recipe.main([*map(str, arguments), "--output_dir", str(output)])
    page = (output / "index.html").read_text(encoding="utf-8")
    start = page.index('id="plot">') + len('id="plot">')
    plot = json.loads(page[start : page.index("</script>", start)])
    data = plot["doc"]["roots"][0]["attributes"]["renderers"][0]["attributes"]["data_source"]["attributes"]["data"]
    return json.loads((output / "map.json").read_text()), dict(data["entries"])


def refusal(*arguments):
    return refused(recipe.main, [*map(str, arguments)])


def test_texts_and_their_vectors_give_maps_with_text_and_columns(tmp_path, minilm_dir):
    write_jsonl([*ROWS, {"text": "long " * 100, "topic": "x", "n": None}], tmp_path / "rows.jsonl")
    words = ["--texts", tmp_path / "rows.jsonl", "--columns", "[topic, n]", "--model_name_or_path", minilm_dir]
    words += ["--text_characters", 50]
    facts, data = draw(tmp_path / "a", *words)
    assert facts["points"] == 31 and facts["dimensions"] == 384 and facts["columns"] == ["topic", "n"]
    assert set(zip(data["text"], data["c0"], strict=True)) == {
        *((row["text"], row["topic"]) for row in ROWS), (("long " * 10).rstrip() + " ...", "x")
    }  # fmt: skip
    again, _ = draw(tmp_path / "b", *words)
    assert (tmp_path / "a/index.html").read_bytes() == (tmp_path / "b/index.html").read_bytes() and again == facts


def test_vectors_that_are_there_need_no_model(tmp_path):
    random = np.random.default_rng(0)
    for shard in range(2):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=20 * 8), pa.float32()), 8)
        columns = {"id": [f"{shard}-{i}" for i in range(20)], "vector": vectors, "text": [f"t{i}" for i in range(20)]}
        pq.write_table(pa.table(columns), tmp_path / f"{shard}.parquet")
    vectors = ["--vectors", tmp_path / "*.parquet"]
    draw(tmp_path / "a", *vectors, "--title", "earlier")  # is replaced
    facts, data = draw(tmp_path / "a", *vectors, "--columns", "[id]", "--max_points", 25)
    assert facts["points"] == 25 and facts["model"] is None and len(set(data["c0"])) == 25
    assert [name.partition("-")[2] for name in data["c0"]] == [text[1:] for text in data["text"]]


def test_pairs_and_a_beir_set_are_linked(tmp_path, minilm_dir):
    write_jsonl([{"query": f"q {i // 2}", "document": f"d {i}"} for i in range(8)], tmp_path / "pairs.jsonl")
    facts, data = draw(
        tmp_path / "a", "--pairs", json.dumps([str(tmp_path / "pairs.jsonl")]), "--model_name_or_path", minilm_dir
    )
    assert facts["points"] == 12 and facts["links"] == 8 and facts["title"] == "pairs.jsonl"
    assert sorted(data["c1"]) == ["document"] * 8 + ["query"] * 4
    beir = tmp_path / "beir"
    write_jsonl([{"_id": f"d{i}", "text": f"text {i}"} for i in range(9)], beir / "corpus.jsonl")
    write_jsonl([{"_id": "q", "text": "query"}], beir / "queries.jsonl")
    (beir / "qrels.tsv").write_text("q\td3\t1\n")
    facts, data = draw(tmp_path / "b", "--texts", beir, "--model_name_or_path", minilm_dir)
    assert facts["points"] == 10 and facts["links"] == 1 and facts["columns"] == ["side", "id"]


def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, minilm_dir):
    write_jsonl(ROWS, tmp_path / "rows.jsonl")
    new, texts = ["--output_dir", tmp_path / "new"], ["--texts", tmp_path / "rows.jsonl"]
    named = ["--model_name_or_path", minilm_dir]
    assert "give one of texts, pairs and vectors to draw, not none" in refusal(*new, *named)
    assert "not texts and vectors" in refusal(*new, *texts, "--vectors", "v", *named)
    assert "'model_name_or_path' is missing" in refusal(*new, *texts)
    assert "did you mean 'topic'?" in refusal(*new, *texts, *named, "--columns", "[topics]")
    assert "the model has no prompt 'cluster'" in refusal(*new, *texts, *named, "--prompt", "cluster")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    assert "which would be deleted" in refusal(*texts, *named, "--output_dir", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    from recipes.steps import map as step

    monkeypatch.setattr(step, "find_spec", lambda name: None if name == "openTSNE" else object())
    assert "openTSNE, which is not installed; pip install -e '.[map]'" in refusal(
        "--vectors", "v", "--output_dir", tmp_path
    )
