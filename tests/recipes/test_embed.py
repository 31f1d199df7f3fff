"""Embedding a corpus as a person runs it: any number of ranks, once or again, in every form of the vectors."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from curation import vectors as vectors_module
from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.identity import weights_hash
from recipes import embed
from recipes.steps import embed as step
from tests.checkpoints import save_nomic, save_other
from tests.commands import contents
from textfiles.writing import write_jsonl

TEXTS = [f"text {number} " + "of some words " * (number * 7 % 23) for number in range(40)]
TEXTS[7] = " "


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of ours, another, and a corpus."""
    folder = tmp_path_factory.mktemp("place")
    save_embedder(load_embedder(save_nomic(folder / "checkpoint"), device="cpu"), folder / "ours")
    save_other(folder / "other", prompts={"query": "ask: ", "passage": "say: ", "topic": "about: "})
    write_jsonl([{"key": f"k{n}", "text": text, "n": n} for n, text in enumerate(TEXTS)], folder / "corpus.jsonl.gz")
    return folder


def words(place, output, *more, model="ours"):
    corpus = ["--texts", str(place / "corpus.jsonl.gz"), "--id_column", "key", "--columns", "[n]"]
    run = ["--model_name_or_path", str(place / model), "--rows_per_shard", "9", "--output_dir", str(output)]
    return [*corpus, *run, *more]


def read(directory):
    files = sorted((directory / "data").glob("*.parquet"))
    table = pq.ParquetDataset(files).read()
    return table, np.stack(table["vector"].to_numpy())


def expected(place, prompt, model="ours", **settings):
    embedder = SentenceTransformer(str(place / model), device="cpu")
    return embedder.encode([text for text in TEXTS if text.strip()], prompt=prompt, **settings)


def test_vectors_are_the_models_own_beside_ids_and_columns(place, tmp_path, capsys):
    embed.main(words(place, tmp_path / "v"))
    table, vectors = read(tmp_path / "v")
    kept = [n for n, text in enumerate(TEXTS) if text.strip()]
    assert table.column_names == ["id", "vector", "n"]
    assert table["id"].to_pylist() == [f"k{n}" for n in kept] and table["n"].to_pylist() == kept
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<element: float>[32]")
    np.testing.assert_allclose(vectors, expected(place, "search_document: "), atol=1e-5, rtol=0)
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    tokenizer = SentenceTransformer(str(place / "ours"), device="cpu").tokenizer
    lengths = [len(tokenizer("search_document: " + TEXTS[n], truncation=False)["input_ids"]) for n in kept]
    most = manifest["model"]["max_seq_length"]
    assert manifest["model"]["weights"] == weights_hash(SentenceTransformer(str(place / "ours"), device="cpu"))
    assert manifest["model"]["backend"] == "torch"
    assert 0 < sum(length > most for length in lengths) < len(lengths)
    assert manifest["truncated"] == sum(length > most for length in lengths)
    assert manifest["tokens"] == sum(min(length, most) for length in lengths)
    assert (manifest["texts"], manifest["blank"]) == (39, 1)
    assert manifest["prompt"] == {"name": "document", "text": "search_document: "}
    assert [pq.read_metadata(tmp_path / "v" / file).num_rows for file in manifest["files"]] == [8, 9, 9, 9, 4]
    assert not (tmp_path / "v" / ".work").exists()
    before = contents(tmp_path / "v")
    capsys.readouterr()
    embed.main(words(place, tmp_path / "v"))
    assert "is finished: 39 vectors of 32 dimensions" in capsys.readouterr().out
    assert contents(tmp_path / "v") == before
    next((tmp_path / "v" / "data").iterdir()).unlink()
    embed.main(words(place, tmp_path / "v"))
    assert contents(tmp_path / "v") == before


def test_what_was_refused_is_read_anew_with_other_settings(place, tmp_path):
    write_jsonl([{"a": "one", "b": "two"}, {"a": "three", "b": 4}], tmp_path / "c.jsonl")
    words = ["--model_name_or_path", str(place / "ours"), "--texts", str(tmp_path / "c.jsonl"), "--output_dir"]
    with pytest.raises(SystemExit, match="line 2, column 'b': the int '4', not a text"):
        embed.main([*words, str(tmp_path / "v"), "--text_column", "b"])
    assert not (tmp_path / "v").exists()
    embed.main([*words, str(tmp_path / "v"), "--text_column", "a", "--columns", "[a]"])
    assert read(tmp_path / "v")[0]["a"].to_pylist() == ["one", "three"]
    with pytest.raises(SystemExit, match="was begun with other settings: corpus.text_column was"):
        embed.main([*words, str(tmp_path / "v"), "--text_column", "b"])


