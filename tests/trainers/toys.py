"""Tiny models, a word tokenizer and random data for the trainers' tests."""

import random
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, TrainerCallback

from nomic_bert import NomicBertConfig, NomicBertForMaskedLM, NomicBertModel
from trainers import ContrastiveConfig, ContrastiveTrainer, MLMConfig, MLMTrainer

WORDS = [f"word{i}" for i in range(90)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PROMPTS = {"query": "word0 ", "document": "word1 word1 "}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; 95 real tokens, fewer than the models' 128 embedding rows."""
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True)))


def config(**changes: Any) -> NomicBertConfig:
    """Two layers of 16, with weights large enough that attention matters."""
    settings = {
        "vocab_size": 128,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_trained_positions": 64,
        "initializer_range": 0.2,
    }
    return NomicBertConfig(**(settings | changes))


def encoder(**changes: Any) -> NomicBertModel:
    """The same weights every time."""
    torch.manual_seed(0)
    return NomicBertModel(config(**changes))


def mlm(**changes: Any) -> NomicBertForMaskedLM:
    """The same weights every time."""
    torch.manual_seed(0)
    return NomicBertForMaskedLM(config(**changes))


def _text(rng: random.Random, longest: int = 20) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))


def pairs(rows: int, seed: int = 0, negatives: list[int] | None = None) -> datasets.Dataset:
    """Pairs of random words; `negatives` holds the length of each row's list in turn."""
    rng = random.Random(seed)
    data: dict[str, list] = {
        "query": [_text(rng, 6) for _ in range(rows)],
        "document": [_text(rng) for _ in range(rows)],
    }
    if negatives:
        data["negatives"] = [[_text(rng) for _ in range(negatives[row % len(negatives)])] for row in range(rows)]
    return datasets.Dataset.from_dict(data)


def blocks(rows: int, length: int = 24, seed: int = 0) -> datasets.Dataset:
    """Blocks of random words, each of three documents between [CLS] and [SEP]."""
    rng = random.Random(seed)
    data: dict[str, list] = {"input_ids": [], "document_lengths": []}
    for _ in range(rows):
        lengths = [length // 2, length // 4, length - length // 2 - length // 4]
        data["input_ids"].append(
            [token for size in lengths for token in (2, *(rng.randrange(5, 95) for _ in range(size - 2)), 3)]
        )
        data["document_lengths"].append(lengths)
    return datasets.Dataset.from_dict(data)


COMMON = {
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 11,
}


def contrastive_trainer(
    output_dir: Any, model: Any = None, train: Any = None, evaluators: Any = (), **changes: Any
) -> ContrastiveTrainer:
    """Two sources, 3 steps an epoch of 8 rows, 2 hard negatives a row, several chunks."""
    settings = {"global_batch_size": 8, "chunk_tokens": 100, "num_hard_negatives": 2, "prompts": PROMPTS} | changes
    sources = {"a": pairs(19, seed=1, negatives=[3, 1]), "b": pairs(9, seed=2, negatives=[2])}
    return ContrastiveTrainer(
        model or encoder(),
        ContrastiveConfig(output_dir=str(output_dir), **(COMMON | settings)),
        train or sources,
        pairs(21, seed=3, negatives=[2]),
        processing_class=tokenizer(),
        evaluators=evaluators,
    )


def mlm_trainer(output_dir: Any, model: Any = None, train: Any = None, **changes: Any) -> MLMTrainer:
    """3 steps an epoch of 8 blocks."""
    settings = {"global_batch_size": 8, "per_device_train_batch_size": 2, "peak_tflops": 0.1} | changes
    return MLMTrainer(
        model or mlm(),
        MLMConfig(output_dir=str(output_dir), **(COMMON | settings)),
        train or blocks(26),
        blocks(11, seed=5),
        processing_class=tokenizer(),
    )


class StopAt(TrainerCallback):
    """Ends a run as a kill would: no more steps, no save of its own."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class KeepGradient(TrainerCallback):
    """Keeps the gradient of the first step, as the optimizer gets it."""

    def __init__(self) -> None:
        self.gradient: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not self.gradient:
            self.gradient = {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradient(gradient: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To 1e-6 of the gradient's norm."""
    assert gradient.keys() == expected.keys()
    difference, whole = (
        torch.cat([part.flatten().double() for part in parts]).norm()
        for parts in ([gradient[name] - expected[name] for name in expected], expected.values())
    )
    assert difference <= 1e-6 * whole, f"relative difference {difference / whole:.1e}"


def logged(trainer: Any, key: str) -> list[float]:
    """The values that a run logged under a key, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]
