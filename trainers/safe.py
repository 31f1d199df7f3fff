"""A Trainer that loses nothing: finite weights, checkpoints that outlast a power cut, and runs that resume as begun."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, TrainOutput

from textfiles.atomic import naming_full_disks

from .checkpoints import (
    latest_checkpoint,
    remove_checkpoint,
    remove_cut_checkpoints,
    remove_older_checkpoints,
    sync_checkpoint,
)
from .finite import read_loss_and_norm, require_finite_metric, require_finite_weights
from .resuming import (
    ResumeError,
    describe_files,
    naming_what_does_not_fit,
    read_state,
    require_unchanged,
    require_whole,
)
from .run_settings import refuse_other_settings, write_settings


class SafeTrainer(Trainer):
    """Trainer, whose every checkpoint is finite, on the disk before an older one goes, and resumed as it was begun.

    A loss or a norm of the gradient that is not finite stops the run before the update; on a GPU at most one update
    later, because these numbers are read when the next step has been queued. Weights that are not finite are never
    saved. A checkpoint holds no pickled arguments, but the settings that decide the result
    (`run_settings.SETTINGS_FILE`), with which alone it can be resumed.
    """

    _unread: tuple[int, Callable[[], tuple[float, float]]] | None = None  # a step, its loss and norm

    def _start_safely(self, settings: dict[str, Any], resume_from_checkpoint: str | None) -> None:
        """To be called before training, on every rank, with what the result of the run depends on."""
        self._settings = settings
        self._best_so_far: Path | None = None
        self._step_loss = torch.zeros((), device=self.args.device)  # of this rank; `training_step` adds to it
        self._unread = None
        if resume_from_checkpoint:
            self._prepare_to_resume(Path(resume_from_checkpoint))
        if self.args.should_save:
            remove_cut_checkpoints(str(self.args.output_dir))
            if resume_from_checkpoint:
                self._finish_removals(Path(resume_from_checkpoint))

    def rows_of_step(self, step: int) -> str:
        """The rows that a step, counted from 0, trains on, for an error."""
        raise NotImplementedError

    def _prepare_to_resume(self, checkpoint: Path) -> None:
        assert self.model is not None
        if not self.is_deepspeed_enabled:
            require_whole(checkpoint, self.model)
        if not require_unchanged(checkpoint) and self.args.should_save:
            describe_files(checkpoint)
        state = read_state(checkpoint)
        if self.args.load_best_model_at_end and state.best_global_step is not None:
            self._best_so_far = best = _checkpoint_beside(checkpoint, state.best_global_step)
            if not best.is_dir():
                raise ResumeError(
                    f"{best}, the best checkpoint so far, is missing. Restore it, or begin anew in another output_dir."
                )
            require_unchanged(best)
        notes = refuse_other_settings(checkpoint, self._settings, state.global_step)
        if self.is_deepspeed_enabled:
            notes.append(f"DeepSpeed unpickles {checkpoint}, which can run code: resume only what you wrote yourself.")
        if self.is_world_process_zero() and notes:
            print("\n".join(notes), flush=True)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        # the state has the path of the machine and the directory in which the run was begun; if it is not there,
        # Trainer goes on without the best checkpoint, with a mere warning
        begun = super()._init_training_state(*args, **kwargs)
        if self._best_so_far is not None:
            self.state.best_model_checkpoint = str(self._best_so_far)
        return begun

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with naming_what_does_not_fit(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with naming_what_does_not_fit(checkpoint):
            super()._load_rng_state(checkpoint)

    def _finish_removals(self, checkpoint: Path) -> None:
        """Remove what the run would have removed after it wrote `checkpoint`, had it not been killed."""
        newest = latest_checkpoint(str(self.args.output_dir))
        if newest is None or newest.resolve() != checkpoint.resolve():
            return  # resumed from an earlier one on purpose
        best = read_state(newest).best_global_step
        sync_checkpoint(newest)
        best_path = None if best is None else str(_checkpoint_beside(newest, best))
        remove_older_checkpoints(newest, self.args.save_total_limit, best_path)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer asks whether the last step was reached after a step, not before the first one of a resumed run
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        remedy = f"Remove {resume_from_checkpoint} to resume from the checkpoint before it."
        require_finite_weights(cast(nn.Module, self.model), remedy)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """See Trainer, which calls this once a step, after clipping and before the update."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        reading = self.state.global_step, read_loss_and_norm(self._step_loss, grad_norm)
        self._step_loss = torch.zeros_like(self._step_loss)
        self._require_finite_step()
        self._unread = reading
        if not self._reads_late():
            self._require_finite_step()
        return grad_norm

    def _reads_late(self) -> bool:
        """Whether the numbers of a step are read in the next one, so that a GPU never waits for the host's reading.

        fp16's scaler waits for every step by itself, and a CPU computes a step before it queues the next.
        """
        return self.args.device.type != "cpu" and self._scaler() is None

    def _require_finite_step(self) -> None:
        """Read the loss and norm of the last step that were not read yet, if there are such."""
        if self._unread is None:
            return
        (step, read), self._unread = self._unread, None
        loss, norm = read()
        if not math.isfinite(loss):
            self._stop_at(step, f"loss is {loss}")
        if not math.isfinite(norm) and not self._loss_scale_is_too_large():
            self._stop_at(step, f"norm of the gradient is {norm}")

    def _scaler(self) -> Any:
        """fp16's, where it is in use."""
        scaler = getattr(self.accelerator, "scaler", None)
        return scaler if scaler is not None and scaler.is_enabled() else None

    def _loss_scale_is_too_large(self) -> bool:
        """Whether fp16's scale of the loss may be the reason, in which case the scaler leaves this update out."""
        scaler = self._scaler()
        return scaler is not None and scaler.get_scale() >= 1

    def _stop_at(self, step: int, what: str) -> None:
        raise FloatingPointError(
            f"The {what} at step {step + 1}, on {self.rows_of_step(step)}. Training stopped. {self._what_is_left()}"
        )

    def _what_is_left(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of incomplete ones
            checkpoint = latest_checkpoint(str(self.args.output_dir))
        if checkpoint is None:
            return "There is no checkpoint yet."
        return f"The last checkpoint, {checkpoint}, holds finite weights."

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self._require_finite_step()
        require_finite_weights(cast(nn.Module, self.model), f"They are not saved. {self._what_is_left()}")
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink()  # a pickle, which nothing reads

    def _checkpoint_directory(self) -> Path:
        return Path(str(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        for name in {"loss", self.args.metric_for_best_model or "loss"}:
            require_finite_metric(metrics, f"eval_{name.removeprefix('eval_')}")
        if self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH) and not self.control.should_save:
            return False  # the best of the checkpoints is sought: Trainer would note a step of which there is none
        return super()._determine_best_metric(metrics, trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        directory, limit = self._checkpoint_directory(), self.args.save_total_limit
        self._require_finite_step()
        require_finite_weights(cast(nn.Module, self.model), f"They are not saved. {self._what_is_left()}")
        # a stale trainer_state.json would make a half-overwritten checkpoint look complete
        if self.args.should_save:
            remove_checkpoint(directory)
        self.accelerator.wait_for_everyone()
        with self._keeping_all_checkpoints(), naming_full_disks(directory):
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                describe_files(directory)
                sync_checkpoint(directory)
        if self.args.should_save:
            remove_older_checkpoints(directory, limit, self.state.best_model_checkpoint)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self._require_finite_step()
        # what was not logged yet is of one rank alone, where the logs are of all
        self._tr_loss = self.accelerator.gather(self._tr_loss.reshape(1)).mean()
        with self._keeping_all_checkpoints():  # the finished model is not written yet
            return super()._finalize_training(*args, **kwargs)

    @contextmanager
    def _keeping_all_checkpoints(self) -> Iterator[None]:
        """Trainer removes older checkpoints before the new one is on the disk: it is told that there is no limit."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _save_rng_state(self, output_dir: str) -> None:
        # Trainer writes trainer_state.json next, and last; by then every other file of every rank must be on the disk
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_settings(Path(output_dir), self._settings)
            sync_checkpoint(Path(output_dir))


def _checkpoint_beside(checkpoint: Path, step: int) -> Path:
    return checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{step}")
