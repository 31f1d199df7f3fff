import json
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from benchmarks import mlm_sides, train_mlm
from benchmarks.mlm_sides import BLOCK_SIZE, Side, Workload
from benchmarks.step_clock import StepClock
from benchmarks.texts import VOCAB_SIZE
from nomic_bert import NomicBertConfig

# Weights large enough that attention and positions decide about the logits.
CONFIG = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
    "rotary_scaling_factor": None,
}


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
    about = mlm_sides.prepare_data(work, [str(directory / "texts.jsonl")], None)
    assert about["blocks"] == work.all_steps and 1 < about["mean_document_tokens"] < about["attended_tokens"] + 1
    mlm_sides.prepare_weights(directory, NomicBertConfig(**CONFIG))
    return work


def test_both_sides_are_one_model(prepared: Workload) -> None:
    found = mlm_sides.compare_losses(prepared)
    assert abs(found["ours"] - found["native"]) <= 1e-5 and found["logits"] <= 1e-4


@pytest.mark.parametrize("change", [{"rotary_emb_base": 10_000.0}, {"layer_norm_eps": 1e-2}])
def test_another_model_is_not_timed(prepared: Workload, change: dict) -> None:
    native = prepared.directory / "native"
    saved = (native / "config.json").read_text()
    NomicBertConfig(**(CONFIG | change)).save_pretrained(native)
    try:
        with pytest.raises(ValueError, match="not the same model"):
            mlm_sides.compare_losses(prepared)
    finally:
        (native / "config.json").write_text(saved)


def test_native_refuses_our_names_instead_of_training_random_weights(prepared: Workload) -> None:
    with pytest.raises(ValueError, match="does not take our weights.*layers"):
        mlm_sides.load_native(prepared.directory / "ours")


@pytest.mark.parametrize("side", [Side(native=False), Side(native=False, inside=True), Side(native=True)])
def test_each_side_trains_and_is_timed(prepared: Workload, side: Side) -> None:
    outcome = mlm_sides.measure(prepared, side)
    assert outcome["tokens_per_second"] > 0 and outcome["peak_memory"] > 2**20
    assert {"matmul", "attention", "optimizer", "rest"} <= outcome["profile"].keys()
    assert 5 < outcome["loss"] < 40


def test_sides_of_a_run() -> None:
    names = [side.name for side in train_mlm.build_sides(["across", "inside"], ["off", "on"])]
    plain = ["ours, across documents", "native", "ours, inside documents"]
    assert names == plain + [f"{name}, compiled" for name in plain]
    assert [side.name for side in train_mlm.build_sides(["inside"], ["off"])] == ["ours, inside documents"]


def test_medians_ratios_and_failures_by_hand() -> None:
    sides = train_mlm.build_sides(["across", "inside"], ["off"])
    config = NomicBertConfig(**CONFIG)

    def outcome(speed: float) -> dict:
        return {"tokens_per_second": speed, "peak_memory": 2**30, "loss": 1.0, "profile": {}}

    outcomes = {
        "ours, across documents": [outcome(speed) for speed in (30.0, 10.0, 21.0)],
        "native": [outcome(speed) for speed in (7.0, 6.0, 8.0)],
        "ours, inside documents": [outcome(1.0), {"error": "OutOfMemoryError: a | b"}, outcome(1.0)],
    }
    report = train_mlm.summarize(outcomes, sides, 1e9, config, 100.0)
    ours = report["ours, across documents"]
    assert ours["tokens_per_second"] == {"median": 21.0, "min": 10.0, "max": 30.0} and ours["times_native"] == 3.0
    # body 2 x (4 x 16^2 + 3 x 16 x 32), attention over a block, head on 614 of 2,048 tokens
    flops = 6 * 5120 + 12 * 2 * 16 * BLOCK_SIZE + 6 * (16 * 16 + 16 * VOCAB_SIZE) * 614 / BLOCK_SIZE
    assert ours["share_of_matmul"] == pytest.approx(21.0 * flops / 1e9)
    assert report["ours, inside documents"] == {"error": "OutOfMemoryError: a | b"}


def test_a_run_that_is_stopped_shows_what_it_measured() -> None:
    sides = train_mlm.build_sides(["across", "inside"], ["off"])
    setting = {
        **workload(Path()).shown(), "size": "small", "matmul_flops": 1e12, "rounds": "stopped in round 1",
        "same_loss": {"ours": 1.0, "native": 1.0, "logits": 0.0},
        "text": {"source": "", "distinct_blocks": 1, "blocks": 1, "mean_document_tokens": 1.0, "attended_tokens": 1.0,
                 "tokens_in_vocabulary": 1},
    }  # fmt: skip
    outcome = {"tokens_per_second": 5.0, "peak_memory": 2**30, "loss": 1.0, "profile": {"matmul": 0.1, "rest": 0.1}}
    outcomes: dict[str, list] = {"ours, across documents": [outcome], "native": [], "ours, inside documents": []}
    page = train_mlm.render(train_mlm.summarize(outcomes, sides, 1e9, NomicBertConfig(**CONFIG), 100.0), setting)
    assert "| ours, across documents | 5 | 5 to 5 |  | 1.00 |" in page and "; stopped in round 1," in page
    assert "| native | not measured |" in page and "| ours, inside documents | not measured |" in page
    assert "| kind of work | ours, across documents |\n" in page


def test_the_clock_counts_the_timed_steps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock(torch.device("cpu"), warmup=2, steps=3)
    args, state, control = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(), TrainerControl()
    for step, now in enumerate([100.0, 110.0, 11.5, 12.5, 20.5, 999.0], start=1):
        monkeypatch.setattr(clock, "_now", lambda now=now: now)
        state.global_step = step
        clock.on_step_end(args, state, control)
    assert clock.seconds == pytest.approx((20.5 - 110.0) / 3)
    assert clock.profile == {} and clock.peak_memory > 0
