import json
import sys

import pytest
import torch

from evaluation.harness import encoder as encoder_module
from evaluation.harness.bm25 import Bm25Search
from evaluation.harness.encoder import load_encoder
from evaluation.harness.runner import run_tasks
from evaluation.retrieval import RetrievalSet, evaluate_bm25
from evaluation.tasks.local import read_local_tasks
from tests.checkpoints import save_nomic
from textfiles.locks import try_lock
from textfiles.writing import write_jsonl


def test_finished_tasks_are_kept_with_their_protocol(nomic, task_file, tmp_path, encoded):
    out = tmp_path / "out"
    first = run_tasks(load_encoder(str(nomic), device="cpu"), read_local_tasks(task_file), out)
    assert first.scores.keys() == {"toy_search", "toy_sts"} and not first.failures
    assert {text.split(":")[0] for call in encoded for text in call} == {
        "search_query", "search_document", "classification",
    }  # fmt: skip
    done = len(encoded)
    again = run_tasks(load_encoder(str(nomic), device="cpu"), read_local_tasks(task_file), out)
    for name, (score, metric) in first.scores.items():
        assert again.scores[name] == (pytest.approx(score, abs=1e-4), metric)  # mteb writes six digits
    assert len(encoded) == done
    folder = next((out / "results" / "local__run-final").iterdir())
    assert json.loads((folder / "protocol.json").read_text())["rules"] == "paper"
    assert {path.name for path in folder.glob("toy*")} == {"toy_search.json", "toy_sts.json"}
    assert not list((out / ".work").rglob("*.npy"))


def test_models_in_directories_of_one_name_do_not_share_results(nomic, task_file, tmp_path, encoded):
    other = save_nomic(tmp_path / "elsewhere" / "run" / "final", seed=1)
    outcomes = []
    for checkpoint in (nomic, other):
        before = len(encoded)
        model = load_encoder(str(checkpoint), device="cpu")
        assert model.mteb_model_meta.name == "local/run-final"
        outcomes.append(run_tasks(model, read_local_tasks(task_file), tmp_path / "out").scores)
        assert len(encoded) > before, "the second model was handed the results of the first"
    assert outcomes[0]["toy_sts"] != outcomes[1]["toy_sts"]


def test_results_on_other_data_are_run_again(nomic, task_file, tmp_path):
    def sts():
        tasks = [task for task in read_local_tasks(task_file) if task.metadata.name == "toy_sts"]
        return run_tasks(load_encoder(str(nomic), device="cpu"), tasks, tmp_path / "out").scores["toy_sts"][0]

    before = sts()
    rows = [json.loads(line) for line in (task_file.parent / "sts.jsonl").read_text().splitlines()]
    write_jsonl([{**row, "score": 5 - row["score"]} for row in rows], task_file.parent / "sts.jsonl")
    assert sts() == pytest.approx(-before, abs=1e-4) and abs(before) > 1


def test_an_interrupted_task_goes_on_with_the_embeddings_it_had(nomic, task_file, tmp_path, encoded, monkeypatch):
    tasks = [task for task in read_local_tasks(task_file) if task.metadata.name == "toy_search"]
    expected = run_tasks(load_encoder(str(nomic), device="cpu"), tasks, tmp_path / "whole").scores
    encoded.clear()
    watched = encoder_module.encode_by_tokens

    def interrupted(embedder, texts, **options):
        if options["prompt"].startswith("search_document"):
            raise KeyboardInterrupt
        return watched(embedder, texts, **options)

    monkeypatch.setattr(encoder_module, "encode_by_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(load_encoder(str(nomic), device="cpu"), tasks, tmp_path / "out")
    monkeypatch.setattr(encoder_module, "encode_by_tokens", watched)
    assert len(encoded) == 1 and len(encoded[0]) == 12
    found = run_tasks(load_encoder(str(nomic), device="cpu"), tasks, tmp_path / "out").scores
    assert [len(call) for call in encoded] == [12, 30], "the queries are not embedded again"
    assert found == expected


def test_a_task_that_fails_or_is_claimed_leaves_the_others_alone(nomic, task_file, tmp_path):
    out = tmp_path / "out"
    tasks = read_local_tasks(task_file)
    with open(task_file.parent / "sts.jsonl", "a") as file:
        file.write('{"sentence1": "no more\n')
    model = load_encoder(str(nomic), device="cpu")
    outcome = run_tasks(model, tasks, out)
    assert list(outcome.scores) == ["toy_search"]
    assert "sts.jsonl, line 21: not valid JSON" in outcome.failures["toy_sts"]

    lock = out / ".work" / "local__run-final" / model.mteb_model_meta.revision / "toy_search.lock"
    with try_lock(lock):
        outcome = run_tasks(model, tasks[:1], out)
    assert outcome.elsewhere == ["toy_search"] and not outcome.scores

    result = next((out / "results").rglob("toy_search.json"))
    result.write_text(result.read_text()[:100])
    outcome = run_tasks(model, tasks[:1], out)
    assert str(result) in outcome.failures["toy_search"] and "Remove it" in outcome.failures["toy_search"]
    result.unlink()
    assert list(run_tasks(model, tasks[:1], out).scores) == ["toy_search"]


def test_a_model_that_computes_nan_gets_no_result(nomic, task_file, tmp_path):
    """Ranked by NaN, documents would have a score that looks like one."""
    model = load_encoder(str(nomic), device="cpu")
    with torch.no_grad():
        next(model.model.parameters()).fill_(torch.nan)
    outcome = run_tasks(model, read_local_tasks(task_file), tmp_path / "out")
    assert not outcome.scores and outcome.failures.keys() == {"toy_search", "toy_sts"}
    assert all("are not finite" in message for message in outcome.failures.values())
    assert not list((tmp_path / "out").rglob("toy*.json")) and not list((tmp_path / "out").rglob("*.npy"))


def test_kept_embeddings_that_are_damaged_are_named(nomic, task_file, tmp_path, monkeypatch):
    tasks = [task for task in read_local_tasks(task_file) if task.metadata.name == "toy_sts"]
    model = load_encoder(str(nomic), device="cpu")
    with monkeypatch.context() as patched:
        patched.setattr(encoder_module.ProtocolEncoder, "similarity_pairwise", lambda *_: sys.exit("stopped"))
        with pytest.raises(SystemExit):
            run_tasks(model, tasks, tmp_path / "out")
    kept = list((tmp_path / "out").rglob("*.npy"))
    for content in (b"", kept[0].read_bytes()[:200]):
        for file in kept:
            file.write_bytes(content)
        message = run_tasks(model, tasks, tmp_path / "out").failures["toy_sts"]
        assert any(str(file) in message for file in kept) and "Remove it to embed its texts again" in message


def test_bm25_scores_as_in_the_other_harness_and_refuses_what_it_cannot_do(task_file, tmp_path):
    tasks = read_local_tasks(task_file)
    found = run_tasks(Bm25Search(), tasks[:1], tmp_path / "out").scores["toy_search"]
    expected = evaluate_bm25(RetrievalSet.from_beir(task_file.parent / "beir"))["ndcg@10"]
    assert found == (pytest.approx(expected, abs=1e-3), "ndcg_at_10")
    assert 0 < expected < 100
    with pytest.raises(
        ValueError, match=r"BM25 is for retrieval tasks, not toy_sts; name .* in the file of --local_tasks"
    ):
        run_tasks(Bm25Search(), tasks, tmp_path / "out")
