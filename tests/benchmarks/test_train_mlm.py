import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import train_mlm
from benchmarks.train_mlm import Side, Workload
from nomic_bert import NomicBertConfig
from tests.benchmarks.toys import LIVELY

BLOCK_SIZE, VOCAB_SIZE = 256, 2_048  # in place of 2,048 and 30,528, at which these tests take a minute
CONFIG = {**LIVELY, "vocab_size": VOCAB_SIZE, "rotary_scaling_factor": None}


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_mlm, "BLOCK_SIZE", BLOCK_SIZE)
        patch.setattr(train_mlm, "VOCAB_SIZE", VOCAB_SIZE)
        yield


def workload(directory: Path) -> Workload:
    return Workload(
        directory=directory, device="cpu", precision="fp32", blocks=1, warmup=1, steps=1, profiled=1, workers=0,
        threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    directory = tmp_path_factory.mktemp("workload")
    lines = [json.dumps({"text": f"text {i} of words {i % 7} and numbers {i * i} " * 8}) for i in range(60)]
    (directory / "texts.jsonl").write_text("\n".join(lines))
    work = workload(directory)
    about = train_mlm.prepare_data(work, [str(directory / "texts.jsonl")], None)
    assert about["blocks"] == work.all_steps and 1 < about["mean_document_tokens"] < about["attended_tokens"] + 1
    train_mlm.prepare_weights(directory, NomicBertConfig(**CONFIG))
    return work


def test_both_sides_are_one_model(prepared: Workload) -> None:
    found = train_mlm.compare_losses(prepared)
    assert abs(found["ours"] - found["native"]) <= 1e-5 and found["logits"] <= 1e-4


@pytest.mark.parametrize("change", [{"rotary_emb_base": 10_000.0}, {"layer_norm_eps": 1e-2}])
def test_another_model_is_not_timed(prepared: Workload, change: dict) -> None:
    native = prepared.directory / "native"
    saved = (native / "config.json").read_text()
    NomicBertConfig(**(CONFIG | change)).save_pretrained(native)
    try:
        with pytest.raises(ValueError, match="not the same model"):
            train_mlm.compare_losses(prepared)
    finally:
        (native / "config.json").write_text(saved)


def test_native_refuses_our_names_instead_of_training_random_weights(prepared: Workload) -> None:
    with pytest.raises(ValueError, match="does not take our weights.*layers"):
        train_mlm.load_native(prepared.directory / "ours")


@pytest.mark.parametrize("side", [Side("ours"), Side("ours", inside=True), Side("native")])
def test_each_side_trains_and_is_timed(prepared: Workload, side: Side) -> None:
    outcome = train_mlm.measure(prepared, side)
    assert outcome["seconds"] > 0 and outcome["peak_memory"] > 2**20
    assert {"matmul", "attention", "optimizer", "rest"} <= outcome["profile"].keys()
    assert 5 < outcome["loss"] < 40


def test_sides_of_a_run() -> None:
    names = [side.name for side in train_mlm.build_sides(["across", "inside"], ["off", "on"])]
    plain = ["ours, across documents", "native", "ours, inside documents"]
    assert names == plain + [f"{name}, compiled" for name in plain]
    assert [side.name for side in train_mlm.build_sides(["inside"], ["off"])] == ["ours, inside documents"]


def test_needed_work_is_counted_with_the_head_on_masked_tokens_for_every_side() -> None:
    rows = train_mlm.build_rows(
        train_mlm.build_sides(["across", "inside"], ["off"]), 3, NomicBertConfig(**CONFIG), 100.0
    )
    # body 2 x (4 x 16^2 + 3 x 16 x 32), attention over a block, head on 77 of 256 tokens
    flops = 6 * 5120 * BLOCK_SIZE + 12 * 2 * 16 * BLOCK_SIZE**2 + 6 * (16 * 16 + 16 * VOCAB_SIZE) * 77
    assert [row.flops for row in rows[:2]] == [3 * flops] * 2 and {row.tokens for row in rows} == {3 * BLOCK_SIZE}
    assert rows[2].flops == 3 * (flops - 12 * 2 * 16 * BLOCK_SIZE * (BLOCK_SIZE - 100))
    assert {row.reference for row in rows} == {"ours, across documents"} and [row.ours for row in rows] == [1, 0, 1]


@pytest.mark.usefixtures("in_this_process")
def test_a_whole_run_writes_what_it_prints(
    prepared: Workload, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train_mlm.SIZES, "small", LIVELY)
    typed = "--blocks 1 --warmup 1 --steps 1 --repeats 1 --threads 1 --attend across --profile"
    typed += f" --documents {prepared.directory / 'texts.jsonl'} --results {tmp_path}"
    typed += f" --tokenizer {prepared.directory / 'tokenizer'}"
    train_mlm.main(typed.split())
    page = next(tmp_path.glob("*-train_mlm-small-cpu-fp32.md")).read_text()
    assert page[page.index("| side") :].strip() in capsys.readouterr().out and str(tmp_path) not in page
    assert re.search(r"^\| native \| \d", page, re.M) and "| kind of work | ours, across documents | native |" in page
