"""Stage 1's speed: MLMTrainer against transformers' Trainer with its own NomicBertForMaskedLM and collator, in one run.

python benchmarks/train_mlm.py --size small
python benchmarks/train_mlm.py --size base --device cuda --precision bf16 --compile off on --profile

All sides train on the same packed 2,048-token blocks, from the same weights, with the same optimizer, threads and
loader workers, each in a process of its own, in turn. Before that, both must give the same loss on one masked block.
"""

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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

from benchmarks import compare
from benchmarks.steps import StepWorkload, measure_steps
from benchmarks.workloads import PACKAGES, SIZE_HELP, SIZES, TOKENIZER_HELP, VOCAB_SIZE, load_tokenizer
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


@dataclass(frozen=True, kw_only=True)
class Workload(StepWorkload):
    """What all sides share; `directory` holds `blocks`, `tokenizer` and the same weights as `ours` and `native`.

    Attributes:
        blocks: of a step.
    """

    blocks: int


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        trainer: "ours" or "native", as in `TRAINERS`.
        inside: whether attention stays inside documents; ours only.
        compiled: whether torch compiles the model.
    """

    trainer: str
    inside: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """As in the table."""
        where = f", {'inside' if self.inside else 'across'} documents" if self.trainer == "ours" else ""
        return self.trainer + where + (", compiled" if self.compiled else "")


def our_trainer(workload: Workload, side: Side) -> Trainer:
    """MLMTrainer, whose head runs on masked tokens only."""
    settings = _settings(workload, side) | {"mlm_probability": MASKED, "attend_across_documents": not side.inside}
    return MLMTrainer(
        model=NomicBertForMaskedLM.from_pretrained(workload.directory / "ours"),
        args=MLMConfig(**settings),
        train_dataset=load_from_disk(workload.directory / "blocks"),
        processing_class=AutoTokenizer.from_pretrained(workload.directory / "tokenizer", trust_remote_code=False),
    )


def native_trainer(workload: Workload, side: Side) -> Trainer:
    """Transformers' own Trainer, model and collator."""
    tokenizer = AutoTokenizer.from_pretrained(workload.directory / "tokenizer", trust_remote_code=False)
    return Trainer(
        model=load_native(workload.directory / "native"),
        args=TrainingArguments(**_settings(workload, side)),
        train_dataset=load_from_disk(workload.directory / "blocks").select_columns("input_ids"),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED),
    )


TRAINERS = {"ours": our_trainer, "native": native_trainer}


def build_sides(attend: Sequence[str], compiled: Sequence[str]) -> list[Side]:
    """Ours for each way to attend, and native beside attention across documents: it knows no other."""
    sides = []
    for on in (state == "on" for state in compiled):
        if "across" in attend:
            sides += [Side("ours", compiled=on), Side("native", compiled=on)]
        if "inside" in attend:
            sides.append(Side("ours", inside=True, compiled=on))
    return sides


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    with compare.session(args) as directory:
        workload, sides = _workload(args, directory), build_sides(args.attend, args.compile)
        config = NomicBertConfig(**SIZES[args.size], vocab_size=VOCAB_SIZE, rotary_scaling_factor=None)
        text = prepare_data(workload, args.documents, args.tokenizer)
        prepare_weights(directory, config)
        same = compare.in_fresh_process(compare_losses, workload)
        print(_describe_losses(same), flush=True)
        compare.run(
            f"train_mlm-{args.size}-{args.device}-{args.precision}",
            build_rows(sides, workload.blocks, config, text["attended_tokens"]),
            [compare.Measurement(side=side.name, measure=partial(_try, workload, side)) for side in sides],
            args,
            {"size": args.size, **workload.shown(), "text": text, "same_loss": same},
            _explain(args.size, workload, text, same),
        )


def build_rows(
    sides: Sequence[Side], blocks: int, config: NomicBertConfig, document_tokens: float
) -> list[compare.Row]:
    """Rows of the table; all are compared with ours across documents, compiled with compiled.

    Args:
        sides: that are measured.
        blocks: of a step.
        config: of the model.
        document_tokens: that a token attends to where attention stays inside documents, on average.
    """
    rows = []
    for side in sides:
        attended = round(BLOCK_SIZE * (document_tokens if side.inside else BLOCK_SIZE))
        flops = training_flops(config, BLOCK_SIZE, attended, labelled=round(MASKED * BLOCK_SIZE))
        rows.append(
            compare.Row(
                side=side.name,
                reference=Side("ours", compiled=side.compiled).name,
                ours=side.trainer == "ours",
                tokens=blocks * BLOCK_SIZE,
                flops=blocks * flops,
            )
        )
    return rows


