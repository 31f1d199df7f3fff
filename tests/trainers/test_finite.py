"""NaN in a gradient, in weights or in a metric: nothing is updated, saved or chosen by it."""

import math
import re

import pytest
import torch
from transformers import TrainerCallback

from tests.trainers.toys import contrastive_trainer, encoder, mlm, mlm_trainer
from trainers import latest_checkpoint, safe

SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}


class SpoilTheGradient(TrainerCallback):
    """Makes one number of one gradient NaN in the backward pass of a step."""

    def __init__(self, model, step):
        self.step, self.now = step, 0
        next(model.parameters()).register_hook(self._spoil)

    def on_step_begin(self, args, state, control, **_):
        self.now = state.global_step + 1

    def _spoil(self, gradient):
        if self.now == self.step:
            gradient = gradient.clone()
            gradient.view(-1)[0] = math.nan
        return gradient


class SpoilTheWeights(TrainerCallback):
    """Makes one weight infinite after the update of a step."""

    def __init__(self, step):
        self.step = step

    def on_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step + 1 == self.step:
            next(model.parameters()).data.view(-1)[0] = math.inf


def is_finite(trainer):
    return all(value.isfinite().all() for value in trainer.model.state_dict().values())


@pytest.mark.parametrize("clipping", [0.0, 1.0])
@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize(("make", "model"), [(contrastive_trainer, encoder), (mlm_trainer, mlm)])
def test_nan_in_one_gradient_reaches_no_weight_and_no_checkpoint(tmp_path, make, model, step, clipping):
    """In the middle of a run and in its last step, with and without clipping; the loss is finite."""
    trainer = make(tmp_path, model(), max_steps=4, max_grad_norm=clipping, **SAVING)
    trainer.add_callback(SpoilTheGradient(trainer.model, step))
    last = tmp_path / f"checkpoint-{step - 1}"
    with pytest.raises(FloatingPointError, match=rf"gradient is nan at step {step}, on source '\w+', rows .*{last}"):
        trainer.train()
    assert is_finite(trainer) and latest_checkpoint(tmp_path) == last


def test_before_the_first_checkpoint_none_is_spoken_of(tmp_path):
    trainer = contrastive_trainer(tmp_path, max_steps=4, **SAVING)
    trainer.add_callback(SpoilTheGradient(trainer.model, 1))
    with pytest.raises(FloatingPointError, match="There is no checkpoint yet"):
        trainer.train()


@pytest.mark.parametrize("saving", [SAVING, {}])
@pytest.mark.parametrize("step", [2, 4])
def test_what_a_gpu_reads_a_step_late_names_its_own_step_and_is_saved_nowhere(tmp_path, monkeypatch, step, saving):
    """In the last step nothing follows that would read it but the end of the run."""
    monkeypatch.setattr(safe.SafeTrainer, "_reads_late", lambda _: True)
    trainer = contrastive_trainer(tmp_path, max_steps=4, **saving)
    trainer.add_callback(SpoilTheGradient(trainer.model, step))
    rows = re.escape(trainer.rows_of_step(step - 1))
    with pytest.raises(FloatingPointError, match=f"gradient is nan at step {step}, on {rows}"):
        trainer.train()
    assert trainer.state.global_step == step  # the update was made, and no other
    assert latest_checkpoint(tmp_path) == (tmp_path / f"checkpoint-{step - 1}" if saving else None)


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, save_strategy):
    """Nor handed on by train(), whose caller would write them to `final`."""
    trainer = contrastive_trainer(tmp_path, max_steps=3, **{**SAVING, "save_strategy": save_strategy})
    trainer.add_callback(SpoilTheWeights(3))
    with pytest.raises(FloatingPointError, match="1 of 22 weights are not finite .embeddings.word"):
        trainer.train()
    assert not (tmp_path / "checkpoint-3").exists()
    assert latest_checkpoint(tmp_path) == (tmp_path / "checkpoint-2" if save_strategy == "steps" else None)
    with pytest.raises(FloatingPointError, match="They are not saved"):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_chooses_no_best_checkpoint(tmp_path, value):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    steps = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    trainer = contrastive_trainer(tmp_path, evaluators=[lambda _: {"score": value}], **steps, **best, **SAVING)
    with pytest.raises(FloatingPointError, match=f"Evaluation gave eval_score = {value}"):
        trainer.train()
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(("make", "accumulated"), [(contrastive_trainer, 1), (mlm_trainer, 4)])
def test_loss_and_norm_are_read_once_a_step_however_many_micro_batches_it_has(tmp_path, monkeypatch, make, accumulated):
    """On a GPU each reading waits for the device."""
    readings = []
    read = safe.read_loss_and_norm
    monkeypatch.setattr(safe, "read_loss_and_norm", lambda *given: readings.append(given) or read(*given))
    isfinite = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda tensor: readings.append(tensor) or isfinite(tensor))
    trainer = make(tmp_path, max_steps=3, logging_steps=100)
    assert trainer.args.gradient_accumulation_steps == accumulated
    trainer.train()
    assert len(readings) == 3