def test_a_copy_of_other_settings_is_not_used(place, tmp_path, monkeypatch):
    """A run that was killed before its first shard, and is started again to embed another column."""
    write_jsonl([{"a": "one", "b": "two"}], tmp_path / "c.jsonl")
    words = ["--model_name_or_path", str(place / "ours"), "--texts", str(tmp_path / "c.jsonl"), "--output_dir"]
    words += [str(tmp_path / "v"), "--columns", "[a, b]"]
    with monkeypatch.context() as patched:
        patched.setattr(step, "deal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed.main([*words, "--text_column", "a"])
    assert (tmp_path / "v" / ".work" / "texts.arrow").exists()
    embed.main([*words, "--text_column", "b"])
    own = SentenceTransformer(str(place / "ours"), device="cpu")
    np.testing.assert_allclose(read(tmp_path / "v")[1][0], own.encode_document("two"), atol=1e-5)


def test_two_ranks_give_the_files_of_one(place, tmp_path, monkeypatch):
    embed.main(words(place, tmp_path / "one"))

    def rank(number, waits=()):
        waits = iter(waits)
        return SimpleNamespace(
            process_index=number, num_processes=2, is_main_process=number == 0, device="cpu",
            main_process_first=nullcontext, wait_for_everyone=lambda: next(waits, lambda: None)(),
        )  # fmt: skip

    def other_rank():
        assert len(list((tmp_path / "two" / "data").iterdir())) == 3  # of five
        monkeypatch.setattr(step, "join_ranks", lambda: rank(1))
        embed.main(words(place, tmp_path / "two"))

    monkeypatch.setattr(step, "join_ranks", lambda: rank(0, [other_rank]))
    embed.main(words(place, tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_an_interrupted_run_goes_on_and_ends_the_same_whatever_became_of_its_files(place, tmp_path, monkeypatch):
    embed.main(words(place, tmp_path / "whole", "--dtype", "int8"))
    encode, calls = vectors_module.TextEmbedder.encode_under, []

    def die_in_the_third_shard(self, prompt, texts, *rest):
        calls.append(len(texts))
        if len([size for size in calls if size > 1]) == 4:  # the first is for the ranges
            raise KeyboardInterrupt
        return encode(self, prompt, texts, *rest)

    monkeypatch.setattr(vectors_module.TextEmbedder, "encode_under", die_in_the_third_shard)
    with pytest.raises(KeyboardInterrupt):
        embed.main(words(place, tmp_path / "again", "--dtype", "int8"))
    monkeypatch.undo()
    files = sorted((tmp_path / "again" / "data").glob("*.parquet"))
    begun = {path: path.stat().st_mtime_ns for path in files}
    assert len(begun) == 2
    for damaged in (files[1], tmp_path / "again" / "int8_ranges.npy"):  # both can still be opened
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
    with pytest.raises(SystemExit, match="was begun with other settings: dtype was"):
        embed.main(words(place, tmp_path / "again", "--dtype", "float16"))
    embed.main(words(place, tmp_path / "again", "--dtype", "int8"))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert files[0].stat().st_mtime_ns == begun[files[0]] and files[1].stat().st_mtime_ns > begun[files[1]]
    (tmp_path / "again" / "int8_ranges.npy").write_bytes(b"")
    embed.main(words(place, tmp_path / "again", "--dtype", "int8"))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_forms_are_those_of_sentence_transformers(place, tmp_path, dtype):
    embed.main(words(place, tmp_path / "v", "--dtype", dtype, "--truncate_dim", "16"))
    _, vectors = read(tmp_path / "v")
    exact = expected(place, "search_document: ", truncate_dim=16, normalize_embeddings=True)
    if dtype == "float16":
        np.testing.assert_allclose(vectors, exact, atol=1e-3, rtol=0)
    elif dtype == "int8":
        ranges = np.load(tmp_path / "v" / "int8_ranges.npy")
        np.testing.assert_allclose(ranges, [exact.min(axis=0), exact.max(axis=0)], atol=1e-6)
        wanted = quantize_embeddings(exact, "int8", ranges=ranges)
        assert vectors.dtype == np.int8 and vectors.shape == (39, 16)
        assert np.abs(vectors.astype(int) - wanted).max() <= 1  # a value at the border of two steps
        assert (vectors == wanted).mean() > 0.99
    else:
        assert vectors.dtype == np.uint8
        assert (np.unpackbits(vectors, axis=1) == np.unpackbits(quantize_embeddings(exact, "ubinary"), axis=1)).all()


@pytest.mark.parametrize(
    ("name", "text"), [("query", "ask: "), ("document", ""), ("topic", "about: "), ("passage", "say: "), (None, "")]
)
def test_prompts_of_any_model_go_by_their_names(place, tmp_path, name, text):
    embed.main(words(place, tmp_path / "v", "--prompt", name or "null", model="other"))
    np.testing.assert_allclose(read(tmp_path / "v")[1], expected(place, text, "other"), atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "v" / "manifest.json").read_text())["prompt"] == {"name": name, "text": text}


def test_what_cannot_be_meant_is_one_line(place, tmp_path):
    texts = tmp_path / "texts"
    write_jsonl([{"text": "a"}], texts / "a.jsonl")
    for more, message in (
        (["--prompt", "documnt"], "no prompt 'documnt'; did you mean 'document'?"),
        (["--dtype", "float8"], "dtype must be one of float32, float16, int8, binary"),
        (["--texts", str(tmp_path / "nowhere")], "nowhere does not exist; correct the path"),
        (["--texts", str(texts), "--output_dir", str(texts / "v")], "v lies inside .*texts, which is read"),
        (["--rows_per_shard", "0"], "rows_per_shard must be at least 1"),
        (["--truncate_dim", "33"], "truncate_dim is 33, and the model has 32 dimensions"),
        (["--max_seq_length", "2"], "max_seq_length must be at least 3, not 2"),
        (["--max_seq_length", "257"], "max_seq_length must be at most 256, the model's n_positions, not 257"),
        (
            ["--max_seq_length", "129", "--model_name_or_path", str(place / "other")],
            "max_seq_length must be at most 128, the model's max_position_embeddings, not 129",
        ),
        (
            ["--id_column", "kye"],
            "line 1: no column 'kye'; did you mean 'key'?.* To read others, set text_column, id_column",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            embed.main(words(place, tmp_path / "v", *more))


def test_texts_in_memory_are_bounded_by_their_characters(place, tmp_path, monkeypatch):
    embed.main(words(place, tmp_path / "one", "--rows_per_shard", "40"))
    monkeypatch.setattr(vectors_module, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(vectors_module, "_CHARACTERS_AT_ONCE", 300)
    encode, most = vectors_module.TextEmbedder.encode_under, []

    def watched(self, prompt, texts, *rest):
        most.append(sum(map(len, texts)))
        return encode(self, prompt, texts, *rest)

    monkeypatch.setattr(vectors_module.TextEmbedder, "encode_under", watched)
    embed.main(words(place, tmp_path / "two", "--rows_per_shard", "40"))
    assert max(most) < 300 + 3 * max(map(len, TEXTS)) and len(most) > 5
    np.testing.assert_allclose(read(tmp_path / "two")[1], read(tmp_path / "one")[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_blank_shards_are_counted_and_a_blank_corpus_is_refused(place, tmp_path, dtype):
    texts = [" "] * 5 + ["a text"] + [""] * 4
    write_jsonl([{"text": text} for text in texts], tmp_path / "some.jsonl")
    write_jsonl([{"text": " "} for _ in texts], tmp_path / "none.jsonl")
    run = ["--model_name_or_path", str(place / "ours"), "--rows_per_shard", "3", "--dtype", dtype]
    embed.main([*run, "--texts", str(tmp_path / "some.jsonl"), "--output_dir", str(tmp_path / "some")])
    assert read(tmp_path / "some")[0]["id"].to_pylist() == [5]
    assert json.loads((tmp_path / "some" / "manifest.json").read_text())["blank"] == 9
    with pytest.raises(SystemExit, match=r"none\.jsonl: all texts are blank"):
        embed.main([*run, "--texts", str(tmp_path / "none.jsonl"), "--output_dir", str(tmp_path / "none")])
