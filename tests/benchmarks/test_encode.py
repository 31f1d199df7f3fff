import importlib.util
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertTokenizer

from benchmarks import compare, encode, encode_sides, encode_texts, workloads
from benchmarks.encode_sides import Job, Workload
from benchmarks.encode_texts import TextCutter
from nomic_bert import NomicBertConfig
from publishing.onnx_export import export_onnx
from tests.benchmarks.toys import SIZE

WORDS = ["search", "query", "document", "class", "##ification", "sort", "##ing", "num", "##bers", "list", "tree"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "_", ":", ".", *WORDS]
SENTENCES = [
    f"Sorting {'numbers list ' * (n % 9)} trees {n}. " + "Tree numbers, sorting. " * (n % 5) for n in range(40)
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    file.write_text("\n".join(VOCABULARY))
    return str(file)


@pytest.fixture(scope="module")
def job(vocabulary: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A small model, its ONNX file, and texts of 10 to 90 tokens."""
    directory = tmp_path_factory.mktemp("job")
    tokenizer = encode_texts.prepare_tokenizer(vocabulary, [], directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(workloads.SIZES, "tiny", SIZE)
        encode_texts.save_model("tiny", tokenizer, directory / "model")
    if importlib.util.find_spec("onnxruntime"):
        export_onnx(directory / "model", directory / encode_sides.ONNX_FILE)
    workload = TextCutter(SENTENCES, tokenizer).workload("some", "document", [90, 10, 33, 34, 35, 10, 60])
    return Job(
        model=directory / "model", workloads=(workload,), device="cpu", precision="fp32", threads=1,
        trained_length=2048, embeddings=directory,
    )  # fmt: skip


@pytest.mark.parametrize("name", encode.WORKLOADS)
def test_workloads_have_the_promised_lengths(vocabulary: str, name: str) -> None:
    lengths = encode_texts.workload_lengths(name, 1)
    promised = {"query": (1, 16, 16), "queries": (64, 10, 24), "mixed": (128, 20, 2000), "long": (8, 2048, 2048),
                "longest": (1, 8192, 8192)}  # fmt: skip
    assert (len(lengths), min(lengths), max(lengths)) == promised[name]
    assert len(encode_texts.workload_lengths(name, 3)) == len(lengths) * (1 if name == "query" else 3)
    tokenizer = BertTokenizer(vocab=vocabulary)
    workload = TextCutter(SENTENCES, tokenizer).workload(name, encode.WORKLOADS[name], lengths)
    counted = [len(tokenizer(workload.prompt + text, verbose=False)["input_ids"]) for text in workload.texts]
    assert counted == lengths == list(workload.lengths) and workload.tokens == sum(counted)
    assert workload.prompt == ("search_query: " if name in ("query", "queries") else "search_document: ")
    assert TextCutter(SENTENCES, tokenizer).workload(name, encode.WORKLOADS[name], lengths) == workload


def test_mixed_lengths_are_those_of_real_text_and_unsorted() -> None:
    lengths = encode_texts.workload_lengths("mixed", 1)
    assert 108 <= np.median(lengths) <= 112 and 150 < np.mean(lengths) < 250 and lengths != sorted(lengths)


def test_growth_keeps_tokens_and_changes_one_thing() -> None:
    points = encode_texts.growth_lengths(16_384)
    by_length = {name: lengths for name, lengths in points.items() if name.startswith("length")}
    assert [(len(lengths), set(lengths)) for lengths in by_length.values()] == [
        (16_384 // length, {length}) for length in (128, 256, 512, 1024, 2048, 4096, 8192)
    ]
    batches = [lengths for name, lengths in points.items() if name.startswith("batch")]
    assert [len(lengths) for lengths in batches] == [1, 2, 4, 8, 16, 32, 64, 128] and set(batches[-1]) == {128}
    spreads = [points[f"spread {deviation}"] for deviation in ("0", "0.4", "0.8", "1.2")]
    deviations = [float(np.std(np.log(lengths))) for lengths in spreads]
    assert deviations == pytest.approx([0, 0.4, 0.8, 1.2], abs=0.1)
    assert all(abs(np.mean(lengths) - 256) < 30 for lengths in spreads)


def test_texts_are_real_and_a_row_without_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"query": "a", "document": "one"}\n{"text": "two"}\n{"text": "two"}\n{"text": " "}\n')
    texts, source = workloads.read_texts([str(file)])
    assert sorted(texts) == ["one", "two"] and source == "rows.jsonl"
    file.write_text('{"text": "one"}\n{"title": "two"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
        workloads.read_texts([str(file)])


def test_a_length_that_the_prompt_fills_is_refused(vocabulary: str) -> None:
    with pytest.raises(ValueError, match="6 tokens are too few for 'search_query: '"):
        TextCutter(SENTENCES, BertTokenizer(vocab=vocabulary)).workload("query", "query", [6])


def test_a_tokenizer_that_joins_prompt_and_text_is_refused(vocabulary: str) -> None:
    tokenizer = BertTokenizer(vocab=vocabulary)

    def joining(text: str, **options: Any) -> Any:
        found = tokenizer(text, **options)
        return {**found, "input_ids": found["input_ids"][: 15 if text.startswith("search_query: ") else None]}

    with pytest.raises(ValueError, match="20 texts cut to 16 tokens are of other lengths"):
        TextCutter(SENTENCES, cast(Any, joining)).workload("query", "query", [16])


def test_needed_work_is_a_forward_pass() -> None:
    config, workload = NomicBertConfig(**SIZE), Workload("some", "", ("a", "b"), (10, 30))
    cost = encode_texts.forward_cost(config, workload)
    # 2 operations for each of 2 layers' 4 x 16^2 + 3 x 16 x 32 weights; two products of 16 a pair of tokens
    body, attention = 2 * 2 * (4 * 256 + 3 * 512) * 40, 2 * 2 * 2 * 16 * (100 + 900)
    assert cost["flops"] == body + attention
    assert cost["attention_share"] == pytest.approx(attention / (body + attention))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_sides, "_WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(encode_sides, "_TIMED_SECONDS", 0.05)


def test_ours_and_onnx_give_the_embeddings_of_encode(job: Job) -> None:
    workload = job.workloads[0]
    texts = [workload.prompt + text for text in workload.texts]
    expected = np.stack([SentenceTransformer(str(job.model), device="cpu").encode(text) for text in texts])
    assert expected.std(axis=0).max() > 1e-3  # the texts are told apart
    for side in ["ours_tokens", "ours_encode"] + ["onnx"] * (encode_sides.missing_for("onnx", "cpu", "fp32") is None):
        outcome = encode_sides.measure(replace(job, profiled=True), side)["some"]
        # ONNX Runtime's work does not show in torch's profiler
        assert ("profile" in outcome) == (side != "onnx") and outcome.get("profile", {"attention": 1})["attention"] > 0
        assert outcome["seconds"] > 0 and outcome["calls"] > 1 and outcome["peak_memory"] > 2**26
        assert (outcome["batch_size"] in (1, 2, 4, 8)) == (side == "onnx")
        assert np.abs(np.load(job.embeddings_file(workload, side)) - expected).max() < 1e-6
        assert encode.distance(job, workload, side, "ours_tokens")["difference"] < 1e-6


def test_native_is_native_and_other_embeddings_are_found(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Native runs in a new process; here, where our package is imported, it is refused."""
    with pytest.raises(RuntimeError, match=r"the model is a nomic_bert\.modeling_nomic_bert\."):
        encode_sides.measure(job, "native_default")
    encode_sides.measure(job, "ours_tokens")
    found = encode._measure_and_compare("tiny, some", job, "native_sorted", "ours_tokens")["some"]
    assert found["difference"] < 1e-5 and found["batch_size"] in (1, 2, 4, 8) and found["seconds"] > 0
    file = job.embeddings_file(job.workloads[0], "native_sorted")
    embeddings = np.load(file)
    assert np.abs(embeddings).max() > 0 and "some 0." in capsys.readouterr().out
    embeddings[3, 5] += 1e-4
    np.save(file, embeddings)
    assert 2e-5 < encode.distance(job, job.workloads[0], "native_sorted", "ours_tokens")["difference"] < 2e-4
    embeddings[0, 0] = np.nan
    np.save(file, embeddings)
    assert encode.distance(job, job.workloads[0], "native_sorted", "ours_tokens")["difference"] == np.inf
    monkeypatch.setattr(compare, "try_in_fresh_process", lambda *_: {"some": {"seconds": 1.0}})
    # longer than the trained length: another model, so not compared
    for trained_length, is_compared in ((89, False), (90, True)):
        part = replace(job, trained_length=trained_length)
        outcome = encode._measure_and_compare("", part, "native_sorted", "ours_tokens")["some"]
        assert ("difference" in outcome) == is_compared


@pytest.mark.parametrize(("precision", "sides"), [("bf16", ("ours_openvino", "openvino")), ("int8", ("onnx",))])
def test_below_float32_engines_are_compared_with_float32(job: Job, precision: str, sides: tuple[str, ...]) -> None:
    job = replace(job, precision=precision)
    encode.embed_in_float32(job)
    exact = np.load(job.embeddings_file(job.workloads[0], "float32"))
    for side in sides:
        if encode_sides.missing_for(side, "cpu", precision):
            continue
        if prepare := encode_sides.SIDES[side].prepare:
            prepare(job.model)
        encode_sides.measure(job, side)
        found = np.load(job.embeddings_file(job.workloads[0], side))
        cosines = (exact * found).sum(axis=1) / np.linalg.norm(found, axis=1)
        distance = encode.distance(job, job.workloads[0], side, "not measured")
        assert distance["cosine"] == pytest.approx(cosines.min(), abs=1e-6) and distance["cosine"] > 0.99


def test_batch_sizes_are_tried_on_mixed_lengths_and_the_fastest_is_taken() -> None:
    lengths = (9, 1, 5, 3, 7)
    workload = Workload("some", "", tuple(f"of {length}" for length in lengths), lengths)
    assert encode_sides.sample_of(workload, 15) == ["of 3", "of 7"]
    assert encode_sides.sample_of(workload, 2) == ["of 9"]
    assert encode_sides.sample_of(workload, 99) == ["of 1", "of 3", "of 5", "of 7", "of 9"]
    calls: list[int | None] = []

    def encode_slowly(texts: object, batch_size: int | None) -> np.ndarray:
        calls.append(batch_size)
        if batch_size == 8:
            raise torch.OutOfMemoryError
        torch.rand(1 if batch_size == 4 else 3_000_000).sum()
        return np.zeros(1)

    assert encode_sides.fastest_batch_size(encode_slowly, ["text"] * 5, (1, 2, 4, 8, 16, 32), "cpu") == 4
    assert calls == [1, 2, 4, 8]


def outcome(seconds: float, difference: float | None, batch_size: int | None = None) -> dict:
    return {"seconds": seconds, "peak_memory": int(seconds * 2**30), "batch_size": batch_size, "difference": difference}


def test_a_whole_run_writes_what_it_prints_and_refuses_other_embeddings(
    vocabulary: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, which costs less than new ones; the sides' own work is tested above."""
    perturbation = 0.0

    def here(function: object, job: Job, side: str) -> dict:
        for workload in job.workloads:
            embeddings = np.ones((len(workload.texts), 4)) + (
                perturbation * np.eye(4)[0] if side == "ours_encode" else 0
            )
            np.save(job.embeddings_file(workload, side), embeddings)
        size = 8 if side == "native_sorted" else None
        return {each.name: outcome(2.0 if size else 1.0, None, size) for each in job.workloads}

    def in_process(function: Any, *arguments: Any) -> Any:
        return here(function, *arguments) if function is encode_sides.measure else 1e9  # of the matrix products

    monkeypatch.setattr(compare, "in_fresh_process", in_process)
    monkeypatch.setitem(workloads.SIZES, "tiny", SIZE)
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in SENTENCES))
    typed = f"--texts {file} --tokenizer {vocabulary} --results {tmp_path} --repeats 2 --threads 1 "
    sides = "--sides native_sorted ours_encode ours_tokens "
    encode.main(shlex.split(f"{typed} {sides} --workloads queries longest"))
    printed = capsys.readouterr().out
    page = next(tmp_path.glob("*-encode-tiny-cpu-fp32.md")).read_text()
    assert page[page.index("| workload") :].strip() in printed and str(tmp_path) not in page
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| (queries|longest) ", line)]
    assert [row[1] for row in rows] == ["ours_tokens", "ours_encode", "native_sorted"] * 2
    header = [title.strip() for title in page[page.index("| workload") :].splitlines()[0].strip("|").split("|")]
    column = {title: [row[number].strip(" |") for row in rows] for number, title in enumerate(header)}
    assert column["largest difference"] == ["0.0e+00"] * 5 + [""] and column["batch size"][:3] == ["", "", "8"]
    assert column["ours is faster by"] == ["1.00", "1.00", "2.00"] * 2 and column["tokens/s"][0] == "1,066"
    assert next(tmp_path.glob("*-encode-tiny-cpu-fp32.png")).stat().st_size > 5_000
    encode.main(shlex.split(f"{typed} --growth --tokens 256"))
    page = next(tmp_path.glob("*-encode_growth-tiny-cpu-fp32.md")).read_text()
    # of each token and layer: 8,192 others in two products of 16 features, beside its weights
    share = 4 * 16 * 8192 / (4 * 16 * 8192 + 2 * (4 * 256 + 3 * 512))
    assert re.search(rf"^\| length 8192 \| ours_tokens \| 1\.00 .* \| {share:.0%} \|$", page, re.M)
    assert re.search(r"^\| length 128 \| native_sorted \| 2\.00 .* \| 2\.00 \| 128 \| ", page, re.M)
    assert "| length 8192 | native_sorted" not in page  # beyond its trained length
    assert len(list(tmp_path.glob("*-encode_growth-tiny-cpu-fp32.*"))) == 3
    perturbation = 1e-3
    with pytest.raises(SystemExit, match="error: tiny: queries, ours_encode: not the same result; see the table above"):
        encode.main(shlex.split(f"{typed} {sides} --workloads queries"))
    assert "**not equal**" in capsys.readouterr().out


def test_a_side_that_does_not_run_here_is_refused_by_name(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="error: --sides: native_flash needs "):
        encode.main(["--sides", "ours_tokens", "native_flash"])
    sides = encode.choose_sides(None, "cpu", "fp32", growth=False)
    assert [side for side in sides if side not in ("ours_openvino", "onnx", "openvino")] == [
        "ours_tokens", "ours_encode", "native_default", "native_sorted",
    ]  # fmt: skip
    assert "left out: native_flash" in capsys.readouterr().out
    assert encode.choose_sides(None, "cpu", "fp32", growth=True) == ["ours_tokens", "native_sorted"]


def test_processes_of_a_growth_run_hold_a_sweep_and_native_only_trained_lengths(job: Job) -> None:
    points = [Workload(name, "", ("a",), (length,)) for name, length in (("length 9", 9), ("length 99", 99))]
    points.append(Workload("batch 1", "", ("a",), (8,)))
    job = replace(job, workloads=tuple(points), trained_length=50)
    divided = encode.divide(job, ["ours_tokens", "native_sorted"], growth=True, together=False)
    assert {name: [each.name for each in part.workloads] for name, (part, _) in divided.items()} == {
        "length, ours_tokens": ["length 9", "length 99"],
        "length, native_sorted": ["length 9"],
        "batch, ours_tokens": ["batch 1"],
        "batch, native_sorted": ["batch 1"],
    }
    divided = encode.divide(job, ["native_sorted"], growth=False, together=False)
    assert [len(part.workloads) for part, _ in divided.values()] == [1, 1, 1]
    divided = encode.divide(job, ["ours_tokens", "native_sorted"], growth=False, together=True)
    assert [len(part.workloads) for part, _ in divided.values()] == [3, 3]
