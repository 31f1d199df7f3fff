import json
from concurrent.futures import ThreadPoolExecutor

import mteb
import pytest
from mteb.models import ModelMeta
from mteb.results import TaskResult

from evaluation.harness import result_cache
from evaluation.harness.encoder import Protocol
from evaluation.harness.result_cache import AtomicResultCache

META = ModelMeta.create_empty(overwrites={"name": "local/model", "revision": "0123-seq512"})
PLACE = "results/local__model/0123-seq512"


def result(score, split="test"):
    scores = {split: {"default": {"main_score": score, "ndcg_at_10": score}}}
    return TaskResult.from_task_results(mteb.get_task("SciFact"), scores, evaluation_time=1.0)


def test_the_tree_is_the_one_that_mteb_writes_and_reads(tmp_path):
    ours, theirs = AtomicResultCache(tmp_path / "ours"), mteb.ResultCache(tmp_path / "theirs")
    for written in (result(0.25, "train"), result(0.5, "test")):
        for cache in (ours, theirs):
            cache.save_to_cache(written, META, encode_kwargs={"batch_size": 8})

    def tree(root):
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    ours, theirs = tree(tmp_path / "ours"), tree(tmp_path / "theirs")
    assert ours - {".work/results.lock"} == theirs >= {f"{PLACE}/SciFact.json", f"{PLACE}/model_meta.json"}
    for name in ("SciFact.json", "model_meta.json", "run_settings.jsonl"):
        assert (tmp_path / "ours" / PLACE / name).read_text() == (tmp_path / "theirs" / PLACE / name).read_text()
    settings = json.loads((tmp_path / "ours" / PLACE / "run_settings.jsonl").read_text())
    assert settings["splits"] == ["test", "train"], "what the first run wrote is kept"
    assert mteb.ResultCache(tmp_path / "ours").load_task_result("SciFact", META).get_score() == 0.5


def test_processes_that_write_at_once_lose_nothing_of_each_other(tmp_path):
    names = ["SciFact", "NFCorpus", "ArguAna", "SCIDOCS", "FiQA2018", "TRECCOVID", "NQ", "FEVER"]
    scores = {"test": {"default": {"main_score": 0.5, "ndcg_at_10": 0.5}}}
    results = [TaskResult.from_task_results(mteb.get_task(name), scores, evaluation_time=1.0) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:  # a lock of the system keeps threads apart as it does processes
        list(pool.map(lambda one: AtomicResultCache(tmp_path).save_to_cache(one, META), results))
    settings = [json.loads(line) for line in (tmp_path / PLACE / "run_settings.jsonl").read_text().splitlines()]
    assert sorted(line["task"] for line in settings) == sorted(names)


def test_a_result_appears_after_the_files_beside_it(tmp_path, monkeypatch):
    """So that a kill between two of them leaves a task that is run again, and not one whose settings are missing."""
    written, original = [], result_cache.atomic_file

    def watched(path):
        written.append(path.name)
        return original(path)

    monkeypatch.setattr(result_cache, "atomic_file", watched)
    AtomicResultCache(tmp_path).save_to_cache(result(0.5), META)
    assert sorted(written) == ["SciFact.json", "model_meta.json", "run_settings.jsonl"]
    assert written[-1] == "SciFact.json"


def test_an_interrupted_write_leaves_the_earlier_result(tmp_path, monkeypatch):
    cache = AtomicResultCache(tmp_path)
    cache.save_to_cache(result(0.5), META)

    def cut_off(self, path):
        path.write_text('{"task_name": "SciF')
        raise KeyboardInterrupt

    monkeypatch.setattr(TaskResult, "to_disk", cut_off)
    with pytest.raises(KeyboardInterrupt):
        cache.save_to_cache(result(0.75), META)
    assert cache.load_task_result("SciFact", META).get_score() == 0.5
    assert sorted(path.name for path in (tmp_path / PLACE).iterdir()) == [
        "SciFact.json", "model_meta.json", "run_settings.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ['{"task_name": "SciF', '{"task_name": "SciFact"}', "", "[" * 100_000])
def test_a_file_that_is_cut_off_is_named_with_the_remedy(tmp_path, text):
    (tmp_path / PLACE).mkdir(parents=True)
    (tmp_path / PLACE / "SciFact.json").write_text(text)
    with pytest.raises(ValueError, match=r"SciFact\.json cannot be used .* Remove it to run the task again"):
        AtomicResultCache(tmp_path).load_task_result("SciFact", META)
    assert AtomicResultCache(tmp_path).load_task_result("NFCorpus", META) is None


def test_a_score_that_is_not_a_number_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="the main score of the split 'test' is nan"):
        AtomicResultCache(tmp_path).save_to_cache(result(float("nan")), META)
    assert not list(tmp_path.rglob("*.json"))
    mteb.ResultCache(tmp_path).save_to_cache(result(float("nan")), META)
    with pytest.raises(ValueError, match=r"SciFact\.json cannot be used .*nan.* Remove it"):
        AtomicResultCache(tmp_path).load_task_result("SciFact", META)


def test_the_protocol_stands_beside_the_results(tmp_path):
    protocol = Protocol(
        name="local/model", checkpoint="run/final", weights="0123", max_seq_length=512, requested_length=512,
        rules="paper", prompts={"query": "search_query: "},
    )  # fmt: skip
    AtomicResultCache(tmp_path).write_protocol(META, protocol)
    written = json.loads((tmp_path / PLACE / "protocol.json").read_text())
    assert Protocol(**written) == protocol
