import json
import multiprocessing
import os
import shutil
import signal
import time

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from curation import packing
from curation.documents import Documents
from curation.packing import MANIFEST, PackingPlan, finish, load_blocks, on_processes, pack_documents, pack_shards
from curation.tokenizer import plain_tokenizer
from tests.commands import contents
from tests.processes import Forked

CLS, SEP = 1, 2


def word_tokenizer(first_id=10, marks=True):
    """One token a word: "w7" -> first_id + 7; cuts at 8 tokens unless told otherwise."""
    vocabulary = {"[UNK]": 0, "[CLS]": CLS, "[SEP]": SEP} | {f"w{number}": first_id + number for number in range(100)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if marks:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
    core.enable_truncation(8)
    core.enable_padding(length=8)
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=8)


@pytest.fixture
def tokenizer():
    return Tokenizer.from_str(plain_tokenizer(word_tokenizer()))


def corpus(sizes):
    """Texts of the given numbers of words, and their token ids."""
    words = [[(7 * place + offset) % 100 for offset in range(size)] for place, size in enumerate(sizes)]
    return [" ".join(f"w{word}" for word in document) for document in words], [
        [CLS, *(10 + word for word in document), SEP] for document in words
    ]


def pack_by_hand(documents, block_size):
    """The same in plain lists: (token, document) pairs end to end, cut, then counted."""
    stream = [(token, place) for place, tokens in enumerate(documents) for token in tokens]
    blocks = []
    for start in range(0, len(stream) - block_size + 1, block_size):
        block = stream[start : start + block_size]
        lengths = {}
        for _, place in block:
            lengths[place] = lengths.get(place, 0) + 1
        blocks.append({"input_ids": [token for token, _ in block], "document_lengths": list(lengths.values())})
    return blocks


@pytest.mark.parametrize("block_size", [1, 4, 7, 16, 64, 1000])
@pytest.mark.parametrize("documents_at_once", [1, 3, 1000])
def test_blocks_equal_a_plain_list_construction(tokenizer, block_size, documents_at_once, monkeypatch):
    monkeypatch.setattr(packing, "_DOCUMENTS_AT_ONCE", documents_at_once)
    texts, documents = corpus([3, 1, 30, 2, 2, 6, 14, 1, 5, 40, 3])
    blocks, counts = pack_documents(iter(texts), tokenizer, block_size)
    assert blocks.to_pylist() == pack_by_hand(documents, block_size)
    total = sum(map(len, documents))
    assert counts == {
        "documents": 11,
        "blank_documents": 0,
        "tokens": total,
        "dropped_tokens": total % block_size,
        "blocks": total // block_size,
    }


def test_blank_documents_are_counted_and_leave_no_special_tokens(tokenizer):
    blocks, counts = pack_documents(["w1", " \n", "", None, "w2"], tokenizer, 3)
    assert blocks["input_ids"].to_pylist() == [[CLS, 11, SEP], [CLS, 12, SEP]]
    assert (counts["documents"], counts["blank_documents"]) == (2, 3)


def table(texts):
    return datasets.Dataset.from_dict({"text": texts})


@pytest.fixture
def documents():
    texts, _ = corpus([size % 23 + 1 for size in range(50)])
    return Documents([table(texts[:30]), table(texts[30:])], [1, 1])


def make_plan(documents, **changes):
    settings = {"block_size": 16, "documents_per_shard": 12, "seed": 3} | changes
    return PackingPlan(plain_tokenizer(word_tokenizer()), len(documents), **settings)


def pack(documents, plan, directory, shards=None, num_processes=1):
    directory.mkdir(exist_ok=True)
    pack_shards(documents, plan, directory, range(plan.num_shards) if shards is None else shards, num_processes)
    return finish(plan, directory, {"tokenizer": "words"})


