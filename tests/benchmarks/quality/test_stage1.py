import json
import re

import numpy as np
import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from benchmarks.quality.masked_accuracy import MaskedText, Unigram, score_model
from benchmarks.quality.stage1 import main
from curation.files import read_jsonl, write_jsonl
from recipes.stage1 import build_model
from tests.trainers.toys import WORDS, mlm, tokenizer


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """Six books of three parts each, the parts out of order; manuals that repeat a third of book 2, all of 5."""
    directory = tmp_path_factory.mktemp("books")
    random = np.random.default_rng(0)
    parts = [[" ".join(random.choice(WORDS, 120)) for _ in range(3)] for _ in range(6)]
    rows = [{"title": f"book {i}", "part": part, "text": parts[i][part]} for part in (2, 0, 1) for i in range(6)]
    write_jsonl([*rows, {"title": "book 0", "part": 3, "text": "  "}], directory / "books.jsonl.gz")
    manuals = [" ".join(random.choice(WORDS, 30)) for _ in range(4)] + [parts[2][1].upper(), " ".join(parts[5])]
    write_jsonl([{"text": text} for text in manuals], directory / "manuals.jsonl.gz")
    return directory, parts, manuals


def prepare(books, output, seed=0, held_out=2):
    files = [str(books[0] / name) for name in ("books.jsonl.gz", "manuals.jsonl.gz")]
    settings = {"held_out": held_out, "vocab_size": 120, "block_size": 50, "seed": seed}
    options = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    main(["prepare", "--documents", *files, "--output_dir", str(output), *options])
    return output


@pytest.fixture(scope="module")
def data(books, tmp_path_factory):
    return prepare(books, tmp_path_factory.mktemp("prepared") / "data")


def test_books_kept_aside_are_whole_and_appear_nowhere_in_training(books, data):
    _, parts, manuals = books
    held_out = list(read_jsonl(data / "held_out.jsonl.gz"))
    numbers = [int(row["title"].split()[1]) for row in held_out]
    assert len(set(numbers)) == 2
    assert [row["text"] for row in held_out] == ["\n\n".join(parts[number]) for number in numbers]
    expected = [part for number in range(6) if number not in numbers for part in parts[number]]
    repeats = [text for text in manuals if any(text.lower() in " ".join(parts[number]) for number in numbers)]
    expected += [text for text in manuals if text not in repeats]
    trained = [row["text"] for row in read_jsonl(data / "train.jsonl.gz")]
    assert sorted(trained) == sorted(expected) and trained != expected  # shuffled
    assert json.loads((data / "counts.json").read_text())["train_documents_removed_as_repeats"] == len(repeats)


@pytest.mark.parametrize("seed", range(6))
def test_what_repeats_a_book_kept_aside_is_left_out(books, tmp_path, seed):
    """Whichever books are kept aside; the manual that repeats a third of book 2 has other case."""
    data = prepare(books, tmp_path / "data", seed)
    names = {row["title"] for row in read_jsonl(data / "held_out.jsonl.gz")}
    removed = json.loads((data / "counts.json").read_text())["train_documents_removed_as_repeats"]
    assert removed == len(names & {"book 2", "book 5"})


def test_the_same_seed_keeps_the_same_books(books, data, tmp_path):
    titles = lambda path: [row["title"] for row in read_jsonl(path / "held_out.jsonl.gz")]  # noqa: E731
    again = prepare(books, tmp_path / "again")
    assert titles(again) == titles(data)
    assert list(read_jsonl(again / "train.jsonl.gz")) == list(read_jsonl(data / "train.jsonl.gz"))
    assert (
        len({tuple(titles(prepare(books, tmp_path / f"{seed}", seed))) for seed in range(1, 4)} - {titles(data)[0]}) > 1
    )


