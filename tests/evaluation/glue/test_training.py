"""One run: the paper's settings reach the optimizer, and the last epoch is what counts."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, Trainer, TrainerState, set_seed

from evaluation.glue import training
from evaluation.glue.data import read_file
from evaluation.glue.protocol import Protocol, RunSettings
from evaluation.glue.tasks import GLUE
from tests.evaluation.glue.toys import TRAIN_ROWS
from textfiles.replacing import replaceable_directory
from textfiles.shards import write_receipt

PROTOCOL = Protocol(epochs=3)
RUN = RunSettings("cola", 6, 2e-3, 19)
STEPS = math.ceil(TRAIN_ROWS / 6)  # an epoch


class RecordingTrainer(Trainer):
    """Keeps what each step was made with; stops where it is told to, as a kill would."""

    stop_at_step: int | None = None
    stop_at_evaluation: int | None = None

    def __init__(self, **settings):
        super().__init__(**settings)
        self.rates, self.sizes, self.losses, self.evaluations = [], [], [], 0
        self.first_head = self.model.classifier.weight.detach().clone()
        type(self).last = self

    def training_step(self, model, inputs, *others):
        if len(self.losses) == self.stop_at_step:
            raise KeyboardInterrupt
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.sizes.append(len(inputs["labels"]))
        loss = super().training_step(model, inputs, *others)
        self.losses.append(loss.item())
        return loss

    def evaluate(self, *inputs, **settings):
        if isinstance(self.eval_dataset, dict) and self.evaluations == self.stop_at_evaluation:
            raise KeyboardInterrupt
        self.evaluations += 1
        return super().evaluate(*inputs, **settings)

    def _clip_grad_norm(self, *_):
        raise AssertionError("gradients are clipped")


@pytest.fixture
def tuned(place, monkeypatch):
    """Train `RUN` in a directory; the trainer and the outcome."""
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    splits = {
        split: training.encode_split(read_file(place / "data" / f"cola_{split}.tsv", GLUE["cola"]), tokenizer, 16)
        for split in ("train", "dev")
    }

    def train(directory="work", save_steps=1000, run=RUN, **stops):
        monkeypatch.setattr(training, "Trainer", type("Stopped", (RecordingTrainer,), stops))
        _, outcome = training.fine_tune(
            run, str(place / "model"), tokenizer, splits["train"], {"dev": splits["dev"]}, PROTOCOL,
            place / directory, save_steps=save_steps,
        )  # fmt: skip
        return training.Trainer.last, outcome

    return train


def test_the_papers_settings_reach_the_optimizer(tuned):
    trainer, outcome = tuned()
    total = PROTOCOL.epochs * STEPS
    warmup = math.ceil(0.06 * total)
    expected = [
        RUN.learning_rate * min(step / warmup, (total - step) / (total - warmup)) for step in range(total)
    ]  # of linear warmup and linear decay to 0
    assert trainer.rates == pytest.approx(expected)
    assert trainer.sizes == [*[6] * (STEPS - 1), TRAIN_ROWS - 6 * (STEPS - 1)] * PROTOCOL.epochs
    decayed, other = trainer.optimizer.param_groups
    assert isinstance(trainer.optimizer.optimizer, torch.optim.AdamW)
    assert (decayed["betas"], decayed["eps"], decayed["weight_decay"]) == ((0.9, 0.98), 1e-6, 1e-6)
    assert other["weight_decay"] == 0.0
    assert (trainer.args.seed, trainer.args.max_grad_norm) == (19, 0.0)
    assert outcome["steps"] == total and outcome["train_rows"] == TRAIN_ROWS


def test_defaults_are_the_papers_and_the_authors_codes():
    assert Protocol() == Protocol(10, 128, 1e-6, 0.06, 0.98, 1e-6, 0.0)


def test_history_has_every_epochs_losses(tuned):
    trainer, outcome = tuned(save_steps=4)
    means = [sum(trainer.losses[epoch * STEPS : (epoch + 1) * STEPS]) / STEPS for epoch in range(PROTOCOL.epochs)]
    assert [entry["train_loss"] for entry in outcome["history"]] == pytest.approx(means)
    assert [entry["epoch"] for entry in outcome["history"]] == [1, 2, 3]
    assert outcome["train_loss"] == outcome["history"][-1]["train_loss"]
    assert all(set(entry) == {"epoch", "train_loss", "dev_loss", "matthews"} for entry in outcome["history"])


def test_the_last_epoch_is_reported_and_not_the_best(tuned, monkeypatch):
    scores = iter([0.2, 0.9, 0.4])
    monkeypatch.setattr(training, "score_logits", lambda *_: {"matthews": next(scores)})
    _, outcome = tuned()
    assert [entry["matthews"] for entry in outcome["history"]] == [0.2, 0.9, 0.4]
    assert outcome["scores"] == {"matthews": 0.4}


def test_the_seed_decides_the_head_and_the_order(tuned):
    first, again, other = (tuned(f"{n}", run=replace(RUN, seed=seed))[0] for n, seed in enumerate((1, 1, 2)))
    assert torch.equal(first.first_head, again.first_head) and first.losses == again.losses
    assert not torch.equal(first.first_head, other.first_head)


# Epochs end at steps 6, 12 and 18. A save that is due there must not come before the evaluation, or that is lost.
STOPS = {"stop_at_step": (6, 10), "stop_at_evaluation": (0, 2)}


def test_stopped_anywhere_and_started_again_gives_the_same(tuned, place):
    _, expected = tuned("whole", save_steps=3)
    for stop, at in [(stop, at) for stop, places in STOPS.items() for at in places]:
        directory = f"{stop}-{at}"
        with pytest.raises(KeyboardInterrupt):
            tuned(directory, save_steps=3, **{stop: at})
        assert len(list((place / directory).glob("checkpoint-*"))) == 1
        trainer, outcome = tuned(directory, save_steps=3)
        assert len(trainer.losses) < PROTOCOL.epochs * STEPS, "it began anew"
        assert {**outcome, "seconds": 0} == {**expected, "seconds": 0}


def test_scores_stand_in_one_order_whether_a_run_was_interrupted_or_not(tmp_path):
    evaluation = {"eval_dev_loss": 0.5, "eval_dev_accuracy": 0.25, "step": 2}
    state = TrainerState(max_steps=2, num_train_epochs=1, log_history=[{"loss": 1.0, "step": 2}, evaluation])
    state.save_to_json(str(tmp_path / "state.json"))
    resumed = TrainerState.load_from_json(str(tmp_path / "state.json"))
    assert json.dumps(training._epoch(1, resumed)) == json.dumps(training._epoch(1, state))


def test_time_is_counted_over_interruptions():
    state = TrainerState(log_history=[{"seconds": 30.0}, {"seconds": 100.0}, {"loss": 0.5}])
    callback = training.EpochCallback(save_steps=1)
    callback.on_train_begin(None, state, None)
    callback.on_log(None, state, None)
    assert 100 <= state.log_history[-1]["seconds"] < 101


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    assert training.last_checkpoint(tmp_path) is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        if step < 11:
            write_receipt(tmp_path / f"checkpoint-{step}" / "files.json", (tmp_path / f"checkpoint-{step}").iterdir())
    assert training.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_what_makes_a_checkpoint_complete_comes_after_the_rest_is_on_the_disk_and_before_the_one_before_goes(
    tuned, place, monkeypatch
):
    events = []
    for name in ("sync_tree", "describe_directory", "sync_directory"):
        monkeypatch.setattr(training, name, lambda path, *_, name=name: events.append((name, Path(path).name)))
    monkeypatch.setattr(training.shutil, "rmtree", lambda path: events.append(("removed", path.name)))
    tuned("ordered", save_steps=3)
    assert events[:3] == [
        ("sync_tree", "checkpoint-3"),
        ("describe_directory", "files.json"),
        ("sync_directory", "ordered"),
    ]
    assert [event for event in events if event[0] in ("describe_directory", "removed")][1:3] == [
        ("describe_directory", "files.json"),
        ("removed", "checkpoint-3"),
    ]


def load(directory, task, seed=0):
    set_seed(seed)
    return training.load_classifier(str(directory), GLUE[task])


def test_the_encoder_is_the_checkpoints_and_the_head_depends_on_the_seed(place):
    stored = load_file(place / "model" / "model.safetensors")
    first, other = load(place / "model", "mnli", seed=1), load(place / "model", "mnli", seed=2)
    for name, weight in first.bert.state_dict().items():
        if not name.startswith("pooler"):
            assert torch.equal(weight, stored[f"bert.{name}"])
    assert first.classifier.weight.shape == (3, 32) and load(place / "model", "stsb").classifier.weight.shape == (1, 32)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.classifier.weight, load(place / "model", "mnli", seed=1).classifier.weight)


def test_a_head_of_another_size_starts_anew_above_the_fine_tuned_encoder(place):
    tuned = load(place / "model", "mnli")
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.5)
    tuned.save_pretrained(place / "tuned")
    for task, size in (("rte", 2), ("stsb", 1)):
        model = load(place / "tuned", task)
        assert model.classifier.out_features == size
        assert model.config.problem_type == ("regression" if task == "stsb" else "single_label_classification")
        for name, weight in model.bert.named_parameters():
            assert torch.equal(weight, tuned.bert.get_parameter(name)), "the pooler too"
        assert model.classifier.weight.abs().max() < 0.5 * tuned.classifier.weight.abs().max() + 1


def test_a_checkpoint_in_half_precision_is_trained_in_float32(place):
    load(place / "model", "mnli").to(torch.bfloat16).save_pretrained(place / "half")
    assert {weight.dtype for weight in load(place / "half", "mnli").parameters()} == {torch.float32}


@pytest.mark.parametrize("ours", [True, False])
def test_missing_encoder_weights_are_an_error(place, ours):
    directory = place / "model"
    if not ours:
        directory = place / "bert"
        config = BertConfig(
            vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        BertForMaskedLM(config).save_pretrained(directory)
        assert load(directory, "rte").classifier.out_features == 2, "a masked language model has no pooler"
    weights = load_file(directory / "model.safetensors")
    lost = next(name for name in weights if name.startswith("bert.encoder"))
    del weights[lost]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=lost):
        load(directory, "rte")


def test_pair_tasks_are_trained_and_scored_with_token_types(place, monkeypatch):
    """Whatever the tokenizer's files say: a trained vocabulary's say nothing, and transformers 5 then gives none."""
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(place / "model").model_input_names
    tokenizer = training.open_classifier_tokenizer(str(place / "model"))
    split = read_file(place / "data" / "rte_dev.tsv", GLUE["rte"])
    encoded = training.encode_split(split, tokenizer, 32)
    assert {0, 1} == {kind for kinds in encoded["token_type_ids"] for kind in kinds}

    def first_loss(rows):
        monkeypatch.setattr(training, "Trainer", type("Stopped", (RecordingTrainer,), {"stop_at_step": 1}))
        with pytest.raises(KeyboardInterrupt):
            training.fine_tune(
                replace(RUN, task="rte"), str(place / "model"), tokenizer, rows, {}, PROTOCOL, place / "work",
                save_steps=1000,
            )  # fmt: skip
        return training.Trainer.last.losses[0]

    without = encoded.map(lambda row: {"token_type_ids": [0] * len(row["token_type_ids"])})
    assert first_loss(encoded) == pytest.approx(first_loss(encoded))
    assert first_loss(encoded) != pytest.approx(first_loss(without), abs=1e-5)


def test_texts_are_pairs_cut_to_the_length(place):
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    split = read_file(place / "data" / "rte_train.tsv", GLUE["rte"])
    encoded = training.encode_split(split, tokenizer, 12)
    assert max(map(len, encoded["input_ids"])) == 12
    assert encoded["labels"] == split.targets
    whole = training.encode_split(split, tokenizer, 128)
    for ids, one, other in zip(whole["input_ids"], *split.texts, strict=True):
        assert ids == tokenizer(one, other)["input_ids"] and ids.count(tokenizer.sep_token_id) == 2


def test_weights_of_a_start_that_were_damaged_since_are_refused(place):
    with replaceable_directory(place / "start") as start:
        shutil.copytree(place / "model", start, dirs_exist_ok=True)
    content = bytearray((place / "start" / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (place / "start" / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"start/model\.safetensors is not what was written there"):
        training.load_classifier(str(place / "start"), GLUE["rte"])
