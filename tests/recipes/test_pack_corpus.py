"""Packing as a person runs it: one process or several ranks, once or again."""

import json
import sys
from functools import partial

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from curation.packing import load_blocks
from curation.tokenizer import train_tokenizer
from recipes import pack_corpus, stage1
from recipes.steps import pack_corpus as step
from recipes.steps.stage1 import Stage1Arguments, _starting_model, build_model, split_blocks
from tests.commands import contents
from tests.commands import refusal as refused
from tests.processes import run_ranks
from textfiles.writing import write_jsonl

WORDS = ["river", "stone", "house", "light", "paper", "water", "night", "field"]


@pytest.fixture
def corpus(tmp_path):
    """Files of documents and a tokenizer, as settings of the recipe."""
    texts = [" ".join(WORDS[(place * step) % 8] for step in range(5 + place % 30)) for place in range(60)]
    write_jsonl([{"text": text} for text in texts[:40]], tmp_path / "a.jsonl.gz")
    write_jsonl([{"body": text} for text in texts[40:]], tmp_path / "b.jsonl")
    train_tokenizer(texts, 60, tmp_path / "tokenizer")
    documents = [str(tmp_path / "a.jsonl.gz"), {"path": str(tmp_path / "b.jsonl"), "column": "body"}]
    return ["--documents", json.dumps(documents), "--tokenizer", str(tmp_path / "tokenizer"), "--block_size", "32"]


def argv(corpus, output, *more):
    return [*corpus, "--output_dir", str(output), "--documents_per_shard", "9", *more]


refusal = partial(refused, pack_corpus.main)


def test_ranks_and_processes_give_the_same_files(corpus, tmp_path):
    pack_corpus.main(argv(corpus, tmp_path / "one"))
    pack_corpus.main(argv(corpus, tmp_path / "processes", "--num_processes", "2"))
    run_ranks(2, pack_corpus.__file__, argv(corpus, tmp_path / "ranks"))
    one = contents(tmp_path / "one")
    assert len(one) == 15  # shards, their receipts, and the manifest
    assert contents(tmp_path / "processes") == one
    assert contents(tmp_path / "ranks") == one


def test_what_was_packed_can_be_trained_on(corpus, tmp_path):
    pack_corpus.main(argv(corpus, tmp_path / "blocks"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    blocks = load_blocks(tmp_path / "blocks", tokenizer)
    assert len(blocks) > 10 and {len(ids) for ids in blocks["input_ids"]} == {32}
    text = tokenizer.decode(blocks[0]["input_ids"], skip_special_tokens=True)
    assert set(text.split()) <= set(WORDS)


def test_stage_1_describes_what_it_would_train_on_without_training(corpus, tmp_path, capsys):
    pack_corpus.main(argv(corpus, tmp_path / "blocks"))
    blocks = len(load_blocks(tmp_path / "blocks", AutoTokenizer.from_pretrained(tmp_path / "tokenizer")))
    capsys.readouterr()
    model = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    words = ["--train_data", str(tmp_path / "blocks"), "--tokenizer", str(tmp_path / "tokenizer"), "--eval_blocks", "3"]
    words += ["--model", json.dumps(model), "--output_dir", str(tmp_path / "out"), "--num_train_epochs", "3"]
    words += ["--per_device_train_batch_size", "2", "--global_batch_size", "4", "--bf16", "true", "--dry_run"]
    assert stage1.main(words) is None
    printed = capsys.readouterr().out
    steps = (blocks - 3) // 4
    assert f"{blocks - 3} blocks of 32 tokens, {(blocks - 3) * 32:,} tokens an epoch; 3 blocks" in printed
    assert "4 blocks, 128 tokens = 1 ranks x 2 accumulated x 2 blocks" in printed
    assert f"{3 * steps} steps, {steps} an epoch" in printed
    assert "bfloat16; estimated peak memory of a GPU:" in printed
    parameters = sum(weight.numel() for weight in build_model(model, 60).parameters())
    assert f"{parameters:,} parameters" in printed
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="eval_blocks is 99"):
        stage1.main([*words, "--eval_blocks", "99"])


def test_an_unknown_field_of_a_new_model_is_refused():
    with pytest.raises(ValueError, match="no field 'num_hidden_layer'; did you mean 'num_hidden_layers'"):
        build_model({"num_hidden_layer": 2}, 60)
    small = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_inner": 16, "max_position_embeddings": 32}
    assert build_model(small, 60).config.max_trained_positions == 32


def test_the_row_of_the_tokenizers_pad_token_is_the_one_that_stays_zero():
    vocabulary = {word: place for place, word in enumerate(["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", *WORDS])}
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordPiece(vocabulary)), **names)
    small = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_inner": 16}
    model = _starting_model(Stage1Arguments(train_data="", tokenizer="", model=small), tokenizer, seed=0)
    assert model.config.pad_token_id == 4
    rows = model.get_input_embeddings().weight[: len(vocabulary)]
    assert (rows == 0).all(dim=1).nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize(("blocks", "held_out"), [(1_000, 10), (37, 5), (2, 1), (5, 0)])