def test_unpacked_rows_hold_one_document_each(data):
    tokens = AutoTokenizer.from_pretrained(data / "tokenizer")
    documents = [tokens(row["text"])["input_ids"] for row in read_jsonl(data / "train.jsonl.gz")]
    rows = load_from_disk(str(data / "unpacked"))
    assert rows["document_lengths"][:] == [[len(ids)] for ids in rows["input_ids"]]
    assert max(map(len, rows["input_ids"])) == 50
    assert [token for ids in rows["input_ids"] for token in ids] == [token for ids in documents for token in ids]
    begun = [ids for ids in rows["input_ids"] if ids[0] == tokens.cls_token_id]
    assert len(begun) == len(documents) < len(rows)
    counts = json.loads((data / "counts.json").read_text())
    assert counts["tokens_per_unpacked_row"] == pytest.approx(sum(map(len, documents)) / len(rows), abs=0.05)


@pytest.mark.parametrize("held_out", [0, 6])
def test_prepare_refuses_to_keep_no_book_or_all(books, tmp_path, held_out):
    with pytest.raises(SystemExit, match="the files have 6 values of 'title'"):
        prepare(books, tmp_path / "data", held_out=held_out)
    assert not (tmp_path / "data").exists()


def test_prepare_names_a_row_without_text_and_spares_what_exists(books, data, tmp_path):
    write_jsonl([{"text": "a"}, {"body": "b"}], tmp_path / "bad.jsonl")
    with pytest.raises(SystemExit, match=r"bad.jsonl, line 2: no text in the column 'text'"):
        main(["prepare", "--documents", str(tmp_path / "bad.jsonl"), "--output_dir", str(tmp_path / "data")])
    with pytest.raises(SystemExit, match="exists"):
        prepare(books, data)


@pytest.fixture
def models(data, tmp_path):
    """Two random models of the tokenizer of `data`."""
    tokens = AutoTokenizer.from_pretrained(data / "tokenizer")
    for name, layers in ("one", 1), ("two", 2):
        fields = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}
        build_model({**fields, "num_hidden_layers": layers}, len(tokens)).save_pretrained(tmp_path / name)
        tokens.save_pretrained(tmp_path / name)
    return [f"{name}={tmp_path / name}" for name in ("one", "two")]


def test_evaluate_writes_every_score_and_the_table(data, models, tmp_path):
    arguments = ["--data", str(data), "--lengths", "16", "64", "--output", str(tmp_path / "results"), "--device", "cpu"]
    main(["evaluate", "--models", *models, *arguments])
    (written,) = (tmp_path / "results").glob("*.json")
    rows = json.loads(written.read_text())["result"]["scores"]
    assert [(row["model"], row["length"]) for row in rows] == [
        ("unigram", 64), ("one", 16), ("one", 64), ("two", 16), ("two", 64)
    ]  # fmt: skip
    assert len({row["masked_tokens"] for row in rows}) == 1
    tokens = AutoTokenizer.from_pretrained(data / "tokenizer")
    text = MaskedText.of([row["text"] for row in read_jsonl(data / "held_out.jsonl.gz")], tokens, [16, 64])
    trained = [tokens(row["text"])["input_ids"] for row in read_jsonl(data / "train.jsonl.gz")]
    assert rows[0]["loss"] == pytest.approx(Unigram(trained, tokens).score(text).summary()["loss"])
    model = type(mlm()).from_pretrained(models[1].split("=")[1]).eval()
    assert rows[4]["loss"] == pytest.approx(score_model(model, text, 64).summary()["loss"], rel=1e-5)
    assert rows[4]["accuracy_less_first"] == pytest.approx(rows[4]["accuracy"] - rows[2]["accuracy"])
    page = written.with_suffix(".md").read_text()
    assert re.search(rf"\| two \| 64 \| {100 * rows[4]['accuracy']:.2f} ± ", page)
    assert str(tmp_path) not in page + written.read_text()


def test_evaluate_refuses_a_model_of_another_tokenizer(data, models, tmp_path):
    mlm().save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    arguments = ["--data", str(data), "--output", str(tmp_path / "results")]
    with pytest.raises(SystemExit, match="other: its tokenizer is not that of --data"):
        main(["evaluate", "--models", *models, f"other={tmp_path / 'other'}", *arguments])
    with pytest.raises(SystemExit, match="NAME=DIR"):
        main(["evaluate", "--models", "other", *arguments])
