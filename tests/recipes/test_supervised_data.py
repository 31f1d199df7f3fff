"""Stage 3's data from raw, on rows in the layout of each source: rules, then mined or random negatives."""

import json
from pathlib import Path

import yaml

from curation.sources import Source, open_pairs
from recipes import make_pairs, mine_negatives
from tests.checkpoints import save_nomic
from textfiles.rows import rows_of
from textfiles.writing import write_jsonl

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"
TASKS = {"medi_supernli": "supernli", "medi_stackexchange": "stackexchange", "medi_flickr": "flickr",
         "medi_wiki": "wiki_rephrasal"}  # fmt: skip


def write_raw(data):
    """Two or three rows as each publisher has them."""
    data.mkdir()
    csv = ["sent0,sent1,hard_neg", '"A man, asleep",A man sleeps,A man runs', "Two dogs,Dogs are two,No dogs"]
    (data / "nli_for_simcse.csv").write_text("\n".join(csv) + "\n")
    replies = [{"context": f"c{n}", "response": f"r{n}", "subreddit": "s", "context/0": "x"} for n in range(30)]
    write_jsonl(replies, data / "reddit" / "train-0.jsonl.gz")
    medi = [
        {side: ["Represent the text;", f"{side} of {task} {n}"] for side in ("query", "pos", "neg")}
        | {"task_name": task}
        for task in [*TASKS.values(), "another"]
        for n in range(3)
    ]
    write_jsonl(medi, data / "medi.jsonl")
    for name in ("msmarco", "nq-train", "hotpotqa", "fever"):
        documents = [{"_id": f"d{n}", "title": "t", "text": f"document {name} {n}"} for n in range(30)]
        write_jsonl(documents, data / "beir" / name / "corpus.jsonl")
        queries = [{"_id": f"q{n}", "text": f"query {name} {n}"} for n in range(3)]
        write_jsonl(queries, data / "beir" / name / "queries.jsonl")
        (data / "beir" / name / "qrels").mkdir()
        judged = ["query-id\tcorpus-id\tscore", "q0\td0\t1", "q1\td1\t1", "q1\td2\t1", "q2\td3\t0"]
        (data / "beir" / name / "qrels" / "train.tsv").write_text("\n".join(judged) + "\n")


def test_every_source_of_table_3_becomes_pairs_with_negatives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path / "data")
    make_pairs.main(["--config", str(CONFIGS / "raw_supervised.yaml")])
    made = {
        path.name: list(rows_of(next(path.glob("*.jsonl.gz")))) for path in Path("outputs/raw_supervised").iterdir()
    }
    assert made["nli"][0] == {"query": "A man, asleep", "document": "A man sleeps", "negatives": ["A man runs"]}
    assert made["reddit"][4] == {"query": "c4", "document": "r4", "subreddit": "s"}
    for name, task in TASKS.items():
        texts = {side: f"{side} of {task} 1" for side in ("query", "pos", "neg")}
        expected = {"query": texts["query"], "document": texts["pos"], "negatives": [texts["neg"]], "task_name": task}
        assert len(made[name]) == 3 and made[name][1] == expected
        report = json.loads(Path("outputs/raw_supervised", name, "report.json").read_text())
        assert report["left_out"] == {"another value than where says": 12}

    save_nomic(tmp_path / "judge")
    mine_negatives.main(["--config", str(CONFIGS / "mine_supervised.yaml"), "--model_name_or_path", "judge"])
    for entry in yaml.safe_load((CONFIGS / "mine_supervised.yaml").read_text())["sources"]:
        source = Source(
            name=entry["name"], path=f"outputs/supervised/{entry['name']}", negatives="negatives",
            query_prefix=entry["query_prefix"], document_prefix=entry["document_prefix"],
        )  # fmt: skip
        pairs = open_pairs(source, tmp_path / "cache")
        retrieval = entry.get("draw") != "random"
        assert len(pairs) == (3 if retrieval else len(made[entry["name"]]))
        for pair in pairs:
            assert pair["document"] not in pair["negatives"]
            assert len(pair["negatives"]) == (1 if "negatives" in entry else 20)
    hops = next(Path("outputs/supervised/hotpotqa").glob("*.jsonl.gz"))
    both = [row for row in rows_of(hops) if row["query"] == "query hotpotqa 1"]
    answers = {row["document"] for row in both}
    assert len(both) == 2 and not answers & {text for row in both for text in row["negatives"]}
