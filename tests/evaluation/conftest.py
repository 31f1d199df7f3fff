import numpy as np
import pytest
import yaml

from evaluation import plots
from evaluation.harness import encoder as encoder_module
from tests.checkpoints import save_nomic, save_other
from textfiles.atomic import write_figure
from textfiles.writing import write_jsonl

WORDS = ["matrix", "vector", "solve", "banded", "linear", "system", "tensor", "graph", "shortest", "path", "column"]


@pytest.fixture
def nomic(tmp_path):
    """A checkpoint of stage 1: trained to 64 tokens, usable to 256."""
    return save_nomic(tmp_path / "run" / "final")


@pytest.fixture
def other(tmp_path):
    return save_other(tmp_path / "other")


@pytest.fixture
def task_file(tmp_path):
    """Two tasks on random words: 30 documents with 12 queries, and 20 pairs with scores."""
    draw = np.random.default_rng(0)

    def text(words):
        return " ".join(draw.choice(WORDS, words))

    beir = tmp_path / "data" / "beir"
    write_jsonl([{"_id": f"d{n}", "title": text(1), "text": text(5 + n)} for n in range(30)], beir / "corpus.jsonl")
    write_jsonl([{"_id": f"q{n}", "text": text(3)} for n in range(12)], beir / "queries.jsonl")
    judged = [f"q{n}\td{draw.integers(30)}\t1" for n in range(12)]
    (beir / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    pairs = [{"sentence1": text(4), "sentence2": text(4), "score": float(draw.uniform(0, 5))} for _ in range(20)]
    write_jsonl(pairs, tmp_path / "data" / "sts.jsonl")
    entries = [
        {"name": "toy_search", "type": "Retrieval", "path": "beir"},
        {"name": "toy_sts", "type": "STS", "path": "sts.jsonl"},
    ]
    file = tmp_path / "data" / "tasks.yaml"
    file.write_text(yaml.safe_dump(entries))
    return file


@pytest.fixture
def encoded(monkeypatch):
    """The texts of every call that really computes embeddings."""
    calls, original = [], encoder_module.encode_by_tokens

    def watched(embedder, texts, **options):
        calls.append([options["prompt"] + text for text in texts])
        return original(embedder, texts, **options)

    monkeypatch.setattr(encoder_module, "encode_by_tokens", watched)
    return calls


@pytest.fixture
def figures(monkeypatch):
    """File name -> the figure that was drawn for it."""
    drawn = {}

    def watched(path, figure):
        drawn[path.name] = figure
        write_figure(path, figure)

    monkeypatch.setattr(plots, "write_figure", watched)
    return drawn
