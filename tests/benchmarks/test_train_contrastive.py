import gzip
import json
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, AutoTokenizer
from transformers.models.nomic_bert import NomicBertModel as NativeModel

from benchmarks import contrastive_sides, train_contrastive
from benchmarks.contrastive_sides import Side, Workload
from nomic_bert import NomicBertConfig
from tests.benchmarks.toys import LIVELY

CONFIG = {**LIVELY, "vocab_size": 1000, "rotary_scaling_factor": None}
PAIRS, MAX_LENGTH, WARMUP, STEPS = 12, 24, 1, 2
OURS = Side(ours=True, tokens=64)
OTHERS = [Side(ours=True), Side(ours=False, texts=5), Side(ours=False, tokens=64), Side(ours=False)]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> str:
    lines = [json.dumps({"query": query, "document": document, "other": 1}) for query, document in pairs]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return str(path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    directory = tmp_path_factory.mktemp("workload")
    draw = random.Random(0)
    words = [f"{a}{b}" for a in "bdklmnprst" for b in ("an", "elo", "irru", "od")]
    pairs = [
        (f"{' '.join(draw.sample(words, 3))} {i}", " ".join(draw.choices(words, k=draw.randint(1, 30))) + f" {i}")
        for i in range(60)
    ]
    file = write_pairs(directory / "pairs.jsonl.gz", pairs)
    work = Workload(
        directory=directory, device="cpu", precision="fp32", pairs=PAIRS, max_length=MAX_LENGTH, warmup=WARMUP,
        steps=STEPS, profiled=0, workers=0, threads=1,
    )  # fmt: skip
    about = contrastive_sides.prepare(work, [file], None, NomicBertConfig(**CONFIG))
    assert about["tokens_in_vocabulary"] <= CONFIG["vocab_size"] and about["distinct_pairs"] == about["pairs"] == 36
    return work


def test_both_sides_read_the_same_tokens_and_are_one_model(prepared: Workload) -> None:
    found = contrastive_sides.compare_sides(prepared)
    assert abs(found["ours"] - found["theirs"]) < 1e-5 and found["compared_pairs"] == PAIRS
    tokenizer = AutoTokenizer.from_pretrained(prepared.directory / "model")
    plan = contrastive_sides.BatchPlan({"pairs": PAIRS * (WARMUP + STEPS)}, PAIRS, contrastive_sides._SEED)
    lengths = []
    for step in range(WARMUP, WARMUP + STEPS):
        rows = prepared.load_pairs()[plan.batch(0, step)[1].tolist()]
        texts = ["search_query: " + text for text in rows["query"]]
        texts += ["search_document: " + text for text in rows["document"]]
        lengths += [min(len(tokenizer(text)["input_ids"]), MAX_LENGTH) for text in texts]
    assert len(set(lengths)) > 5 and max(lengths) == MAX_LENGTH == found["longest"]
    assert found["tokens"] == sum(lengths) / STEPS and found["attended"] == sum(n * n for n in lengths) / STEPS


@pytest.fixture(scope="module")
def with_negatives(prepared: Workload) -> Workload:
    directory = prepared.directory / "negatives"
    directory.mkdir()
    work = replace(prepared, directory=directory, negatives=2)
    contrastive_sides.prepare(work, [str(prepared.directory / "pairs.jsonl.gz")], None, NomicBertConfig(**CONFIG))
    return work


def test_hard_negatives_are_documents_of_other_pairs_and_the_same_for_both_sides(with_negatives: Workload) -> None:
    pairs = contrastive_sides._read_pairs(str(with_negatives.directory.with_name("pairs.jsonl.gz")))
    documents = {document for _, document in pairs}
    for row in with_negatives.load_pairs():
        assert len({row["document"], *row["negatives"]}) == 3 and documents.issuperset(row["negatives"])
    found = contrastive_sides.compare_sides(with_negatives)
    assert abs(found["ours"] - found["theirs"]) < 1e-5
    losses = [contrastive_sides.measure(with_negatives, side)["loss"] for side in (OURS, OTHERS[1])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    with pytest.raises(ValueError, match="3 distinct pairs are too few for 3 negatives each"):
        contrastive_sides._negatives([("a", "b")] * 3, 3, 3)


@pytest.mark.parametrize("changed", ["order", "prompt", "scale"])
def test_sides_that_differ_are_not_timed(prepared: Workload, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    their_trainer = contrastive_sides.their_trainer

    def differing(workload: Workload, side: Side) -> Any:
        with monkeypatch.context() as patch:
            if changed == "order":
                patch.setattr(contrastive_sides, "SequentialSampler", lambda data: list(SequentialSampler(data))[::-1])
            if changed == "prompt":
                patch.setattr(contrastive_sides, "_PROMPTS", {"query": "search_query: ", "document": ""})
            if changed == "scale":
                patch.setattr(contrastive_sides, "SCALE", 20.0)
            trainer = their_trainer(workload, side)
            loader = trainer.get_train_dataloader()  # made while the change lasts
            trainer.get_train_dataloader = lambda: loader
        return trainer

    monkeypatch.setattr(contrastive_sides, "their_trainer", differing)
    expected = "not the same model" if changed == "scale" else "not train on the same texts at step 1"
    with pytest.raises(ValueError, match=expected):
        contrastive_sides.compare_sides(prepared)


def test_theirs_is_the_native_model_and_ours_stays_registered(prepared: Workload) -> None:
    trainer = contrastive_sides.their_trainer(prepared, OTHERS[1])
    assert type(trainer.model[0].auto_model) is NativeModel
    assert type(AutoConfig.from_pretrained(prepared.directory / "model")) is NomicBertConfig


@pytest.fixture(scope="module")
def ours(prepared: Workload) -> dict[str, Any]:
    return contrastive_sides.measure(prepared, OURS)


@pytest.mark.parametrize("side", OTHERS, ids=lambda side: side.name)
def test_every_side_learns_the_same(prepared: Workload, ours: dict[str, Any], side: Side) -> None:
    outcome = contrastive_sides.measure(prepared, side)
    # the later steps' losses rest on the earlier steps' gradients
    assert outcome["loss"] == pytest.approx(ours["loss"], abs=1e-4) and 1 < outcome["loss"] < 40
    assert outcome["seconds"] > 0 and outcome["peak_memory"] > 2**20 and outcome["profile"] == {}


def test_sources_are_mixed_equally_and_no_text_comes_twice() -> None:
    few = [(f"few {i}", f"short {i}") for i in range(5)] + [("few 5", "short 0")]
    many = [(f"many {i}", f"long {i}") for i in range(50)]
    mixed = contrastive_sides._mix([list(few), list(many)])
    assert [sum(query.startswith(name) for query, _ in mixed) for name in ("few", "many")] == [5, 6]
    assert len({text for pair in mixed for text in pair}) == 2 * len(mixed)
    assert set(mixed) < {*few, *many} and [pair for pair in mixed if pair in many] != many[:6]


@pytest.mark.parametrize("row", [{"query": "a"}, {"query": "a", "document": " "}, {"query": "a", "document": 3}])
def test_a_row_that_is_no_pair_is_named(tmp_path: Path, row: dict) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"query": "a", "document": "b"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 2"):
        contrastive_sides._read_pairs(str(path))


def test_sides_of_a_run() -> None:
    names = [side.name for side in train_contrastive.build_sides(4096, [32, 8], 2048, one_pass=True)]
    assert names == [
        "ours, GradCache of 4,096 tokens",
        "theirs, GradCache of 32 texts",
        "theirs, GradCache of 8 texts",
        "theirs, GradCache of 2,048 tokens",
        "ours, one pass",
        "theirs, one pass",
    ]
    assert train_contrastive.build_sides(64, [], 0, one_pass=False) == [OURS]


def test_each_side_is_compared_with_ours_in_the_same_way() -> None:
    rows = train_contrastive.build_rows(train_contrastive.build_sides(64, [8], 0, one_pass=True), 200.0, 100.0)
    assert [row.reference for row in rows] == ["ours, GradCache of 64 tokens"] * 2 + ["ours, one pass"] * 2
    assert [row.ours for row in rows] == [True, False, True, False]
    assert {(row.tokens, row.flops) for row in rows} == {(200.0, 100.0)}


@pytest.mark.usefixtures("in_this_process")
def test_a_whole_run_writes_what_it_prints(
    prepared: Workload, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_contrastive, "_config", lambda size: NomicBertConfig(**CONFIG))
    typed = "--pairs 6 --steps 1 --repeats 1 --mini_batch_sizes 4 --mini_batch_tokens 0 --no-one_pass --threads 1 "
    typed += f"--max_length 16 --pairs_files {prepared.directory / 'pairs.jsonl.gz'} --results {tmp_path}"
    train_contrastive.main(shlex.split(typed))
    train_contrastive.main(shlex.split(f"{typed} --memory 2 4"))
    printed = capsys.readouterr().out
    pages = sorted(tmp_path.glob("*.md"))
    assert [re.sub(r"^[\d-]+", "", page.stem) for page in pages] == [
        "contrastive_memory-cpu",
        "train_contrastive-small-cpu-fp32",
    ]
    for page, row in zip(
        pages, (r"\| 4 pairs \| .* \| 0.00 \|", r"\| theirs, GradCache of 4 texts \| \d.* \| \d\.\d\d \|"), strict=True
    ):
        table = page.read_text()[page.read_text().index("| ") :].strip()
        assert table in printed and re.search(row, table) and str(tmp_path) not in page.read_text()