def measure(workload: Workload, side: Side) -> compare.Outcome:
    """Train with one side, in this process; see `measure_steps`."""
    torch.set_num_threads(workload.threads)
    return measure_steps(workload, TRAINERS[side.trainer](workload, side))


def _try(workload: Workload, side: Side) -> dict[str, compare.Outcome]:
    return {"": compare.try_in_fresh_process(side.name, measure, workload, side)}


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
    """Write fresh weights twice: with our names, and with those of native, whose head has biases: zero here."""
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
    if wrong := sorted(str(key) for keys in info.values() for key in keys):
        raise ValueError(f"native's NomicBertForMaskedLM does not take our weights: {', '.join(wrong)}")
    return model


def compare_losses(workload: Workload) -> dict[str, float]:
    """Losses of both sides, and the largest difference of their logits, on one masked block in fp32 on the CPU.

    Raises:
        ValueError: the losses differ by more than 1e-5, or a logit by more than 1e-3: they are not one model.
    """
    torch.set_num_threads(workload.threads)
    directory = workload.directory
    collator = MaskedLMCollator(AutoTokenizer.from_pretrained(directory / "tokenizer", trust_remote_code=False), MASKED)
    batch = collator(SourceBatch("blocks", load_from_disk(directory / "blocks"), np.arange(1), epoch=0))
    with torch.no_grad():
        ours = NomicBertForMaskedLM.from_pretrained(directory / "ours")(**batch)
        native = load_native(directory / "native")(**batch)
    labelled = batch["labels"] != -100
    result = {
        "ours": ours.loss.item(),
        "native": native.loss.item(),
        "logits": (ours.logits - native.logits)[labelled].abs().max().item(),
    }
    if abs(result["ours"] - result["native"]) > 1e-5 or result["logits"] > 1e-3:
        raise ValueError(f"the two sides are not the same model, so nothing was timed: {_describe_losses(result)}")
    return result


def _settings(workload: Workload, side: Side) -> dict[str, Any]:
    """TrainingArguments of both sides, with the paper's optimizer (§4.1.2)."""
    return workload.arguments() | {
        "per_device_train_batch_size": workload.blocks,
        "learning_rate": 5e-4,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-6,
        "weight_decay": 1e-5,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.06,
        "torch_compile_backend": "inductor" if side.compiled else None,  # named, a CPU compiles too
    }


def _describe_losses(same: dict[str, float]) -> str:
    return (
        f"Loss of both sides on one masked block before training: {same['ours']:.6f} (ours), {same['native']:.6f} "
        f"(native); logits differ by {same['logits']:.1e} at most."
    )


def _explain(size: str, workload: Workload, text: dict[str, Any], same: dict[str, float]) -> str:
    return (
        f"{size} model, {workload.precision}, {workload.blocks} blocks of {BLOCK_SIZE:,} tokens a step, "
        f"{workload.steps} steps timed after {workload.warmup}. {_describe_losses(same)} Text: {text['source']}, "
        f"{text['distinct_blocks']:,} distinct blocks of {text['blocks']:,}, documents of "
        f"{text['mean_document_tokens']:,.0f} tokens on average ({text['attended_tokens']:,.0f} weighted by tokens); "
        f"{text['tokens_in_vocabulary']:,} tokens in the tokenizer, {VOCAB_SIZE:,} rows in the model."
    )


def _workload(args: argparse.Namespace, directory: Path) -> Workload:
    on_gpu, on_base = args.device == "cuda", args.size == "base"
    return Workload(
        directory=directory,
        device=args.device,
        precision=args.precision,
        blocks=args.blocks or (32 if on_gpu else 1 if on_base else 2),
        warmup=args.warmup or (10 if on_gpu else 2),
        steps=args.steps or (30 if on_gpu else 5 if on_base else 10),
        profiled=(10 if on_gpu else 3) if args.profile else 0,
        workers=4 if on_gpu else 0,
        threads=torch.get_num_threads(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = compare.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help=SIZE_HELP)
    parser.add_argument("--attend", nargs="+", choices=("across", "inside"), default=["across", "inside"])
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"], help="torch_compile, all sides")
    parser.add_argument("--documents", nargs="+", default=[], help="files of text; default: docstrings of packages")
    parser.add_argument("--tokenizer", help=TOKENIZER_HELP)
    parser.add_argument("--blocks", type=int, help="of 2,048 tokens, a step; default 2, base 1, on a GPU 32")
    parser.add_argument("--warmup", type=int, help="steps before the clock starts; default 2, on a GPU 10")
    parser.add_argument("--steps", type=int, help="timed steps; default 10, base 5, on a GPU 30")
    return parser


if __name__ == "__main__":
    compare.start(main)