def test_blocks_to_evaluate_on_are_the_same_random_ones(blocks, held_out):
    train, evaluation = split_blocks(blocks, held_out)
    assert sorted([*train, *evaluation]) == list(range(blocks)) and len(evaluation) == held_out
    again = split_blocks(blocks, held_out)
    assert (train == again[0]).all() and (evaluation == again[1]).all()
    if blocks == 1_000:  # from all over, not the last ones
        assert evaluation.max() < 990 or evaluation.min() < 500
        assert len({number // 250 for number in evaluation}) >= 3


def test_stage_1_keeps_1_percent_of_the_blocks_unless_told_otherwise(corpus, tmp_path, capsys):
    pack_corpus.main([*corpus, "--output_dir", str(tmp_path / "blocks"), "--block_size", "4"])
    blocks = len(load_blocks(tmp_path / "blocks", AutoTokenizer.from_pretrained(tmp_path / "tokenizer")))
    assert 200 <= blocks < 400
    model = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    words = ["--train_data", str(tmp_path / "blocks"), "--tokenizer", str(tmp_path / "tokenizer"), "--dry_run"]
    words += ["--model", json.dumps(model), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]
    stage1.main(words)
    assert f"; {blocks // 100} blocks are kept" in capsys.readouterr().out
    stage1.main([*words, "--eval_blocks", "0"])
    assert "; 0 blocks are kept" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_ends_the_same(corpus, tmp_path, monkeypatch):
    pack_corpus.main(argv(corpus, tmp_path / "whole"))
    pack = step.pack_shards

    def pack_two_and_die(documents, plan, directory, shards, num_processes):
        pack(documents, plan, directory, list(shards)[:2], num_processes)
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "pack_shards", pack_two_and_die)
    with pytest.raises(KeyboardInterrupt):
        pack_corpus.main(argv(corpus, tmp_path / "again"))
    monkeypatch.undo()
    begun = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "again").glob("*.arrow")}
    assert len(begun) == 2
    assert "block_size was " in refusal(argv(corpus, tmp_path / "again", "--block_size", "16"))
    pack_corpus.main(argv(corpus, tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "again" / name).stat().st_mtime_ns for name in begun} == begun


def test_changed_files_are_not_mixed_with_shards_of_the_old_ones(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "finish", lambda *_: sys.exit("stopped"))
    refusal(argv(corpus, tmp_path / "blocks"))
    write_jsonl([{"body": "river stone"}], tmp_path / "b.jsonl")
    assert "documents[" in refusal(argv(corpus, tmp_path / "blocks"))


def test_what_was_refused_can_be_corrected_in_the_same_directory(corpus, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n')
    assert "bad.jsonl" in refusal(argv(corpus, tmp_path / "out", "--documents", f"[{tmp_path}/bad.jsonl]"))
    pack_corpus.main(argv(corpus, tmp_path / "out"))
    pack_corpus.main(argv(corpus, tmp_path / "fresh"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_what_cannot_be_packed_is_named(corpus, tmp_path):
    pack_corpus.main(argv(corpus, tmp_path / "done"))
    assert "done is packed already" in refusal(argv(corpus, tmp_path / "done"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert "other holds other files, and no settings.json" in refusal(argv(corpus, tmp_path / "other"))
    assert (tmp_path / "other" / "thesis.tex").exists()
    assert "nowhere" in refusal(argv(corpus, tmp_path / "x", "--documents", f"[{tmp_path}/nowhere]"))
    assert "documents[0]: unknown key 'pth'" in refusal(argv(corpus, tmp_path / "x", "--documents", "[{pth: a}]"))
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n')
    assert "bad.jsonl, line 2" in refusal(argv(corpus, tmp_path / "x", "--documents", f"[{tmp_path}/bad.jsonl]"))
    assert "fill no block" in refusal(argv(corpus, tmp_path / "x2", "--block_size", "9999"))
