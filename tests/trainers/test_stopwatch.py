import math

import pytest
import torch

from nomic_bert.flops import training_flops
from tests.trainers.toys import contrastive_trainer, logged, mlm, mlm_trainer
from trainers import stopwatch
from trainers.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: Clock.now)
    return Clock


def take_time(clock, monkeypatch, trainer, name, seconds):
    """Let every call of a trainer's method take so long."""
    method = getattr(trainer, name)

    def timed(*args, **named):
        clock.now += seconds
        return method(*args, **named)

    monkeypatch.setattr(trainer, name, timed)


def test_pauses_do_not_count(clock):
    watch = Stopwatch()
    with watch.paused():  # before the start: nothing to pause
        clock.now += 7
    assert not watch.runs
    watch.start()
    clock.now += 2
    with watch.paused():
        clock.now += 50
    clock.now += 1
    assert watch.lap() == 3
    clock.now += 4
    assert watch.lap() == 4


@pytest.mark.parametrize("across", [True, False])
def test_logs_of_mlm_are_what_the_steps_did(tmp_path, clock, monkeypatch, across):
    """Masked accuracy, speed and mfu of two steps, with evaluations and saves that take time of their own."""
    trainer = mlm_trainer(
        tmp_path,
        max_steps=4,
        logging_steps=2,
        learning_rate=1e-30,  # changes no weight
        attend_across_documents=across,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        peak_tflops=1e-6,
    )
    for name, seconds in (("training_step", 0.25), ("prediction_step", 30.0), ("_save_rng_state", 60.0)):
        take_time(clock, monkeypatch, trainer, name, seconds)
    trainer.train()
    tokens, seconds = 2 * 8 * 24, 2 * 4 * 0.25  # 2 steps of 8 blocks in 4 micro-batches
    assert logged(trainer, "tokens_per_second") == [pytest.approx(tokens / seconds)] * 2
    assert logged(trainer, "num_input_tokens_seen")[-1] == 2 * tokens
    model = mlm()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2 and "train_runtime" not in logs[0]
    for number, log in enumerate(logs):
        batches = [trainer.train_dataset[divmod(micro, 12)] for micro in range(8 * number, 8 * number + 8)]
        hits, labelled = 0, 0
        for batch in batches:
            masked = batch["labels"] != -100
            hits += int((model(**batch).logits.argmax(-1) == batch["labels"])[masked].sum())
            labelled += int(masked.sum())
        assert log["accuracy"] == pytest.approx(hits / labelled)
        assert log["perplexity"] == pytest.approx(math.exp(log["loss"]))
        attended = 2 * 8 * (24**2 if across else 12**2 + 6**2 + 6**2)
        assert log["mfu"] == pytest.approx(training_flops(model.config, tokens, attended, labelled) / seconds / 1e6)


def test_logs_of_contrastive_training_have_the_speed(tmp_path, clock, monkeypatch):
    trainer = contrastive_trainer(tmp_path, max_steps=2)
    take_time(clock, monkeypatch, trainer, "training_step", 0.5)
    trainer.train()
    seen = logged(trainer, "num_input_tokens_seen")
    assert logged(trainer, "tokens_per_second") == pytest.approx([2 * seen[0], 2 * (seen[1] - seen[0])])


def test_the_peak_is_measured_where_it_is_not_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainers.mlm.matmul_rate", lambda device, dtype: 2.5e12 if dtype == torch.float32 else 0.0)
    mlm_trainer(tmp_path, max_steps=1, peak_tflops=None).train()
    assert "peak 2.5 TFLOP/s of all ranks, measured" in capsys.readouterr().out
