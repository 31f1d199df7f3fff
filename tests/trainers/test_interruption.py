"""Runs that SIGTERM or SIGKILL ends, most of them in a process of their own, and that are started again."""

import os
import signal
import sys

import pytest
import torch
from transformers import TrainerCallback

from tests.processes import Forked, rank_environments
from tests.trainers.run_interrupted import GO_ON, STEPS, main, make
from tests.trainers.toys import logged, mlm_trainer
from trainers import latest_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")


def start(output_dir, wait, stage="mlm", workers=0, environment=None):
    return Forked(main, [stage, output_dir, wait, workers], environment)


def wait_for_the_step(process):
    process.wait_until(lambda: "waiting\n" in process.printed)


def finish(process, output_dir):
    """The end of what a process prints, and its exit status."""
    (output_dir / GO_ON).touch()
    status = process.wait()
    return process.printed, status


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    weights = {}
    for stage in ("mlm", "contrastive"):
        trainer = make(stage, tmp_path_factory.mktemp(stage))
        trainer.train()
        weights[stage] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return weights


def assert_resumed_ends_at(output_dir, stage, expected):
    trainer = make(stage, output_dir)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize(("stage", "workers"), [("mlm", 1), ("contrastive", 0)])
def test_sigterm_saves_after_the_step_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, stage, workers):
    """Sent in step 5, after which nothing is due to be saved; to the data loader's workers as well."""
    process = start(tmp_path, 5, stage, workers)
    wait_for_the_step(process)
    os.killpg(process.pid, signal.SIGTERM)
    printed, status = finish(process, tmp_path)
    assert status == 143, printed
    saved = tmp_path / "checkpoint-5"
    assert f"SIGTERM: stopped after step 5 of {STEPS} and saved {saved}." in printed
    assert latest_checkpoint(tmp_path) == saved and not (tmp_path / "final").exists()
    assert_resumed_ends_at(tmp_path, stage, uninterrupted[stage])


def test_killed_a_run_goes_on_from_its_last_checkpoint(tmp_path, uninterrupted):
    process = start(tmp_path, 6)
    wait_for_the_step(process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert_resumed_ends_at(tmp_path, "mlm", uninterrupted["mlm"])


class TerminateItself(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_in_the_last_step_ends_the_run_as_usual_and_the_handler_is_put_back(tmp_path, uninterrupted):
    before = signal.getsignal(signal.SIGTERM)
    trainer = make("mlm", tmp_path)
    trainer.add_callback(TerminateItself(STEPS))
    trainer.train()
    assert all(torch.equal(value, uninterrupted["mlm"][name]) for name, value in trainer.model.state_dict().items())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_inside_an_epoch_is_not_taken_for_its_end(tmp_path):
    """Nothing that is due at an epoch's end happens: one save, no evaluation."""
    trainer = mlm_trainer(tmp_path, max_steps=6, save_strategy="epoch", eval_strategy="epoch")
    trainer.add_callback(TerminateItself(2))
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 143
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert logged(trainer, "eval_loss") == []


def test_ranks_stop_together_where_one_was_signalled(tmp_path):
    processes = [
        start(tmp_path, wait, environment=environment)
        for wait, environment in zip((0, 5), rank_environments(2), strict=True)
    ]
    wait_for_the_step(processes[1])
    os.kill(processes[1].pid, signal.SIGTERM)
    for process in reversed(processes):  # the one that waits first
        printed, _ = finish(process, tmp_path)
        assert "train() exits with 143" in printed, printed
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert len(list((tmp_path / "checkpoint-5").glob("rng_state_*.pth"))) == 2
