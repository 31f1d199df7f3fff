"""Masked accuracy and perplexity of whole texts, read in blocks of several lengths.

Each text is tokenized once and cut at every length from the same masked copy, so that lengths, models and settings
are compared on the same masked tokens, token by token.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from nomic_bert import NomicBertForMaskedLM
from trainers.collators import MaskedLMCollator
from trainers.sampling import SourceBatch

_TOKENS_AT_ONCE = 16_384
_MASKED_SHARE = 0.15  # paper §4.1: 30 % in training, BERT's 15 % to evaluate, as trainers.MLMConfig does


@dataclass(frozen=True)
class MaskedText:
    """Texts as blocks of the longest length, masked once, which can be cut into shorter blocks.

    A text's tokens, [CLS] first, are cut at every multiple of the longest length; an incomplete last block is left
    out. A block of length L begins with [CLS], written over the token that stands there; so k blocks of L hold the
    text of one block of k x L but for k - 1 tokens, which only the longer block sees. Tokens that stand at a multiple
    of the shortest length are never masked: the masked tokens, and what they are replaced by, are the same at every
    length.

    Attributes:
        lengths: ascending; each is a multiple of the first and divides the last.
        tokens: (blocks, longest) token ids before masking.
        inputs: (blocks, longest) after masking, with [CLS] at every multiple of the shortest length.
        labels: (blocks, longest) the id to predict, -100 where nothing is masked.
    """

    lengths: tuple[int, ...]
    tokens: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        lengths: Sequence[int],
        blocks_per_text: int | None = None,
    ) -> "MaskedText":
        """Tokenize texts and mask 15 % of them, with the collator and the fixed masks of the trainer's evaluation.

        Args:
            texts: whole texts, such as books.
            tokenizer: of the model.
            lengths: tokens in a block, [CLS] included.
            blocks_per_text: at most so many of the longest blocks of each text, spread evenly; None: all.

        Raises:
            ValueError: the tokenizer writes no [CLS] before a text, the lengths do not fit into one another, or the
                texts do not fill two blocks of the longest.
        """
        if tokenizer("text")["input_ids"][0] != tokenizer.cls_token_id:
            raise ValueError(
                "the tokenizer writes no [CLS] before a text, but every block here begins with it: the model has not "
                "learned it. Train the tokenizer with recipes/quickstart_corpus.py, pack and train again."
            )
        lengths = tuple(sorted(set(lengths)))
        shortest, longest = lengths[0], lengths[-1]
        if shortest < 2 or any(length % shortest or longest % length for length in lengths):
            raise ValueError(f"lengths {lengths}: each must be a multiple of the shortest and divide the longest.")
        blocks = [_cut(text, tokenizer, longest, blocks_per_text) for text in texts]
        tokens = np.concatenate([np.empty((0, longest), np.int64), *blocks])
        if len(tokens) < 2:  # standard errors need two
            raise ValueError(
                f"the texts fill {len(tokens)} blocks of {longest:,} tokens; give longer texts or shorter lengths."
            )
        starting = tokens.copy()
        starting[:, ::shortest] = tokenizer.cls_token_id
        rows = datasets.Dataset.from_dict({"input_ids": starting, "document_lengths": [[longest]] * len(starting)})
        collator = MaskedLMCollator(tokenizer, _MASKED_SHARE, fixed_masks=True)
        masked = collator(SourceBatch("held-out text", rows, np.arange(len(rows)), epoch=0))
        return cls(lengths, tokens, masked["input_ids"].numpy(), masked["labels"].numpy())

    def blocks(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels at one of the lengths, (blocks, length) each, in the order of the text."""
        if length not in self.lengths:
            raise ValueError(f"length {length}: the text was masked for {self.lengths}; name it there.")
        inputs = self.inputs.copy()
        starts = np.arange(0, self.lengths[-1], self.lengths[0])
        inside = starts[starts % length != 0]
        inputs[:, inside] = self.tokens[:, inside]
        return inputs.reshape(-1, length), self.labels.reshape(-1, length)


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, length: int, at_most: int | None) -> np.ndarray:
    """Full blocks of a text, (blocks, length)."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    ids = np.array([tokenizer.cls_token_id, *ids], dtype=np.int64)
    blocks = ids[: len(ids) // length * length].reshape(-1, length)
    if at_most is None or len(blocks) <= at_most:
        return blocks
    return blocks[np.linspace(0, len(blocks) - 1, at_most).round().astype(int)]


@dataclass(frozen=True)
class Scores:
    """What one model predicted of every masked token, in the order of the text, (masked,) each.

    Attributes:
        hits: whether the token was predicted.
        losses: its negative log-likelihood, in nats.
        groups: the block of the longest length that it stands in. Standard errors are over these, since tokens of
            one passage are not independent, and so are the same passages at every length.
        positions: its place in the block that the model read, counted from 0.
    """

    hits: np.ndarray
    losses: np.ndarray
    groups: np.ndarray
    positions: np.ndarray

    def summary(self) -> dict[str, float]:
        """`masked_tokens`, `accuracy`, `accuracy_se`, `loss`, `loss_se` and `perplexity` over all masked tokens."""
        accuracy, accuracy_se = grouped_mean(self.hits, self.groups)
        loss, loss_se = grouped_mean(self.losses, self.groups)
        return {
            "masked_tokens": len(self.hits),
            "accuracy": accuracy,
            "accuracy_se": accuracy_se,
            "loss": loss,
            "loss_se": loss_se,
            "perplexity": math.exp(min(loss, 700.0)),
        }

    def by_position(self, width: int) -> list[dict[str, float]]:
        """Accuracy by place in the block, in buckets of `width` tokens: `start`, `masked_tokens`, `accuracy(_se)`."""
        buckets = self.positions // width
        rows = []
        for bucket in np.unique(buckets).tolist():
            inside = buckets == bucket
            accuracy, error = grouped_mean(self.hits[inside], self.groups[inside])
            count = int(inside.sum())
            rows.append({"start": bucket * width, "masked_tokens": count, "accuracy": accuracy, "accuracy_se": error})
        return rows


def accuracy_difference(scores: Scores, baseline: Scores) -> tuple[float, float]:
    """Accuracy of `scores` less that of `baseline` on the same masked tokens, and the standard error of that.

    Raises:
        ValueError: the two were scored on different text.
    """
    if not np.array_equal(scores.groups, baseline.groups):
        raise ValueError("the two were not scored on the same masked tokens, so they cannot be compared in pairs.")
    return grouped_mean(scores.hits.astype(float) - baseline.hits, scores.groups)


def grouped_mean(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Mean of values (n,) and its standard error over the groups that they belong to (n,).

    Groups may differ in size, so it is the error of a ratio of two sums; NaN where there is one group only.
    """
    values = values.astype(float)
    mean = float(values.mean())
    _, group = np.unique(groups, return_inverse=True)
    deviations = np.bincount(group, weights=values - mean)
    count = len(deviations)
    if count == 1:
        return mean, math.nan
    return mean, math.sqrt(float((deviations**2).sum()) * count / (count - 1)) / len(values)


