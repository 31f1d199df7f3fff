"""The sides of train_contrastive.py: the same pairs, weights and settings for our trainer and for theirs.

Theirs is sentence-transformers: its trainer and losses around transformers' own NomicBertModel, padded batches, mean
pooling and unit length.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, AutoTokenizer, set_seed
from transformers.models.nomic_bert import NomicBertConfig as NativeConfig

from benchmarks.compare import Outcome
from benchmarks.steps import StepWorkload, measure_steps
from benchmarks.workloads import PACKAGES, load_tokenizer
from nomic_bert import NomicBertConfig, NomicBertModel
from nomic_bert.prompts import PROMPTS
from recipes.quickstart_text.docstrings import docstring_pairs, read_docstrings
from textfiles.rows import read_rows
from textfiles.texts import text_of
from trainers import ContrastiveConfig, ContrastiveTrainer
from trainers.sampling import BatchPlan

SCALE = 50.0  # contrastors@613ddfd
_SEED = 0  # also of StepWorkload.arguments
_PROMPTS = {side: PROMPTS[side] for side in ("query", "document")}
_ALL_TOKENS = 2**40  # a chunk that holds any batch
_COMPARED_PAIRS = 128
_LARGEST_DIFFERENCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Workload(StepWorkload):
    """What all sides share; `directory` holds `pairs` and `model`: weights and tokenizer, which both sides read.

    Attributes:
        pairs: of a step.
        max_length: tokens of a text, prefix and special tokens included; longer ones are cut.
        negatives: hard ones of each pair.
    """

    pairs: int
    max_length: int
    negatives: int = 0

    @property
    def texts(self) -> int:
        """Of a step."""
        return self.pairs * (2 + self.negatives)

    def load_pairs(self) -> Dataset:
        """As many pairs as the steps of a measurement take, each pair once, with `negatives` where it has some."""
        return load_from_disk(self.directory / "pairs").select(range(self.pairs * self.all_steps))


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        ours: our trainer, or else sentence-transformers'.
        tokens: encoded at a time under GradCache, real ones.
        texts: encoded at a time under GradCache; theirs only. Neither: one pass, no GradCache.
    """

    ours: bool
    tokens: int | None = None
    texts: int | None = None

    @property
    def name(self) -> str:
        """As in the table."""
        size = f"{self.tokens:,} tokens" if self.tokens else f"{self.texts} texts"
        return ("ours, " if self.ours else "theirs, ") + (f"GradCache of {size}" if self.cached else "one pass")

    @property
    def cached(self) -> bool:
        """Whether it is GradCache."""
        return self.tokens is not None or self.texts is not None


def prepare(
    workload: Workload, files: Sequence[str], tokenizer: str | None, config: NomicBertConfig, pairs: int | None = None
) -> dict[str, Any]:
    """Write the pairs, repeated where there are too few, and fresh weights beside the tokenizer.

    Args:
        workload: of the measurements.
        files: .jsonl or .jsonl.gz with `query` and `document`, of which equally many rows are taken; none: the
            documentation of installed packages.
        tokenizer: as in `load_tokenizer`.
        config: of the model.
        pairs: how many; None: as many as the workload trains on.

    Returns:
        Where the text is from.

    Raises:
        ValueError, OSError: pairs or tokenizer cannot be read.
    """
    sources = [_read_pairs(file) for file in files]
    if not files:
        sources = [[(pair["query"], pair["document"]) for pair in docstring_pairs(read_docstrings(PACKAGES))]]
    mixed = _mix(sources)
    loaded = load_tokenizer(tokenizer, [text for pair in mixed for text in pair], workload.directory / "trained")
    needed = workload.pairs * workload.all_steps if pairs is None else pairs
    repeated = list(itertools.islice(itertools.cycle(mixed), needed))
    queries, documents = zip(*repeated, strict=True)
    columns = {"query": queries, "document": documents, **_negatives(mixed, needed, workload.negatives)}
    Dataset.from_dict(columns).save_to_disk(workload.directory / "pairs")
    set_seed(_SEED)
    NomicBertModel(config).save_pretrained(workload.directory / "model")
    loaded.save_pretrained(workload.directory / "model")
    return {
        "source": f"{len(files)} files of pairs" if files else f"documentation of {' and '.join(PACKAGES)}",
        "tokens_in_vocabulary": len(loaded),
        "distinct_pairs": min(len(mixed), needed),
        "pairs": needed,
    }