def test_files_do_not_depend_on_processes_and_ranks(documents, tmp_path):
    plan = make_plan(documents)
    pack(documents, plan, tmp_path / "one")
    pack(documents, plan, tmp_path / "two", num_processes=2)
    (tmp_path / "ranks").mkdir()
    for rank in range(3):
        pack_shards(documents, plan, tmp_path / "ranks", range(rank, plan.num_shards, 3))
    finish(plan, tmp_path / "ranks", {"tokenizer": "words"})
    assert len(contents(tmp_path / "one")) == 11
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "ranks")


def test_loaded_blocks_are_the_shards_documents_in_the_seeds_order(documents, tmp_path):
    plan = make_plan(documents)
    manifest = pack(documents, plan, tmp_path / "blocks")
    order = np.random.default_rng(3).permutation(50).tolist()
    tokenizer = Tokenizer.from_str(plan.tokenizer)
    expected = []
    for start in range(0, 50, 12):
        expected += pack_by_hand([tokenizer.encode(t).ids for t in documents.texts(order[start : start + 12])], 16)
    assert load_blocks(tmp_path / "blocks", word_tokenizer()).to_list() == expected
    assert manifest["blocks"] == len(expected) and manifest["documents"] == 50
    assert manifest["blocks"] * 16 + manifest["dropped_tokens"] == manifest["tokens"]
    unshuffled = make_plan(documents, seed=None)
    assert unshuffled.order().tolist() == list(range(50))


def test_a_shard_that_is_there_is_not_packed_again(documents, tmp_path):
    plan = make_plan(documents)
    pack(documents, plan, tmp_path / "blocks")
    whole = contents(tmp_path / "blocks")
    plan.files(tmp_path / "blocks").path(1).unlink()
    kept = plan.files(tmp_path / "blocks").path(2)
    before = kept.stat().st_mtime_ns
    pack(documents, plan, tmp_path / "blocks")
    assert contents(tmp_path / "blocks") == whole
    assert kept.stat().st_mtime_ns == before


class DiesAt(Documents):
    """Documents whose reader dies at one of them, as a killed process would."""

    def texts(self, numbers):
        if 7 in numbers:
            raise KeyboardInterrupt
        return super().texts(numbers)


def test_an_interrupted_packing_leaves_whole_shards_only(documents, tmp_path):
    plan = make_plan(documents)
    (tmp_path / "blocks").mkdir()
    with pytest.raises(KeyboardInterrupt):
        pack_shards(DiesAt(documents._rows, [1, 1]), plan, tmp_path / "blocks", range(plan.num_shards))
    assert 0 < len(list((tmp_path / "blocks").glob("*.arrow"))) < plan.num_shards
    with pytest.raises(FileNotFoundError, match="blocks-0000.-of-00005.arrow is missing"):
        finish(plan, tmp_path / "blocks", {"tokenizer": "words"})
    with pytest.raises(FileNotFoundError, match="manifest.json is missing"):
        load_blocks(tmp_path / "blocks", word_tokenizer())
    pack(documents, plan, tmp_path / "blocks")
    pack(documents, plan, tmp_path / "whole")
    assert contents(tmp_path / "blocks") == contents(tmp_path / "whole")


def test_a_shard_that_was_damaged_is_packed_again(documents, tmp_path):
    plan = make_plan(documents)
    pack(documents, plan, tmp_path / "blocks")
    whole, shard = contents(tmp_path / "blocks"), plan.files(tmp_path / "blocks").path(1)
    for damaged in (b"", whole[shard.name][:-300], whole[shard.name][:-60] + b"!" + whole[shard.name][-59:]):
        shard.write_bytes(damaged)
        with pytest.raises(FileNotFoundError, match="blocks-00001-of-00005.arrow is missing or damaged"):
            finish(plan, tmp_path / "blocks", {"tokenizer": "words"})
        pack(documents, plan, tmp_path / "blocks")
        assert contents(tmp_path / "blocks") == whole


