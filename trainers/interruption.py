"""SIGTERM: the ranks agree on a step, save one checkpoint after it, and stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nomic_bert.transfers import fetch, to_device

EXIT_CODE = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended


class StopAtSigterm(TrainerCallback):
    """Saves and stops after the current optimizer step once any rank was sent SIGTERM.

    On several GPUs it is the step after that: each reads what the ranks answered when its next step has been queued.

    Cluster schedulers send it before they take a machine away, to one process or to all. transformers'
    `enable_jit_checkpoint` decides on every rank alone, so ranks that are signalled at different moments would wait
    for each other for ever.

    Attributes:
        stopped: whether the run was stopped.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._requested = False
        self._asked: Callable[[], torch.Tensor] | None = None
        self.stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of SIGTERM inside, in place of ending; in a thread other than the main one, nothing changes."""
        self._requested = self.stopped = False
        self._asked = None
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def take_note(*_: Any) -> None:
            self._requested = True

        before = signal.signal(signal.SIGTERM, take_note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop; an evaluation that is due is left out, for little time may be left."""
        if self._any_rank_requested(args.device) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a stop, Trainer treats the epoch as ended; what belongs to its end is skipped."""
        if self.stopped:
            control.should_save = control.should_evaluate = False

    def _any_rank_requested(self, device: torch.device) -> bool:
        if self._accelerator.num_processes == 1:
            return self._requested
        own = to_device(torch.tensor(int(self._requested)), device)
        answer = fetch(self._accelerator.reduce(own, reduction="sum"))
        if device.type == "cpu":
            return bool(answer())
        before, self._asked = self._asked, answer
        return before is not None and bool(before())


def ignore_sigterm(worker: int) -> None:
    """For a data loader's worker: a SIGTERM to the process group must not take the data away before the save."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