@torch.no_grad()
def score_model(
    model: NomicBertForMaskedLM, text: MaskedText, length: int, tokens_at_once: int = _TOKENS_AT_ONCE
) -> Scores:
    """Score a model on blocks of one length, with attention over the whole block.

    Args:
        model: on the device to compute on, in evaluation mode.
        text: what to predict.
        length: one of the text's lengths.
        tokens_at_once: tokens in a batch; a block longer than that is a batch of its own.
    """
    inputs, labels = text.blocks(length)
    hits, losses = [], []
    at_once = max(1, tokens_at_once // length)
    with tqdm(total=inputs.size, desc=f"Blocks of {length:,}", unit="token", unit_scale=True) as progress:
        for start in range(0, len(inputs), at_once):
            batch = torch.from_numpy(inputs[start : start + at_once]).to(model.device)
            targets = torch.from_numpy(labels[start : start + at_once]).to(model.device)
            logits = model(input_ids=batch, labels=targets).logits.float()
            targets = targets[targets != -100]
            losses.append(F.cross_entropy(logits, targets, reduction="none").cpu().numpy())
            hits.append((logits.argmax(dim=-1) == targets).cpu().numpy())
            progress.update(batch.numel())
    return Scores(np.concatenate(hits), np.concatenate(losses).astype(float), *_places(text, length))


def _places(text: MaskedText, length: int) -> tuple[np.ndarray, np.ndarray]:
    groups, places = np.nonzero(text.labels != -100)
    return groups, places % length


class Unigram:
    """Predicts each token by its frequency in the training text, add-one smoothed over the ordinary tokens.

    Args:
        documents: token ids of the training text.
        tokenizer: its special tokens are neither counted nor predicted.

    Raises:
        ValueError: there are no ordinary tokens.
    """

    def __init__(self, documents: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> None:
        counts = np.zeros(len(tokenizer), dtype=np.int64)
        for ids in documents:
            counts += np.bincount(ids, minlength=len(counts))
        ordinary = ~np.isin(np.arange(len(counts)), tokenizer.all_special_ids)
        if not counts[ordinary].any():
            raise ValueError("the training text has no tokens to fit the unigram model on.")
        smoothed = np.where(ordinary, counts + 1, 0)
        with np.errstate(divide="ignore"):
            self.log_probabilities = np.log(smoothed / smoothed.sum())

    def score(self, text: MaskedText) -> Scores:
        """Score the masked tokens of a text; positions are those in the longest blocks."""
        targets = text.labels[text.labels != -100]
        hits = targets == self.log_probabilities.argmax()
        return Scores(hits, -self.log_probabilities[targets], *_places(text, text.lengths[-1]))