def test_damage_and_a_foreign_vocabulary_are_named(documents, tmp_path):
    plan = make_plan(documents)
    pack(documents, plan, tmp_path / "blocks")
    with pytest.raises(ValueError, match="packed with the vocabulary of words"):
        load_blocks(tmp_path / "blocks", word_tokenizer(first_id=20))
    first, second = (plan.files(tmp_path / "blocks").path(shard) for shard in (0, 1))
    shutil.copy(second, first)
    with pytest.raises(ValueError, match="blocks-00000-of-00005.arrow: .* blocks where manifest.json says"):
        load_blocks(tmp_path / "blocks", word_tokenizer())
    first.unlink()
    with pytest.raises(FileNotFoundError, match="blocks-00000-of-00005.arrow is missing"):
        load_blocks(tmp_path / "blocks", word_tokenizer())


def test_a_shard_without_a_full_block_is_no_error_but_a_corpus_is(documents, tmp_path):
    plan = make_plan(documents, block_size=60, documents_per_shard=1 + len(documents) // 2)
    pack(documents, plan, tmp_path / "some")
    plan = make_plan(documents, block_size=24, documents_per_shard=1)
    blocks = load_blocks_after(pack(documents, plan, tmp_path / "few"), tmp_path / "few")
    assert set(map(len, blocks["input_ids"])) == {24}
    with pytest.raises(ValueError, match="fill no block of 5000"):
        pack(documents, make_plan(documents, block_size=5000), tmp_path / "none")


def load_blocks_after(manifest, directory):
    assert 0 in manifest["shards"].values() and any(manifest["shards"].values())
    return load_blocks(directory, word_tokenizer())


def test_a_plan_that_cannot_be_meant_is_refused():
    for changes, said in (({"num_documents": 0}, "no documents"), ({"block_size": 0}, "block_size"),
                          ({"documents_per_shard": 0}, "documents_per_shard")):  # fmt: skip
        settings = {"num_documents": 1, "block_size": 1, "documents_per_shard": 1, "seed": None} | changes
        with pytest.raises(ValueError, match=said):
            PackingPlan("{}", **settings)


def test_a_tokenizer_without_special_tokens_is_refused():
    with pytest.raises(ValueError, match="no special tokens around a text"):
        plain_tokenizer(word_tokenizer(marks=False))


def test_the_manifest_says_what_was_packed(documents, tmp_path):
    pack(documents, make_plan(documents), tmp_path / "blocks")
    manifest = json.loads((tmp_path / "blocks" / MANIFEST).read_text())
    assert {"tokenizer", "tokenizer_sha256", "block_size", "seed", "documents", "tokens", "shards"} <= set(manifest)
    rows = [pa.ipc.open_stream((tmp_path / "blocks" / name).read_bytes()).read_all() for name in manifest["shards"]]
    assert [len(table) for table in rows] == list(manifest["shards"].values())


def test_processes_can_be_started_afresh(documents, tmp_path, monkeypatch):
    """Where a system does not fork, what the workers are given must travel by pickle."""
    monkeypatch.setattr(packing.multiprocessing, "Pool", multiprocessing.get_context("spawn").Pool)
    documents._rows = [save_and_open(table, tmp_path / str(place)) for place, table in enumerate(documents._rows)]
    pack(documents, make_plan(documents), tmp_path / "spawned", num_processes=2)
    pack(documents, make_plan(documents), tmp_path / "one")
    assert contents(tmp_path / "spawned") == contents(tmp_path / "one")


def save_and_open(table, path):
    table.save_to_disk(str(path))
    return datasets.load_from_disk(str(path))


def work_long(job):
    time.sleep(0.2)
    print(f"did {job}", flush=True)


def work_on_two_processes():
    list(on_processes(work_long, list(range(1_000)), 2))


def test_sigterm_ends_the_workers_too_without_a_traceback():
    parent = Forked(work_on_two_processes)
    parent.wait_until(lambda: parent.printed.count("did") > 2)
    os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait(limit=10) == 128 + signal.SIGTERM
    time.sleep(0.5)  # in which a worker that went on would find its parent gone
    printed = parent.printed
    assert set(printed.split()) <= {"did", *map(str, range(1_000))}, printed