def _read_pairs(file: str) -> list[tuple[str, str]]:
    rows = read_rows(Path(file), ("query", "document"))
    pairs = [(text_of(row, "query", where), text_of(row, "document", where)) for where, row in rows]
    if not pairs:
        raise ValueError(f"{file} holds no pairs.")
    return pairs


def _mix(sources: Sequence[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Pairs of the sources in turn until the shortest ends, each in random order; no query or document twice."""
    seen: set[str] = set()
    mixed = []
    for pairs in sources:
        random.Random(_SEED).shuffle(pairs)  # neighbours are alike, and of like lengths
    for pair in itertools.chain.from_iterable(zip(*sources, strict=False)):
        if seen.isdisjoint(pair):
            seen.update(pair)
            mixed.append(pair)
    return mixed


def _negatives(pairs: list[tuple[str, str]], needed: int, count: int) -> dict[str, list[list[str]]]:
    """Column `negatives`, where some are wanted: documents of pairs at equal steps from each pair.

    Raises:
        ValueError: there are too few pairs.
    """
    if count >= len(pairs):
        raise ValueError(f"{len(pairs)} distinct pairs are too few for {count} negatives each.")
    steps = [len(pairs) * (number + 1) // (count + 1) for number in range(count)]
    drawn = [[pairs[(row + step) % len(pairs)][1] for step in steps] for row in range(needed)]
    return {"negatives": drawn} if count else {}


def compare_sides(workload: Workload) -> dict[str, Any]:
    """Check on the CPU, in fp32, that both sides train on the same tokens and begin at the same loss.

    Returns:
        `ours` and `theirs`, the losses; `compared_pairs`, of which they are; and of the timed steps, on average,
        `tokens`, and `attended`, the sum of squared lengths, both a step; `longest`, tokens of a text.

    Raises:
        ValueError: a batch holds other tokens or another order, or the losses differ by more than 1e-4.
    """
    torch.set_num_threads(workload.threads)
    workload = replace(workload, device="cpu", precision="fp32", workers=0)
    ours, theirs = our_trainer(workload, Side(ours=True)), their_trainer(workload, Side(ours=False, texts=32))
    lengths = []
    batches = itertools.zip_longest(ours.get_train_dataloader(), theirs.get_train_dataloader())
    for step, (batch, padded) in enumerate(batches):
        if batch is None or padded is None or not _same_texts(batch, theirs.collect_features(padded)[0]):
            raise ValueError(f"the two sides do not train on the same texts at step {step + 1}; nothing was timed.")
        lengths.append(batch["lengths"].double())
    if len(lengths) != workload.all_steps:
        raise ValueError(f"{len(lengths)} batches for {workload.all_steps} steps; nothing was timed.")
    timed = lengths[workload.warmup : workload.warmup + workload.steps]
    sample = workload.load_pairs().select(range(min(workload.pairs, _COMPARED_PAIRS)))
    result = {
        "ours": ours.evaluate(sample)["eval_loss"],
        "theirs": _their_loss_on(theirs, sample),
        "compared_pairs": len(sample),
        "tokens": float(torch.stack([step.sum() for step in timed]).mean()),
        "attended": float(torch.stack([step.square().sum() for step in timed]).mean()),
        "longest": int(torch.cat(timed).max()),
    }
    if not abs(result["ours"] - result["theirs"]) <= _LARGEST_DIFFERENCE:
        raise ValueError(f"the two sides are not the same model, so nothing was timed: {describe_losses(result)}")
    return result


def _their_loss_on(trainer: SentenceTransformerTrainer, pairs: Dataset) -> float:
    batch = trainer.data_collator(_in_columns(pairs).to_list())
    with torch.no_grad():
        loss: Any = trainer.compute_loss(trainer.model, batch)
    return loss.item()


def _same_texts(batch: dict[str, Any], columns: list[dict[str, torch.Tensor]]) -> bool:
    """Whether queries, documents, and the negatives of each in any order, which ours draws, are the same tokens."""
    texts = [tokens.tolist() for tokens in batch["input_ids"].split(batch["lengths"].tolist())]
    queries, documents = texts[: batch["num_queries"]], texts[batch["num_queries"] :]
    of_a_row = len(columns) - 1
    ours = [[query] for query in queries]
    for row, start in zip(ours, range(0, len(documents), of_a_row), strict=True):
        row += [documents[start], *sorted(documents[start + 1 : start + of_a_row])]
    padded = [zip(column["input_ids"], column["attention_mask"].bool(), strict=True) for column in columns]
    theirs = zip(*([ids[mask].tolist() for ids, mask in column] for column in padded), strict=True)
    return ours == [[query, document, *sorted(negatives)] for query, document, *negatives in theirs]


def describe_losses(same: dict[str, Any]) -> str:
    """A sentence on what `compare_sides` found."""
    return (
        f"Loss before training on {same['compared_pairs']} pairs: {same['ours']:.6f} (ours), {same['theirs']:.6f} "
        "(theirs)."
    )


def measure(workload: Workload, side: Side) -> Outcome:
    """Train with one side, in this process; see `measure_steps`."""
    torch.set_num_threads(workload.threads)
    return measure_steps(workload, (our_trainer if side.ours else their_trainer)(workload, side))


def our_trainer(workload: Workload, side: Side) -> ContrastiveTrainer:
    """Ours, with the whole batch as one chunk where the side is not GradCache."""
    args = ContrastiveConfig(
        **_settings(workload),
        query_max_length=workload.max_length,
        document_max_length=workload.max_length,
        global_batch_size=workload.pairs,
        num_hard_negatives=workload.negatives,
        chunk_tokens=side.tokens or _ALL_TOKENS,
        scale=SCALE,
        prompts=_PROMPTS,
    )
    return ContrastiveTrainer(
        model=NomicBertModel.from_pretrained(workload.directory / "model"),
        args=args,
        train_dataset=workload.load_pairs(),
        processing_class=AutoTokenizer.from_pretrained(workload.directory / "model", trust_remote_code=False),
    )


def their_trainer(workload: Workload, side: Side) -> SentenceTransformerTrainer:
    """Theirs, which is given the pairs in the order in which ours takes them."""
    with _native_classes():
        transformer = Transformer(
            str(workload.directory / "model"), processor_kwargs={"model_max_length": workload.max_length}
        )
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="mean"), Normalize()]
    model = SentenceTransformer(modules=modules, device=workload.device)
    args = SentenceTransformerTrainingArguments(
        **_settings(workload),
        per_device_train_batch_size=workload.pairs,
        prompts=_PROMPTS | dict.fromkeys(_negative_columns(workload.negatives), _PROMPTS["document"]),
        batch_sampler=_in_order,
    )
    pairs = workload.load_pairs()
    plan = BatchPlan({"pairs": len(pairs)}, workload.pairs, _SEED)
    order = np.concatenate([plan.batch(0, step)[1] for step in range(workload.all_steps)])
    return SentenceTransformerTrainer(
        model=model, args=args, train_dataset=_in_columns(pairs.select(order)), loss=_their_loss(model, side)
    )


def _in_columns(pairs: Dataset) -> Dataset:
    """With a column for each negative, as sentence-transformers reads them."""
    if "negatives" not in pairs.column_names:
        return pairs
    columns = zip(*pairs["negatives"], strict=True)
    for name, texts in zip(_negative_columns(len(pairs[0]["negatives"])), columns, strict=True):
        pairs = pairs.add_column(name, list(texts))
    return pairs.remove_columns("negatives")


def _negative_columns(count: int) -> list[str]:
    return [f"negative_{number + 1}" for number in range(count)]


def _their_loss(model: SentenceTransformer, side: Side) -> torch.nn.Module:
    if not side.cached:
        return MultipleNegativesRankingLoss(model, scale=SCALE)
    if side.texts is None:
        return CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_num_tokens=side.tokens)
    return CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=side.texts)


@contextmanager
def _native_classes() -> Iterator[None]:
    """The Auto classes as they are where our package is not imported."""
    AutoConfig.register(NativeConfig.model_type, NativeConfig, exist_ok=True)
    try:
        yield
    finally:
        AutoConfig.register(NomicBertConfig.model_type, NomicBertConfig, exist_ok=True)


def _in_order(dataset: Dataset, *arguments: Any, **options: Any) -> DefaultBatchSampler:
    return DefaultBatchSampler(SequentialSampler(dataset), *arguments, **options)


def _settings(workload: Workload) -> dict[str, Any]:
    """TrainingArguments of both sides: the paper's optimizer (§4.2.2) without its schedule."""
    return workload.arguments() | {
        "learning_rate": 2e-4,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",  # so that few steps change the loss, and a wrong gradient shows
    }
