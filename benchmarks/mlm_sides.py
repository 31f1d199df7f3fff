"""The two sides of train_mlm.py: the same blocks, weights and settings for MLMTrainer and for native's Trainer."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.models.nomic_bert import NomicBertForMaskedLM as NativeForMaskedLM

from benchmarks.measure import StepWorkload
from benchmarks.step_clock import StepClock
from benchmarks.texts import PACKAGES, load_tokenizer
from curation.documents import DocumentSource, open_documents
from curation.packing import pack_documents
from curation.tokenizer import plain_tokenizer
from nomic_bert import NomicBertConfig, NomicBertForMaskedLM
from nomic_bert.flops import training_flops
from recipes.quickstart_text.docstrings import read_docstrings
from trainers import MLMConfig, MLMTrainer
from trainers.collators import MaskedLMCollator
from trainers.sampling import SourceBatch

BLOCK_SIZE = 2048  # paper §4.1.1
MASKED = 0.3  # paper §4.1.2
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {},  # NomicBertConfig's defaults: 137M parameters
}


@dataclass(frozen=True, kw_only=True)
class Workload(StepWorkload):
    """What all sides share; `directory` holds `blocks`, `tokenizer` and the weights of `ours` and `native`, the same.

    Attributes:
        blocks: of a step.
    """

    blocks: int


@dataclass(frozen=True)
class Side:
    """One way to train: our trainer or native's, attention inside documents (ours only), compiled or not."""

    native: bool
    inside: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """As in the table."""
        where = "" if self.native else ", inside documents" if self.inside else ", across documents"
        return ("native" if self.native else "ours") + where + (", compiled" if self.compiled else "")


def prepare_data(workload: Workload, documents: Sequence[str], tokenizer: str | None) -> dict[str, Any]:
    """Write the tokenizer and as many blocks as one measurement trains on, repeated where the text is too short.

    Returns:
        Where the text is from and how long its documents are: `attended_tokens` is the mean over the tokens of the
        length of the document piece that a token lies in, which is what attention inside documents costs.

    Raises:
        ValueError, OSError: documents or tokenizer cannot be read.
    """
    if documents:
        opened = open_documents([DocumentSource(path=path) for path in documents], workload.directory)
        texts, source = opened.texts(list(range(len(opened)))), "files given by --documents"
    else:
        texts = [found["text"] for found in read_docstrings(PACKAGES)]
        source = f"documentation strings of {' and '.join(PACKAGES)}"
    random.Random(0).shuffle(texts)  # neighbouring documents are alike, and of like lengths
    loaded = load_tokenizer(tokenizer, texts, workload.directory / "trained_tokenizer")
    loaded.save_pretrained(workload.directory / "tokenizer")
    packed = pack(texts, loaded)
    needed = workload.blocks * workload.all_steps
    blocks = packed.select(np.arange(needed) % len(packed))
    blocks.save_to_disk(workload.directory / "blocks")
    lengths = np.concatenate([np.array(row) for row in blocks["document_lengths"]]).astype(np.float64)
    return {
        "source": source,
        "tokens_in_vocabulary": len(loaded),
        "distinct_blocks": min(len(packed), needed),
        "blocks": needed,
        "mean_document_tokens": float(lengths.mean()),
        "attended_tokens": float((lengths**2).sum() / lengths.sum()),
    }


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Blocks with the columns `input_ids` and `document_lengths`.

    Raises:
        ValueError: the texts do not fill one block.
    """
    blocks, counts = pack_documents(texts, Tokenizer.from_str(plain_tokenizer(tokenizer)), BLOCK_SIZE)
    if not counts["blocks"]:
        raise ValueError(f"{counts['tokens']:,} tokens of text do not fill one block of {BLOCK_SIZE:,}; give more.")
    return Dataset(blocks)


def prepare_weights(directory: Path, config: NomicBertConfig) -> None:
    """Write fresh weights twice: as we name them, and as native's MaskedLM does, whose head has biases: zero here."""
    set_seed(0)
    NomicBertForMaskedLM(config).save_pretrained(directory / "ours")
    weights = load_file(directory / "ours" / "model.safetensors")
    renamed = {re.sub(r"^bert\.", "nomic_bert.", name): weight for name, weight in weights.items()}
    head = "cls.predictions."
    biases = {f"{head}{name}": torch.zeros(config.vocab_size) for name in ("bias", "decoder.bias")}
    biases[f"{head}transform.dense.bias"] = torch.zeros(config.hidden_size)
    config.save_pretrained(directory / "native")
    save_file(renamed | biases, directory / "native" / "model.safetensors", metadata={"format": "pt"})


