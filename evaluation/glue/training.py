"""One GLUE run: a classifier on a checkpoint's encoder, trained by `Trainer` as in the paper's §5.1."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

import nomic_bert  # noqa: F401  so that Auto classes load our checkpoints by our code
from evaluation.checkpoints import readable_checkpoint
from evaluation.glue.data import Split
from evaluation.glue.metrics import score_logits
from evaluation.glue.protocol import Protocol, RunSettings
from evaluation.glue.tasks import GLUE, GlueTask
from nomic_bert.checkpoint_files import refuse_damage
from nomic_bert.tokenizer_files import open_tokenizer
from textfiles.atomic import sync_directory, sync_tree
from textfiles.shards import describe_directory, require_unchanged_files

_EVAL_BATCH_SIZE = 64  # ours: no score depends on it
_FILES = "files.json"  # of a checkpoint: sizes and checksums of the others, written last


def encode_split(split: Split, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> Dataset:
    """Token ids, token types and `labels` of a split, unpadded; of two texts the longer is truncated until both fit."""
    encoded = tokenizer(*split.texts, truncation=True, max_length=max_seq_length)
    return Dataset.from_dict({**encoded, "labels": split.targets})


def open_classifier_tokenizer(
    checkpoint: str, tokenizer: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, which gives token types to a model that tells two texts apart by them.

    transformers 5 gives token types only where the tokenizer's files say so, which not every BERT-like checkpoint's do.

    Args:
        checkpoint: directory or hub name.
        tokenizer: likewise; None: the checkpoint's own.
        trust_remote_code: whether to run the code of the checkpoint's repository.
    """
    opened = open_tokenizer(tokenizer or checkpoint)
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    names = opened.model_input_names
    if (getattr(config, "type_vocab_size", None) or 0) > 1 and "token_type_ids" not in names:
        opened.model_input_names = [*names, "token_type_ids"]
    return opened


