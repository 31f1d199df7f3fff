import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from benchmarks import onnx_int8
from benchmarks.onnx_int8 import Job, make_workloads, read_pairs, summarize
from tests.checkpoints import save_nomic


def test_all_sides_are_measured_on_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_int8, "in_fresh_process", lambda function, *arguments: function(*arguments))
    rows = [f"a text of number {n}\t{'long ' * 3 * n}text {n}\t{n % 5}" for n in range(1, 8)]
    sts = tmp_path / "dev.tsv"
    sts.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    model, output = save_nomic(tmp_path / "model"), tmp_path / "results"
    options = ["--joined", "1", "2", "--batch_size", "4", "--threads", "1", "--repeats", "2"]
    onnx_int8.main([str(model), "--name", "tiny", "--sts", str(sts), "--output", str(output), *options])
    result = json.loads(next(output.glob("*.json")).read_text())["result"]
    exact, int8 = result["quality"]["onnx"], result["quality"]["int8"]
    assert exact["largest_difference"] < 1e-5 and exact["neighbours_change"] < 1e-5
    assert exact["spearman"] == pytest.approx(result["quality"]["torch"]["spearman"])
    assert 1e-4 < int8["largest_difference"] < 0.2 and 0.98 < int8["least_cosine"] < 0.99999
    assert result["bytes"]["int8"] < result["bytes"]["torch"] and result["rounds"] == 2
    assert {joined: speed["texts"] for joined, speed in result["speed"].items()} == {"1": 14, "2": 7}
    assert sorted(path.name for path in model.iterdir() if path.name == "onnx") == []


def test_speeds_are_medians_of_the_rounds() -> None:
    job = Job(Path("model"), {}, {1: ["a", "b"]}, 4, 1)
    seconds = {"torch": [{1: (4.0, 2.0)}, {1: (4.0, 2.0)}, {1: (9.0, 9.0)}], "int8": [{1: (1.0, 1.0)}] * 3}
    speed = summarize(job, {1: 20}, seconds)["1"]
    assert speed["tokens_a_text"] == 10 and speed["int8"]["texts_a_second"]["median"] == 2
    assert speed["int8"]["tokens_a_second"]["median"] == 20 and speed["int8"]["times_torch"] == 4
    assert speed["int8"]["times_torch_by_processor"] == 2
    assert speed["torch"]["processor_ms_a_text"] == {"median": 1000, "min": 1000, "max": 4500}


def test_texts_are_joined_sentences() -> None:
    assert make_workloads(list("abcde"), [1, 2], 2) == {1: ["a", "b"], 2: ["a b", "c d"]}
    assert make_workloads(list("abcde"), [3], 9) == {3: ["a b c", "d e"]}


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    file = tmp_path / "dev.tsv"
    file.write_text("sentence1\tsentence2\tscore\na\tb\t1.5\na\tb\thigh\n")
    with pytest.raises(ValueError, match="dev.tsv, line 3.*'score'.*'high'"):
        read_pairs(file)
