"""What a run says of itself: resumed as uninterrupted, stage after stage, and without a path of the machine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants

from nomic_bert import NomicBertForMaskedLM, NomicBertModel
from nomic_bert.training_record import STAGE_BEFORE, UNRECORDED, read_training, write_training
from recipes import stage1, stage2
from tests.trainers.toys import StopAt, blocks, contrastive_trainer, encoder, mlm, mlm_trainer, pairs, tokenizer
from trainers.record import hub_details, starting_point

SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}


def make(stage, output_dir, **changes):
    settings = {"num_train_epochs": 2, **SAVING, **changes}
    if stage == "mlm":
        return mlm_trainer(output_dir, warmup_steps=0.5, lr_scheduler_type="cosine", **settings)
    return contrastive_trainer(output_dir, matryoshka_dims=[16, 8], source_weights={"a": 2.0}, **settings)


@pytest.mark.parametrize("stage", ["mlm", "contrastive"])
def test_resumed_says_what_uninterrupted_says(tmp_path, stage):
    whole = make(stage, tmp_path / "whole")
    whole.train()
    killed = make(stage, tmp_path / "killed")
    killed.add_callback(StopAt(3))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert read_training(tmp_path / "killed" / "checkpoint-2")[0]["steps"] == 2
    resumed = make(stage, tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    (expected,) = whole.training_record()
    (found,) = resumed.training_record()
    assert found["tokens"] > 0 and found["evaluation"]["metrics"]["loss"] > 0
    assert found.pop("cost")["seconds"] > 0 and expected.pop("cost")["seconds"] > 0
    assert found == expected
    json.dumps(found, allow_nan=False)


def test_the_facts_of_a_contrastive_stage(tmp_path):
    trainer = make("contrastive", tmp_path)
    trainer.source_details = {"b": hub_details("owner/pairs", split="train", revision="v1")}
    trainer.train()
    (stage,) = trainer.training_record()
    assert stage["stage"] == "contrastive with hard negatives"
    assert stage["start"] is None  # built from a configuration
    a, b = stage["sources"]
    assert (a["name"], a["rows"], a["weight"], a["batches_per_epoch"]) == ("a", 19, 2.0, 4)
    assert (b["name"], b["rows"], b["weight"], b["batches_per_epoch"]) == ("b", 9, 1, 1)
    assert (b["dataset"], b["split"], b["revision"]) == ("owner/pairs", "train", "v1") and "dataset" not in a
    assert (a["query_prefix"], a["document_prefix"], a["hard_negatives"]) == ("word0 ", "word1 word1 ", 2)
    said = stage["hyperparameters"]
    assert said["temperature"] == pytest.approx(0.02) and said["matryoshka_dims"] == [16, 8]
    assert (said["global_batch_size"], said["learning_rate"], said["seed"]) == (8, 1e-2, 11)
    assert (stage["steps"], stage["scheduled_steps"], stage["epochs"]) == (10, 10, 2.0)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert stage["training_loss"] == {"step": 10, "value": losses[-1]}
    assert stage["processes"] == 1 and sum(stage["devices"].values()) == 1
    assert stage["versions"]["torch"] == torch.__version__


def test_the_facts_of_masked_language_modelling(tmp_path):
    trainer = make("mlm", tmp_path)
    trainer.train()
    (stage,) = trainer.training_record()
    (source,) = stage["sources"]
    assert (stage["stage"], source["rows"], source["block_size"]) == ("masked language modelling", 26, 24)
    assert stage["tokens"] == 6 * 8 * 24  # steps x blocks x their length
    said = stage["hyperparameters"]
    assert (said["mlm_probability"], said["schedule"], said["warmup_steps"]) == (0.3, "cosine", 3)
    assert said["adam_beta2"] == 0.999 and said["precision"] == "float32"


def test_an_optimizer_of_the_callers_is_said_with_its_own_numbers(tmp_path):
    trainer = mlm_trainer(tmp_path, max_steps=1)
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.25, weight_decay=0.125)
    trainer = type(trainer)(
        trainer.model, trainer.args, blocks(26), processing_class=tokenizer(), optimizers=(optimizer, None)
    )
    trainer.train()
    said = trainer.training_stage()["hyperparameters"]
    assert (said["optimizer"], said["learning_rate"], said["weight_decay"]) == ("SGD", 0.25, 0.125)
    assert "adam_beta1" not in said


def test_saving_from_python_leaves_the_record_and_a_start_is_gone_on_with(tmp_path):
    first = mlm_trainer(tmp_path / "first", max_steps=2)
    first.save_model()
    assert not (tmp_path / "first" / "training.json").exists()  # nothing trained yet
    first.train()
    first.save_model()
    start = NomicBertModel.from_pretrained(tmp_path / "first")
    second = contrastive_trainer(tmp_path / "second", model=start, max_steps=1, num_hard_negatives=0)
    second.train()
    second.train()  # from its own weights
    second.save_model()
    stages = read_training(tmp_path / "second")
    assert [stage["stage"] for stage in stages] == ["masked language modelling", "contrastive", "contrastive"]
    assert [stage["start"] for stage in stages] == [None, STAGE_BEFORE, STAGE_BEFORE]
    assert stages[0] == read_training(tmp_path / "first")[0]
    assert str(tmp_path) not in (tmp_path / "second" / "training.json").read_text()
    # weights that replace others do not keep their record
    encoder().save_pretrained(tmp_path / "bare")
    contrastive_trainer(tmp_path, model=NomicBertModel.from_pretrained(tmp_path / "bare")).save_model(
        str(tmp_path / "second")
    )
    assert not (tmp_path / "second" / "training.json").exists()


def test_what_is_known_of_a_local_start(tmp_path, monkeypatch):
    load = NomicBertForMaskedLM.from_pretrained
    assert starting_point(mlm()) == ([], {"start": None})
    mlm().save_pretrained(tmp_path / "local")
    assert starting_point(load(tmp_path / "local")) == ([], {"start": UNRECORDED})
    write_training(tmp_path / "local", [])
    assert starting_point(load(tmp_path / "local")) == ([], {"start": None})
    # a relative path that looks like a hub name, and is not there when the trainer is made
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "local", tmp_path / "runs" / "one")
    moved = load("runs/one")
    monkeypatch.chdir("/")
    assert starting_point(moved) == ([], {"start": UNRECORDED})
    (tmp_path / "local" / "training.json").write_text("{")
    with pytest.raises(ValueError, match="training.json"):
        starting_point(load(tmp_path / "local"))


def test_a_start_on_the_hub_is_named_with_its_commit():
    commits = ["0" * 40, "1" * 40]
    repository = Path(constants.HF_HUB_CACHE, "models--owner--started-from")
    (repository / "refs").mkdir(parents=True)

    def load(commit):
        (repository / "refs" / "main").write_text(commit)
        mlm().save_pretrained(repository / "snapshots" / commit)
        return starting_point(NomicBertForMaskedLM.from_pretrained("owner/started-from"))

    assert load(commits[0]) == ([], {"start": "owner/started-from", "start_revision": commits[0]})
    assert load(commits[1]) == ([], {"start": "owner/started-from"})  # which of two was loaded is not known


def test_weights_of_the_best_step_are_said_to_be_of_that_step(tmp_path):
    trainer = make("mlm", tmp_path, load_best_model_at_end=True, metric_for_best_model="loss", learning_rate=3.0)
    trainer.train()
    best = trainer.state.best_global_step
    assert best < trainer.state.global_step == 6
    stage = trainer.training_stage()
    assert (stage["steps"], stage["tokens"], stage["evaluation"]["step"]) == (best, best * 8 * 24, best)
    assert stage["evaluation"]["metrics"]["loss"] == pytest.approx(trainer.state.best_metric)


def test_details_of_unknown_sources_are_refused_before_step_1(tmp_path):
    trainer = contrastive_trainer(tmp_path)
    trainer.source_details = {"c": {"dataset": "owner/name"}}
    with pytest.raises(ValueError, match=r"unknown sources \['c'\]; there are \['a', 'b'\]"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_stages_leave_the_whole_record_in_final(tmp_path, monkeypatch):
    """Packed blocks and local pairs: what they are, and no path."""
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    common = ["--use_cpu", "true", "--report_to", "none", "--max_steps", "1", "--save_strategy", "no"]
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_trained_positions")
    model = json.dumps({field: getattr(mlm().config, field) for field in fields})
    manifest = {"sources": [
        {"path": "owner/wiki", "name": "en", "split": "train", "is_local": False, "documents": 7},
        {"path": "secret/place", "name": None, "split": "train", "is_local": True, "documents": 3},
    ]}  # fmt: skip
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("recipes.steps.stage1.load_blocks", lambda path, tokenizer: blocks(26))
    first = stage1.main([
        "--train_data", str(tmp_path / "blocks"), "--tokenizer", str(tmp_path / "tokenizer"), "--model", model,
        "--output_dir", str(tmp_path / "one"), "--global_batch_size", "8", "--peak_tflops", "0.1", *common,
    ])  # fmt: skip
    Dataset.from_dict(pairs(9).to_dict()).to_json(tmp_path / "pairs.jsonl")
    final = stage2.main([
        "--train_file", str(tmp_path / "pairs.jsonl"), "--model_name_or_path", str(first),
        "--output_dir", str(tmp_path / "two"), "--global_batch_size", "4", *common,
    ])  # fmt: skip
    blocks_stage, pairs_stage = read_training(final)
    assert blocks_stage["start"] is None and pairs_stage["start"] == STAGE_BEFORE
    assert blocks_stage["sources"][0]["parts"] == [
        {"dataset": "owner/wiki", "subset": "en", "split": "train", "documents": 7},
        {"documents": 3},
    ]
    assert pairs_stage["sources"][0]["name"] == "train_file"
    assert pairs_stage["sources"][0]["query_prefix"] == "search_query: "
    written = (final / "training.json").read_text()
    assert str(tmp_path) not in written and "secret" not in written