def load_native(directory: Path) -> PreTrainedModel:
    """Native's MaskedLM with our weights.

    Raises:
        ValueError: a weight is missing, left over or misshapen; transformers itself would train on with random ones.
    """
    loaded: Any = NativeForMaskedLM.from_pretrained(directory, output_loading_info=True)
    model, info = loaded
    wrong = sorted(str(key) for keys in info.values() for key in keys)
    if wrong:
        raise ValueError(f"native's NomicBertForMaskedLM does not take our weights: {', '.join(wrong)}")
    return model


def compare_losses(workload: Workload) -> dict[str, float]:
    """Losses of both sides, and the largest difference of their logits, on one masked block in fp32 on the CPU.

    Raises:
        ValueError: the losses differ by more than 1e-5, or a logit by more than 1e-3: they are not one model.
    """
    torch.set_num_threads(workload.threads)
    directory = workload.directory
    collator = MaskedLMCollator(AutoTokenizer.from_pretrained(directory / "tokenizer"), MASKED)
    batch = collator(SourceBatch("blocks", load_from_disk(directory / "blocks"), np.arange(1), epoch=0))
    with torch.no_grad():
        ours = NomicBertForMaskedLM.from_pretrained(directory / "ours")(**batch)
        native = load_native(directory / "native")(**batch)
    labelled = batch["labels"] != -100
    result = {
        "ours": ours.loss.item(),
        "native": native.loss.item(),
        "logits": (ours.logits - native.logits[labelled]).abs().max().item(),
    }
    if abs(result["ours"] - result["native"]) > 1e-5 or result["logits"] > 1e-3:
        raise ValueError(f"the two sides are not the same model, so nothing was timed: {describe_losses(result)}")
    return result


def measure(workload: Workload, side: Side) -> dict[str, Any]:
    """Train with one side, in this process.

    Returns:
        `tokens_per_second`, `peak_memory` in bytes, the mean training `loss`, and `profile` (see StepClock).
    """
    torch.set_num_threads(workload.threads)
    trainer = _native_trainer(workload, side) if side.native else _our_trainer(workload, side)
    clock = StepClock(trainer.args.device, workload.warmup, workload.steps, workload.profiled)
    trainer.add_callback(clock)
    loss = trainer.train().training_loss
    assert clock.seconds is not None
    return {
        "tokens_per_second": workload.blocks * BLOCK_SIZE / clock.seconds,
        "peak_memory": clock.peak_memory,
        "loss": loss,
        "profile": clock.profile,
    }


def _our_trainer(workload: Workload, side: Side) -> Trainer:
    settings = _settings(workload, side) | {"mlm_probability": MASKED, "attend_across_documents": not side.inside}
    return MLMTrainer(
        model=NomicBertForMaskedLM.from_pretrained(workload.directory / "ours"),
        args=MLMConfig(**settings),
        train_dataset=load_from_disk(workload.directory / "blocks"),
        processing_class=AutoTokenizer.from_pretrained(workload.directory / "tokenizer"),
    )


def _native_trainer(workload: Workload, side: Side) -> Trainer:
    tokenizer = AutoTokenizer.from_pretrained(workload.directory / "tokenizer")
    return Trainer(
        model=load_native(workload.directory / "native"),
        args=TrainingArguments(**_settings(workload, side)),
        train_dataset=load_from_disk(workload.directory / "blocks").select_columns("input_ids"),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED),
    )


def _settings(workload: Workload, side: Side) -> dict[str, Any]:
    """TrainingArguments of both sides: the paper's optimizer (§4.1.2), no accumulation, nothing saved."""
    return {
        "output_dir": str(workload.directory / "output"),
        "max_steps": workload.all_steps,
        "per_device_train_batch_size": workload.blocks,
        "learning_rate": 5e-4,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-6,
        "weight_decay": 1e-5,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.06,
        "bf16": workload.precision == "bf16",
        "use_cpu": workload.device == "cpu",
        "torch_compile": side.compiled,
        "dataloader_num_workers": workload.workers,
        "dataloader_drop_last": True,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def useful_flops(config: NomicBertConfig, attended_tokens: float) -> float:
    """FLOPs that a token must cost, forward and backward; the head on masked tokens only, whichever side."""
    labelled = round(MASKED * BLOCK_SIZE)
    return training_flops(config, BLOCK_SIZE, round(BLOCK_SIZE * attended_tokens), labelled) / BLOCK_SIZE


def describe_losses(same: dict[str, float]) -> str:
    """A sentence on what `compare_losses` found."""
    return (
        f"Loss of both sides on one masked block before training: {same['ours']:.6f} (ours), {same['native']:.6f} "
        f"(native); logits differ by {same['logits']:.1e} at most."
    )
