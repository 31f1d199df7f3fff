"""The quickstart over a slice of the real text, killed in the middle of stage 2 and run again to its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evaluation.ranking import WORDS_WEIGHT
from nomic_bert.embedder import load_embedder
from nomic_bert.training_record import STAGE_BEFORE, read_training
from recipes.quickstart_text.index import search
from recipes.steps import quickstart
from recipes.steps.gpu_train import GpuTraining
from recipes.steps.quickstart import Quickstart
from tests.checkpoints import save_nomic
from textfiles.rows import rows_of


@pytest.fixture(scope="module")
def smoke(repository, tmp_path_factory):
    """(output directory, what the second run printed)."""
    directory = tmp_path_factory.mktemp("smoke") / "outputs"
    command = [sys.executable, str(repository / "recipes" / "quickstart.py"), "--smoke", "--output_dir", str(directory)]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not list(directory.glob("stage2/checkpoint-*/trainer_state.json")):
            assert first.poll() is None, "the first run ended before stage 2 saved"
            assert time.monotonic() < deadline, "stage 2 saved nothing in ten minutes"
            time.sleep(0.1)
    finally:
        os.killpg(first.pid, signal.SIGKILL)  # the stage is a process of its own
        first.wait()
    assert not (directory / "stage2" / "final").exists()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    return directory, second.stdout


@pytest.mark.slow
def test_training_beats_no_training_on_seen_and_unseen_packages(smoke):
    directory, _ = smoke
    scores = json.loads((directory / "scores.json").read_text())
    stages = ["stage 1", "stage 2", "stage 3"]
    assert list(scores) == ["BM25", "untrained", "word vectors", *stages, "stage 3 and BM25"]
    for part in ("seen", "unseen"):
        assert scores["stage 3"][part]["ndcg@10"] > scores["untrained"][part]["ndcg@10"] + 3
        assert scores["word vectors"][part]["ndcg@10"] > scores["untrained"][part]["ndcg@10"]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was(smoke):
    directory, printed = smoke
    assert "Stage 1: masked language modelling: done before" in printed
    assert "Resuming from" in printed
    steps = [
        entry["step"] for entry in json.loads((directory / "stage2/trainer_state.json").read_text())["log_history"]
    ]
    assert steps == sorted(steps) and steps[-1] == 60


@pytest.mark.slow
def test_it_leaves_a_model_plots_and_a_report(smoke):
    directory, printed = smoke
    for name in ("loss.png", "map.png", "scores.png", "report.md", "model/model.safetensors", "model/modules.json"):
        assert (directory / name).stat().st_size > 100, name
    assert (directory / "report.md").read_text().splitlines()[0] in printed
    stages = read_training(directory / "model")
    assert [stage["start"] for stage in stages] == [None, STAGE_BEFORE, STAGE_BEFORE]
    assert stages[1]["steps"] == 60  # all of them, though the run was killed
    assert str(directory) not in (directory / "model" / "training.json").read_text()


@pytest.mark.slow
def test_it_draws_a_map_of_the_indexed_functions(smoke):
    pytest.importorskip("openTSNE", reason="needs the extra: pip install -e '.[map]'")
    directory, printed = smoke
    facts = json.loads((directory / "map" / "map.json").read_text())
    functions = json.loads((directory / "model" / "search_index" / "functions.json").read_text())
    assert facts["points"] == len(functions) and facts["columns"] == ["package", "function"]
    assert f"open {directory / 'map' / 'index.html'} in a browser" in printed


@pytest.mark.slow
def test_held_out_text_is_not_trained_on(smoke):
    directory, _ = smoke
    lines = lambda path: list(rows_of(path))  # noqa: E731
    held_out = [row for part in ("seen", "unseen") for row in lines(directory / f"corpus/held_out_{part}.jsonl.gz")]
    trained = [row for file in (directory / "corpus").glob("stage?/*") for row in lines(file)]
    documents = {row["text"] for row in lines(directory / "corpus/documents.jsonl.gz")}
    assert held_out and trained and documents
    for key in ("query", "document"):
        assert not {row[key] for row in held_out} & {row[key] for row in trained}
    assert not {f"{row['query']}\n\n{row['document']}" for row in held_out} & documents
    packages = {row["package"] for row in trained}
    assert "networkx" not in packages
    assert "fsspec" in packages and "fsspec" not in {row["package"] for row in held_out}


@pytest.mark.slow
def test_search_answers_as_the_embedder_does(smoke):
    directory, _ = smoke
    found = search(directory / "model", "shortest path between two nodes", top=3, by="dense")
    functions = json.loads((directory / "model/search_index/functions.json").read_text())
    query = load_embedder(directory / "model").encode_query("shortest path between two nodes")
    scores = np.load(directory / "model/search_index/embeddings.npy") @ query
    assert [name for _, name, _ in found] == [functions[i][0] for i in np.argsort(-scores)[:3]]
    assert found[0][0] == pytest.approx(scores.max(), abs=1e-5)
    dense, words, both = (
        {(name, summary): score for score, name, summary in search(directory / "model", "shortest path", 10**6, by)}
        for by in ("dense", "bm25", "both")
    )
    assert both == pytest.approx({name: score + WORDS_WEIGHT * words.get(name, 0) for name, score in dense.items()})
    assert list(both.values()) == sorted(both.values(), reverse=True)
    assert 0 < len(words) < len(both)


def test_outputs_of_other_settings_are_refused(tmp_path):
    Quickstart(tmp_path, smoke=True)._begin()
    (tmp_path / "corpus").touch()
    Quickstart(tmp_path, smoke=True)._begin()
    for other, change in (
        (Quickstart(tmp_path, smoke=False), "more_packages"),
        (Quickstart(tmp_path, smoke=True, seed=1), "--seed was 0, is 1"),
        (GpuTraining(tmp_path, smoke=True), "configs"),
    ):
        with pytest.raises(ValueError, match=f"other settings.*{change}"):
            other._begin()


@pytest.mark.parametrize("part", ["seen", "unseen"])
def test_a_run_whose_contrastive_stages_add_nothing_fails(tmp_path, part):
    run = Quickstart(tmp_path, smoke=False)
    scores = {
        "untrained": dict.fromkeys(("seen", "unseen"), {"ndcg@10": 5.0}),
        "stage 1": dict.fromkeys(("seen", "unseen"), {"ndcg@10": 45.0}),
        "stage 3": dict.fromkeys(("seen", "unseen"), {"ndcg@10": 65.0}),
    }
    run._require_gain(scores)
    scores["stage 3"] = scores["stage 3"] | {part: {"ndcg@10": 64.9}}
    with pytest.raises(SystemExit, match=f"stages 2 and 3 gained 19.9 points of nDCG@10 on {part} packages"):
        run._require_gain(scores)


def test_a_directory_in_use_names_its_process(tmp_path):
    program = "import sys\nfrom pathlib import Path\nfrom textfiles.begun import use_alone\n"
    program += "use_alone(Path(sys.argv[1]))\nprint(flush=True)\nsys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()
    with pytest.raises(ValueError, match=f"in use by process {other.pid} on {socket.gethostname()}"):
        Quickstart(tmp_path, smoke=True)._begin()
    other.communicate()


def test_search_names_what_is_wrong(tmp_path, repository):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    for argv, said in [
        ([str(tmp_path), "query"], "no config.json"),
        ([str(tmp_path / "model"), " "], "the query is blank"),
        ([str(tmp_path / "model"), "query", "--top", "0"], "--top must be at least 1"),
    ]:
        command = [sys.executable, str(repository / "recipes" / "search.py"), *argv]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 2 and said in run.stderr


def test_the_model_is_exported_in_float32_where_an_embedder_opens_in_half(tmp_path, monkeypatch):
    training = Quickstart(tmp_path, smoke=True)
    training.models["stage 3"] = save_nomic(tmp_path / "stage3" / "final")
    monkeypatch.setattr("nomic_bert.embedder._half_of_gpu", lambda device: torch.bfloat16)

    def read(readers, model, *_):
        return [([load_embedder(model, dtype=torch.float32).encode_query(quickstart.QUESTION)], None)]

    monkeypatch.setattr(quickstart, "read_embeddings", read)
    training._export()
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
