import gzip
import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, AutoTokenizer
from transformers.models.nomic_bert import NomicBertModel as NativeModel

from benchmarks import contrastive_sides, train_contrastive
from benchmarks.contrastive_sides import Side, Workload
from nomic_bert import NomicBertConfig

# Weights large enough that attention and positions decide about the loss.
CONFIG = {
    "vocab_size": 1000,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
    "rotary_scaling_factor": None,
}
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


def test_medians_ratios_and_failures_by_hand() -> None:
    sides = train_contrastive.build_sides(64, [8], 0, one_pass=True)

    def outcome(seconds: float) -> dict:
        return {"seconds": seconds, "peak_memory": int(seconds) * 2**30, "loss": 1.0, "profile": {}}

    outcomes = {
        "ours, GradCache of 64 tokens": [outcome(seconds) for seconds in (2.0, 9.0, 4.0)],
        "theirs, GradCache of 8 texts": [outcome(seconds) for seconds in (10.0, 5.0, 11.0)],
        "ours, one pass": [outcome(seconds) for seconds in (3.0, 3.0, 3.0)],
        "theirs, one pass": [outcome(1.0), {"error": "OutOfMemoryError: a | b"}, outcome(1.0)],
    }
    report = train_contrastive.summarize(outcomes, sides, rate=50.0, flops=100.0, pairs=8, tokens=200.0)
    cached, theirs = report["ours, GradCache of 64 tokens"], report["theirs, GradCache of 8 texts"]
    assert cached["seconds"] == {"median": 4.0, "min": 2.0, "max": 9.0} and cached["peak_memory"] == 9 * 2**30
    assert (cached["pairs_per_second"], cached["tokens_per_second"], cached["share_of_matmul"]) == (2.0, 50.0, 0.5)
    assert (cached["times_ours"], theirs["times_ours"], report["ours, one pass"]["times_ours"]) == (1.0, 2.5, 1.0)
    assert report["theirs, one pass"] == {"error": "OutOfMemoryError: a | b"}


def test_a_run_that_is_stopped_shows_what_it_measured(prepared: Workload) -> None:
    sides = train_contrastive.build_sides(64, [8], 0, one_pass=False)
    outcome = {"seconds": 2.0, "peak_memory": 2**30, "loss": 1.0, "profile": {"matmul": 1.0, "rest": 1.0}}
    outcomes: dict[str, list] = {"ours, GradCache of 64 tokens": [outcome], "theirs, GradCache of 8 texts": []}
    report = train_contrastive.summarize(outcomes, sides, rate=50.0, flops=100.0, pairs=8, tokens=200.0)
    text = {"source": "", "distinct_pairs": 1, "pairs": 1, "tokens_in_vocabulary": 1}
    setting = {**prepared.shown(), "size": "small", "text": text, "same": contrastive_sides.compare_sides(prepared)}
    setting |= {"matmul_flops": 1.0, "needed_flops": 1.0, "rounds": "stopped in round 1"}
    page = train_contrastive.render(report, setting)
    assert "| ours, GradCache of 64 tokens | 2.00 | 2.00 to 2.00 | 1.00 |" in page and "; stopped in round 1," in page
    assert "| theirs, GradCache of 8 texts | not measured |" in page
    memory = train_contrastive.summarize_memory({"256": [{"peak_memory": 2**20}], "1024": []}, dimension=128)
    page = train_contrastive.render_memory(memory, {**setting, "chunk_tokens": 64, "model": CONFIG})
    assert "| 256 | 1 | 1 to 1 | 0 | 0.25 |" in page and "| 1,024 | not measured |" in page


def test_a_side_that_fails_is_an_outcome(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any, *arguments: Any) -> Any:
        raise MemoryError("no room\nfor more")

    monkeypatch.setattr("benchmarks.measure.in_fresh_process", fail)
    outcome = train_contrastive.try_in_fresh_process("theirs", train_contrastive._show, contrastive_sides.measure)
    assert outcome == {"error": "MemoryError: no room"} and capsys.readouterr().out == "theirs: MemoryError: no room\n"


def test_needed_work_is_one_forward_and_backward_pass_without_a_head() -> None:
    # 2 layers of 4 x 16^2 + 3 x 16 x 32 weights, 6 operations each; attention 12 x layers x hidden x attended
    flops = contrastive_sides.needed_flops(NomicBertConfig(**CONFIG), tokens=10.0, attended=30.0)
    assert flops == 6 * 2 * (4 * 256 + 3 * 512) * 10 + 12 * 2 * 16 * 30


def test_memory_by_hand() -> None:
    outcomes: dict[str, list] = {
        "256": [{"peak_memory": peak} for peak in (100, 300, 200)],
        "1024": [{"peak_memory": 250}],
        "4096": [{"error": "MemoryError: x"}],
    }
    report = train_contrastive.summarize_memory(outcomes, dimension=128)
    assert report["256"]["growth"] == 0 and report["1024"]["growth"] == 50
    assert report["1024"]["embeddings"] == 1024 * 2 * 128 * 4
    assert report["4096"] == {"embeddings": 4 * 1024 * 2 * 128 * 4, "error": "MemoryError: x"}


def test_a_whole_run_writes_what_it_prints(
    prepared: Workload, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which costs less than the new ones that a measurement takes."""

    def here(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    for name in ("benchmarks.measure", "benchmarks.train_contrastive"):
        monkeypatch.setattr(f"{name}.in_fresh_process", here)
    monkeypatch.setattr(train_contrastive, "_config", lambda size: NomicBertConfig(**CONFIG))
    typed = "--pairs 6 --steps 1 --repeats 1 --mini_batch_sizes 4 --mini_batch_tokens 0 --no-one_pass --threads 1 "
    typed += f"--max_length 16 --pairs_files {prepared.directory / 'pairs.jsonl.gz'} --results {tmp_path}"
    threads = torch.get_num_threads()
    try:
        train_contrastive.main(shlex.split(typed))
        train_contrastive.main(shlex.split(f"{typed} --memory 2 4"))
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    pages = sorted(tmp_path.glob("*.md"))
    assert [re.sub(r"^[\d-]+", "", page.stem) for page in pages] == [
        "contrastive_memory-cpu",
        "train_contrastive-small-cpu-fp32",
    ]
    for page, row in zip(
        pages, (r"\| 4 \| \d", r"\| theirs, GradCache of 4 texts \| \d.* \| \d\.\d\d \|"), strict=True
    ):
        table = page.read_text()[page.read_text().index("| ") :].strip()
        assert table in printed and re.search(row, table) and str(tmp_path) not in page.read_text()


def test_make_gpu_asks_for_what_there_is() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    settings = re.search(r"^GPU_train_contrastive := (.*)$", makefile, re.MULTILINE)
    assert settings and re.search(r"^BENCHMARKS \?=.*\btrain_contrastive\b", makefile, re.MULTILINE)
    args = train_contrastive._parser().parse_args(shlex.split(settings[1]))
    assert (args.size, args.device, args.precision) == ("base", "cuda", "bf16")
