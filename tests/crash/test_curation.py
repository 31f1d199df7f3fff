"""From raw rows to training files, vectors and a map: each step killed where it touches the disk, its files damaged."""

import json
import random

import pytest

from curation.tokenizer import train_tokenizer
from tests.checkpoints import save_nomic
from tests.crash.damage import assert_notices_damage
from tests.crash.harness import Case, assert_survives
from textfiles.writing import write_jsonl

WORDS = ["river", "stone", "house", "light", "paper", "water", "night", "field"]
PREFIXES = {"query_prefix": "search_query", "document_prefix": "search_document"}


def texts(count, seed):
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(2, 6))) for _ in range(count)]


def write_pairs(directory):
    rows = [{"query": query, "document": document} for query, document in zip(texts(12, 1), texts(12, 2), strict=True)]
    write_jsonl(rows, directory / "pairs.jsonl")


def prepare_raw(directory):
    write_jsonl([{"title": title, "body": body} for title, body in zip(texts(7, 1), texts(7, 2), strict=True)],
                directory / "first.jsonl")  # fmt: skip
    write_jsonl([{"set": texts(3, seed)} for seed in range(5)], directory / "sets.jsonl.gz")
    sources = [
        {"name": "first", "path": "first.jsonl", "query": "title", "document": "body"},
        {"name": "sets", "path": "sets.jsonl.gz", "pairs_of": "set"},
    ]
    (directory / "raw.yaml").write_text(json.dumps({"sources": sources, "rows_per_shard": 3}))


def prepare_embedder(directory):
    save_nomic(directory / "model")
    write_pairs(directory)


def prepare_corpus(directory):
    documents = texts(30, 3)
    write_jsonl([{"text": text} for text in documents], directory / "corpus.jsonl.gz")
    train_tokenizer(documents, 60, directory / "tokenizer")
    write_pairs(directory)


def prepare_vectors(directory):
    save_nomic(directory / "model")
    write_jsonl([{"text": text} for text in texts(30, 3)], directory / "corpus.jsonl.gz")


SOURCES = json.dumps([{"name": "pairs", "path": "pairs.jsonl", **PREFIXES}])
EMBEDDER = ("--model_name_or_path", "model", "--sources", SOURCES, "--output_dir", "outputs")
TOKENIZER = ("--tokenizer", "tokenizer", "--output_dir", "outputs")
CASES = [
    Case("make_pairs", "recipes/make_pairs.py", ("--config", "raw.yaml", "--output_dir", "outputs"), prepare_raw),
    Case(
        "filter_pairs",
        "recipes/filter_pairs.py",
        (*EMBEDDER, "--sample_size", "5", "--keep_embeddings", "true"),
        prepare_embedder,
    ),
    Case(
        "mine_negatives",
        "recipes/mine_negatives.py",
        (*EMBEDDER, "--documents_per_shard", "5", "--rows_per_shard", "5", "--num_negatives", "2"),
        prepare_embedder,
    ),
    Case(
        "embed",
        "recipes/embed.py",
        (
            "--model_name_or_path",
            "model",
            "--texts",
            "corpus.jsonl.gz",
            "--columns",
            "[text]",
            "--dtype",
            "int8",
            "--rows_per_shard",
            "12",
            "--output_dir",
            "outputs",
        ),
        prepare_vectors,
    ),
    Case(
        "pack_corpus",
        "recipes/pack_corpus.py",
        ("--documents", "[corpus.jsonl.gz]", *TOKENIZER, "--block_size", "16", "--documents_per_shard", "10"),
        prepare_corpus,
        says_finished="is packed already",
    ),
    Case(
        "audit",
        "recipes/audit.py",
        ("pairs.jsonl", *TOKENIZER, "--rows_per_shard", "5", "--sample_rows", "5"),
        prepare_corpus,
        says_finished="holds an audit already",
    ),
]
MAP = Case(
    "map",
    "recipes/map.py",
    ("--model_name_or_path", "model", "--texts", "corpus.jsonl.gz", "--output_dir", "outputs"),
    prepare_vectors,
)
COPY = "a copy of the rows is as large as they are, and is read as memory: only its ends are checked"
every_step = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.mark.crash
@every_step
def test_a_step_ends_with_the_same_files_wherever_it_was_killed(tmp_path, case):
    assert_survives(case, tmp_path)


@pytest.mark.crash
def test_a_map_is_the_same_wherever_the_command_was_killed(tmp_path):
    """A finished one is not read again, so there are no damages to notice."""
    assert_survives(MAP, tmp_path)


@pytest.mark.crash
@every_step
def test_a_step_makes_damaged_files_again_or_refuses_them(tmp_path, case):
    assert_notices_damage(case, tmp_path, bits_not_checked={"*.arrow": COPY})
