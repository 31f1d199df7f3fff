"""Trees of results made with mteb's own classes, and GLUE directories, for tests of reading and reporting."""

import json

from mteb.cache import ResultCache
from mteb.models import ModelMeta
from mteb.results import TaskResult

from evaluation.report.task_scores import known_task

WEIGHTS = "0a1b2c3d4e5f6071"


def save_splits(root, task, splits, *, name="org/model", revision="rev", dataset_revision=None, mteb_version="2.26.24"):
    """Write {split: {subset: score as a fraction}} of a task, as mteb does; returns the file."""
    known = known_task(task)
    result = TaskResult(
        dataset_revision=dataset_revision or (known.metadata.revision if known else "local-0123456789ab"),
        task_name=task,
        mteb_version=mteb_version,
        scores={
            split: [
                {"main_score": score, "hf_subset": subset, "languages": ["eng-Latn"]} for subset, score in of.items()
            ]
            for split, of in splits.items()
        },
        evaluation_time=1.0,
    )
    meta = ModelMeta.create_empty(overwrites={"name": name, "revision": revision})
    cache = ResultCache(root)
    cache.save_to_cache(result, meta)
    return cache.get_task_result_path(task, meta)


def save(root, task, percent, *, length=512, weights=WEIGHTS, name="local/ours", digest="d1", protocol=None, **options):
    """Write a score in percent on the split that counts, and the protocol beside it; returns the file."""
    known = known_task(task)
    split, subset = (known.eval_splits[0], known.hf_subsets[0]) if known else ("test", "default")
    revision = f"{weights}-{digest}-seq{length}"
    file = save_splits(root, task, {split: {subset: percent / 100}}, name=name, revision=revision, **options)
    said = {
        "name": name,
        "weights": weights,
        "max_seq_length": length,
        "requested_length": length,
        "rules": "paper",
        "prompts": {"query": "search_query: ", "document": "search_document: "},
        "rotary_scaling_factor": 2.0 if length > 2048 else None,
        "dtype": "float32",
        "versions": {"mteb": "2.26.24", "torch": "2.13.0"},
        **(protocol or {}),
    }
    file.with_name("protocol.json").write_text(json.dumps(said))
    return file


def save_bm25(root, task, percent):
    known = known_task(task)
    split = known.eval_splits[0] if known else "test"
    return save_splits(root, task, {split: {"default": percent / 100}}, name="baseline/bm25", revision="lucene")


def save_glue(root, label, scores, *, weights=WEIGHTS, start="encoder", seeds=(42,)):
    """Write runs of tasks: task -> (metric, score as a fraction)."""
    runs = root / label / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    (root / label / "settings.json").write_text(json.dumps({"benchmark": "GLUE"}))
    for task, (metric, score) in scores.items():
        for seed in seeds:
            run = {
                "model": label, "weights": weights, "task": task, "batch_size": 16, "learning_rate": 3e-5, "seed": seed,
                "epochs": 10, "start": start, "scores": {metric: score}, "main_metric": metric, "main_score": score,
                "train_rows": 9, "dev_rows": 9, "train_loss": 0.5, "steps": 9, "seconds": 1.0, "device": "cpu",
            }  # fmt: skip
            (runs / f"{task}-{seed}.json").write_text(json.dumps(run))
    return root / label