def load_classifier(checkpoint: str, task: GlueTask, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The checkpoint's encoder in float32 under a head for the task; a head of another size is made anew.

    Args:
        checkpoint: directory or hub name.
        task: the task.
        trust_remote_code: whether to run the code of its repository.

    Raises:
        ValueError: weights of the encoder are missing, which are listed, or a file is damaged.
    """
    labels = dict(enumerate(task.labels)) or {0: "score"}
    if Path(checkpoint).is_dir():
        refuse_damage(checkpoint)
    with readable_checkpoint(checkpoint):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            checkpoint,
            num_labels=len(labels),
            id2label=labels,
            label2id={label: number for number, label in labels.items()},
            problem_type="single_label_classification" if task.labels else "regression",
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    # our class checks this itself; in others, the weights below the prefix are the encoder, except for a pooler
    encoder = f"{model.base_model_prefix}."
    missing = sorted(key for key in info["missing_keys"] if key.startswith(encoder) and "pooler" not in key)
    if missing:
        raise ValueError(f"{checkpoint} lacks weights of its encoder, which would be random: {', '.join(missing)}.")
    return model


def training_arguments(run: RunSettings, protocol: Protocol, directory: Path, has_dev: bool) -> TrainingArguments:
    """The paper's settings for one run; `EpochCallback` decides when to save and log."""
    return TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=run.batch_size,
        per_device_eval_batch_size=_EVAL_BATCH_SIZE,
        learning_rate=run.learning_rate,
        num_train_epochs=protocol.epochs,
        warmup_steps=protocol.warmup_share,  # below 1: a share of the steps
        lr_scheduler_type="linear",
        weight_decay=protocol.weight_decay,
        adam_beta2=protocol.adam_beta2,
        adam_epsilon=protocol.adam_epsilon,
        max_grad_norm=protocol.max_grad_norm,
        seed=run.seed,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        remove_unused_columns=False,  # by a model's signature, which need not name all that its tokenizer gives
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="epoch" if has_dev else "no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )


class EpochCallback(TrainerCallback):
    """Logs the loss at each epoch's end, saves every `save_steps` steps, counts time across interruptions.

    A save that falls on an epoch's last step waits for the next step: Trainer would save before the epoch's evaluation,
    and skip it when it resumes from there. Each save comes with a log, so that the losses too are those of an
    uninterrupted run.

    Attributes:
        has_begun: whether the checkpoint, if any, was read and steps can follow.

    Args:
        save_steps: steps between checkpoints.
        bar: counts epochs; None: no bar.
    """

    def __init__(self, save_steps: int, bar: tqdm | None = None) -> None:
        self._save_steps, self._bar = save_steps, bar
        self._saved_step, self._began = 0, 0.0
        self.has_begun = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Continue counting where the checkpoint stopped."""
        self.has_begun = True
        self._saved_step = state.global_step
        self._began = time.monotonic() - _seconds(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save if it is due."""
        if self._bar is not None and state.epoch is not None:
            self._bar.update(round(state.epoch, 2) - self._bar.n)
        is_due = state.global_step - self._saved_step >= self._save_steps
        if is_due and state.global_step % _steps_per_epoch(state):
            control.should_log = control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log."""
        control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the time so far with each log, where a checkpoint keeps it too."""
        state.log_history[-1]["seconds"] = time.monotonic() - self._began

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Make the checkpoint whole and durable, then remove those before it; count steps from here."""
        self._saved_step = state.global_step
        checkpoint = Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        sync_tree(checkpoint)
        describe_directory(checkpoint / _FILES)
        sync_directory(checkpoint.parent)
        for other in checkpoint.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if other != checkpoint:
                shutil.rmtree(other)


def fine_tune(
    run: RunSettings,
    checkpoint: str,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    dev: Mapping[str, Dataset],
    protocol: Protocol,
    directory: Path,
    *,
    save_steps: int,
    bar: tqdm | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train one run, or resume it from its last checkpoint.

    Args:
        run: which.
        checkpoint: that training starts from.
        tokenizer: of the model.
        train: from `encode_split`.
        dev: likewise; the set under "dev" is scored, "dev_mismatched" is scored too; none: nothing is.
        protocol: common settings.
        directory: for checkpoints.
        save_steps: steps between checkpoints.
        bar: counts epochs.
        trust_remote_code: whether to run the code of the checkpoint's repository.

    Returns:
        The trained model, and the part of the run's JSON that comes from training.

    Raises:
        ValueError: encoder weights are missing, a checkpoint is damaged, or the model's outputs are not finite.
    """
    task = run.task
    callback = EpochCallback(save_steps, bar)
    set_seed(run.seed)  # the new head depends on it
    trainer = Trainer(
        model=load_classifier(checkpoint, GLUE[task], trust_remote_code=trust_remote_code),
        args=training_arguments(run, protocol, directory, bool(dev)),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=dict(dev) or None,
        compute_metrics=lambda output: _scores(task, output),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # the bar is enough
    resumed = last_checkpoint(directory)
    try:
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    except Exception as error:
        if resumed is None or callback.has_begun:
            raise
        raise ValueError(f"{resumed} cannot be resumed ({error}). Remove it to train the run again.") from error
    history = [_epoch(epoch, trainer.state) for epoch in range(1, protocol.epochs + 1)]
    outcome = {
        # the last epoch's, not the best one's (paper §5.1)
        "scores": {key: value for key, value in history[-1].items() if key != "epoch" and not key.endswith("loss")},
        "train_rows": len(train),
        "dev_rows": len(dev["dev"]) if dev else 0,
        "train_loss": history[-1]["train_loss"],
        "steps": trainer.state.global_step,
        "history": history,
        "seconds": round(_seconds(trainer.state), 1),
        "device": device_name(),
    }
    return cast(PreTrainedModel, trainer.model), outcome


def _scores(task: str, output: EvalPrediction) -> dict[str, float]:
    # some models return more than logits
    logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    return score_logits(task, logits, cast(np.ndarray, output.label_ids))


def _seconds(state: TrainerState) -> float:
    """Time of training until the last log."""
    return max((entry["seconds"] for entry in state.log_history if "seconds" in entry), default=0.0)


def _steps_per_epoch(state: TrainerState) -> int:
    return state.max_steps // int(state.num_train_epochs)


def _epoch(epoch: int, state: TrainerState) -> dict[str, float]:
    """Losses and scores of one epoch, counted from 1, from Trainer's logs."""
    result: dict[str, float] = {"epoch": epoch, "train_loss": _train_loss(epoch, state)}
    for entry in state.log_history:
        if entry["step"] == epoch * _steps_per_epoch(state):
            for key, value in sorted(entry.items()):  # a checkpoint keeps them in this order
                # "eval_dev_accuracy" and, of MNLI's second dev set, "eval_dev_mismatched_accuracy"
                name = key.removeprefix("eval_").removeprefix("dev_")
                if key.startswith("eval_") and not name.endswith(("time", "per_second")):
                    result["dev_loss" if name == "loss" else name] = value
    return result


def _train_loss(epoch: int, state: TrainerState) -> float:
    """Mean loss over the steps of an epoch; each log has the mean over the steps since the last one."""
    last = epoch * _steps_per_epoch(state)
    first = last - _steps_per_epoch(state)
    total = previous = 0.0
    for entry in state.log_history:
        if "loss" in entry:
            if first < entry["step"] <= last:
                total += entry["loss"] * (entry["step"] - previous)
            previous = entry["step"]
    return total / (last - first)


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint: one whose files are described, which is done last.

    Raises:
        ValueError: it was damaged since; the message names what, and the remedy.
    """
    found = {
        int(number): path
        for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdigit() and (path / _FILES).is_file()
    }
    if not found:
        return None
    newest = found[max(found)]
    require_unchanged_files(newest / _FILES, f"Remove {newest} to train the run again.")
    return newest


def device_name() -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
