"""Two runs of one command in one directory: the one that ends first leaves the other what it needs."""

import contextlib
import fcntl
import json

import pytest

from nomic_bert.embedder import load_embedder, save_embedder
from recipes import audit, embed, make_pairs, mine_negatives, pack_corpus
from tests.trainers.toys import WORDS, encoder, tokenizer
from textfiles.writing import write_jsonl

PREFIXES = {"query_prefix": "search_query", "document_prefix": "search_document"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    encoder().save_pretrained(place / "start")
    tokenizer().save_pretrained(place / "start")
    save_embedder(load_embedder(place / "start", device="cpu"), place / "embedder")
    return str(place / "embedder")


COMMANDS = {
    "audit": (audit, "", lambda file, model: [file, "--tokenizer", model]),
    "embed": (
        embed,
        "",
        lambda file, model: ["--texts", file, "--text_column", "query", "--model_name_or_path", model],
    ),
    "make_pairs": (
        make_pairs,
        "mine",
        lambda file, _: [
            "--sources",
            json.dumps([{"name": "mine", "path": file, "query": "query", "document": "document", **PREFIXES}]),
        ],
    ),
    "mine_negatives": (
        mine_negatives,
        "mine",
        lambda file, model: [
            *("--model_name_or_path", model),
            *("--sources", json.dumps([{"name": "mine", "path": file, "draw": "random", **PREFIXES}])),
        ],
    ),
    "pack_corpus": (
        pack_corpus,
        "",
        lambda file, model: [
            *("--documents", json.dumps([{"path": file, "column": "document"}])),
            *("--tokenizer", model, "--block_size", "8"),
        ],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_needed_for_the_work_stays_until_the_last_run_has_ended(tmp_path, model, name):
    command, source, words = COMMANDS[name]
    rows = [{"query": f"{WORDS[n % 9]} {n}", "document": f"{WORDS[n % 7]} {WORDS[n % 5]} {n}"} for n in range(30)]
    write_jsonl(rows, tmp_path / "rows.jsonl")
    argv = [*words(str(tmp_path / "rows.jsonl"), model), "--output_dir", str(tmp_path / "out")]
    directory = tmp_path / "out" / source
    directory.mkdir(parents=True)
    with open(directory / ".in-use", "w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        command.main(argv)
        assert any((directory / ".work").iterdir())
    with contextlib.suppress(SystemExit):  # it is finished
        command.main(argv)
    assert not (directory / ".work").exists()
