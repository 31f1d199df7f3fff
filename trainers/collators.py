"""Rows to tensors without padding: masked blocks for stage 1, tokenized pairs for stages 2 and 3.

Random choices are keyed by (seed, epoch, row), never drawn from a global generator: they do not depend on workers,
ranks, accumulation or interruptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .sampling import SourceBatch

_TEXTS_AT_ONCE = 512  # what a tokenizer keeps of a text, such as the part cut off, is many times its tokens
_NAME_THEM = "name its special tokens (pad_token, cls_token, sep_token, ...) in its tokenizer_config.json"
_MASKED_SHARE, _RANDOM_SHARE = 0.8, 0.1  # contrastors@613ddfd, as BERT: of the chosen tokens; the rest stay


@dataclass(frozen=True)
class MaskedLMCollator:
    """Masks tokens of packed blocks: 80 % become the mask token, 10 % a random token, 10 % stay.

    Expects the column `input_ids` (a block). Where attention stays inside documents it reads `document_lengths` too
    (tokens of each document piece in the block); without that column, as in the authors' data set, a document starts
    at each [CLS]. Special tokens are never chosen, and random tokens come from the tokenizer's vocabulary, not from
    padding rows of the embedding.

    Attributes:
        tokenizer: must have a mask token, and a [CLS] token where documents are to be found by it.
        mlm_probability: chance of each ordinary token to be chosen.
        attend_across_documents: whether attention runs over whole blocks (the authors' code) or stays inside each
            document, with positions that restart.
        seed: of the masks.
        fixed_masks: the same masks in every epoch, for evaluation.
    """

    tokenizer: PreTrainedTokenizerBase
    mlm_probability: float = 0.30
    attend_across_documents: bool = True
    seed: int = 0
    fixed_masks: bool = False

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("The tokenizer has no mask token: masked language modelling needs one.")
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                "The tokenizer has no padding token, without which the model could embed no two texts of different "
                f"lengths; {_NAME_THEM}."
            )
        empty = self.tokenizer("", return_special_tokens_mask=True)
        around = [id for id, special in zip(empty["input_ids"], empty["special_tokens_mask"], strict=True) if special]
        if unknown := set(around) - set(self.tokenizer.all_special_ids):
            tokens = ", ".join(sorted(self.tokenizer.convert_ids_to_tokens(list(unknown))))
            raise ValueError(
                f"The tokenizer puts {tokens} around every text and does not count them as special tokens, so they "
                f"would be masked and predicted; {_NAME_THEM}."
            )
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"mlm_probability must lie between 0 and 1, got {self.mlm_probability}.")

    def __call__(self, batch: SourceBatch) -> dict[str, Any]:
        """Mask and lay out a batch.

        Returns:
            `input_ids` and `labels` (-100 where nothing is to be predicted): (blocks, tokens) where attention runs
            over whole blocks of one length, else one packed row (1, total) with `cu_seq_lens_q` and `max_length_q`.

        Raises:
            ValueError: an empty block, or document lengths that do not add up to the block; names source and row.
        """
        columns = batch.columns()
        blocks = [np.array(ids, dtype=np.int64) for ids in columns["input_ids"]]
        epoch = 0 if self.fixed_masks else batch.epoch
        masked, lengths = [], []
        for place, (row, ids) in enumerate(zip(batch.rows.tolist(), blocks, strict=True)):
            if not len(ids):
                raise ValueError(f"Source {batch.source!r}, row {row}: the block is empty. Leave it out.")
            masked.append(self._mask(ids, epoch, row))
            if self.attend_across_documents:
                lengths.append(len(ids))
            elif "document_lengths" in columns:
                lengths += _checked_lengths(columns["document_lengths"][place], len(ids), batch.source, row)
            else:
                starts = np.flatnonzero(ids[1:] == self.tokenizer.cls_token_id) + 1
                lengths += np.diff([0, *starts, len(ids)]).tolist()
        inputs, labels = (np.concatenate(parts) for parts in zip(*masked, strict=True))
        if self.attend_across_documents and len(set(lengths)) == 1:
            shape = (len(lengths), lengths[0])
            return {
                "input_ids": torch.from_numpy(inputs).view(shape),
                "labels": torch.from_numpy(labels).view(shape),
            }
        return {
            "input_ids": torch.from_numpy(inputs)[None],
            "labels": torch.from_numpy(labels)[None],
            "cu_seq_lens_q": torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32),
            "max_length_q": max(lengths),
        }

    @cached_property
    def _special_ids(self) -> np.ndarray:
        return np.array(sorted(set(self.tokenizer.all_special_ids)))

    @cached_property
    def _ordinary_ids(self) -> np.ndarray:
        return np.setdiff1d(np.array(sorted(self.tokenizer.get_vocab().values())), self._special_ids)

    def _mask(self, ids: np.ndarray, epoch: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of one block, (tokens,) each."""
        random = np.random.default_rng([self.seed, epoch, row])
        chosen = (random.random(len(ids)) < self.mlm_probability) & ~np.isin(ids, self._special_ids)
        fate = random.random(len(ids))
        replacements = random.choice(self._ordinary_ids, len(ids))
        randomized = chosen & (fate >= _MASKED_SHARE) & (fate < _MASKED_SHARE + _RANDOM_SHARE)
        inputs = np.where(chosen & (fate < _MASKED_SHARE), self.tokenizer.mask_token_id, ids)
        return np.where(randomized, replacements, inputs), np.where(chosen, ids, -100)


def _checked_lengths(documents: list[int], tokens: int, source: str, row: int) -> list[int]:
    if sum(documents) == tokens:
        return documents
    raise ValueError(
        f"Source {source!r}, row {row}: document_lengths add up to {sum(documents)} tokens, the block has {tokens}. "
        "Pack the corpus again, or set attend_across_documents."
    )


@dataclass(frozen=True)
class PairCollator:
    """Tokenizes queries, documents and hard negatives of one source, with its prefixes (paper §4.2.2).

    Expects columns `query`, `document` and, where hard negatives are wanted, `negatives` (a list of texts).

    Attributes:
        tokenizer: a fast tokenizer.
        prompts: source -> {"query": prefix, "document": prefix}; hard negatives take the document's.
        query_max_length: tokens, special tokens and prefix included; longer queries are cut at the end.
        document_max_length: likewise for documents and hard negatives.
        num_hard_negatives: per row, drawn anew each epoch.
        seed: of the draw.
        with_keys: whether to tell equal documents.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Mapping[str, Mapping[str, str]]
    query_max_length: int
    document_max_length: int
    num_hard_negatives: int = 0
    seed: int = 0
    with_keys: bool = False

    def __post_init__(self) -> None:
        for source, prompts in self.prompts.items():
            for side, length in {"query": self.query_max_length, "document": self.document_max_length}.items():
                taken = len(self.tokenizer(prompts[side])["input_ids"])
                if taken >= length:
                    raise ValueError(
                        f"{side}_max_length {length} leaves no token for the texts of source {source!r}: the prefix "
                        f"{prompts[side]!r} and the special tokens take {taken}."
                    )

    def __call__(self, batch: SourceBatch) -> dict[str, Any]:
        """Tokenize a batch.

        Returns:
            `input_ids` (total_tokens,) of all texts one after the other: the queries, then row by row the document
            and its hard negatives. `lengths` (texts,); `num_queries`; `source`; and `truncated`, float32 (2,): the
            share of queries and of documents that were cut. With `with_keys`, `document_keys` (documents,) int64: equal
            for documents and hard negatives that are token by token the same, as far as they are read.

        Raises:
            ValueError: a text that is empty or no string, or a row without hard negatives where they are wanted;
                names source, row and column.
        """
        columns = batch.columns()
        prompts = self.prompts[batch.source]
        queries, documents = [], []
        for place, row in enumerate(batch.rows.tolist()):
            query, document = columns["query"][place], columns["document"][place]
            queries.append(_checked(query, batch.source, row, "query"))
            documents.append(_checked(document, batch.source, row, "document"))
            if self.num_hard_negatives:
                documents += self._draw_negatives(batch, row, document, columns["negatives"][place])
        query_ids, queries_cut = self._tokenize(queries, prompts["query"], self.query_max_length)
        document_ids, documents_cut = self._tokenize(documents, prompts["document"], self.document_max_length)
        texts = query_ids + document_ids
        keys = {"document_keys": torch.tensor([_key(ids) for ids in document_ids])} if self.with_keys else {}
        return {
            **keys,
            "input_ids": torch.from_numpy(np.concatenate(texts)),
            "lengths": torch.tensor([len(ids) for ids in texts]),
            "num_queries": len(queries),
            "source": batch.source,
            "truncated": torch.tensor([queries_cut, documents_cut]),
        }

    def _tokenize(self, texts: list[str], prefix: str, max_length: int) -> tuple[list[np.ndarray], float]:
        """Token ids of each text, and the share of texts that were cut."""
        found: list[np.ndarray] = []
        cut = 0
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            encoded = self.tokenizer(
                [prefix + text for text in texts[start : start + _TEXTS_AT_ONCE]],
                truncation=True,
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            cut += sum(bool(encoding.overflowing) for encoding in encoded.encodings or ())
            found += [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]
        return found, cut / len(texts)

    def _draw_negatives(self, batch: SourceBatch, row: int, document: str, mined: list[str] | None) -> list[str]:
        """Draw from a row's list without replacement; fill a short list with documents of the source's other rows.

        The row's own document is no negative, even where a list holds it, and no text is taken twice.
        """
        candidates = list(dict.fromkeys(mined or ()))
        for text in candidates:
            _checked(text, batch.source, row, "negatives")
        candidates = [text for text in candidates if text != document]
        if not candidates:
            raise ValueError(
                f"Source {batch.source!r}, row {row}, column 'negatives': no hard negative other than the row's own "
                f"document, but num_hard_negatives is {self.num_hard_negatives}. Mine some, leave the row out, or "
                "set num_hard_negatives to 0."
            )
        random = np.random.default_rng([self.seed, batch.epoch, row])
        drawn = [candidates[place] for place in random.permutation(len(candidates))[: self.num_hard_negatives]]
        attempts = 0
        while len(drawn) < self.num_hard_negatives:
            other = int(random.integers(len(batch.dataset)))
            text = _checked(batch.dataset[other]["document"], batch.source, other, "document")
            if text != document and text not in drawn:
                drawn.append(text)
            attempts += 1
            if attempts > 100 * self.num_hard_negatives:
                raise ValueError(
                    f"Source {batch.source!r}, row {row}: too few distinct documents in the source to fill "
                    f"{self.num_hard_negatives} hard negatives."
                )
        return drawn


def _key(ids: np.ndarray) -> int:
    """64 bits of a text's tokens, the same in every process."""
    return int.from_bytes(blake2b(ids.tobytes(), digest_size=8).digest(), "little", signed=True)


def _checked(text: Any, source: str, row: int, column: str) -> str:
    if isinstance(text, str) and text.strip():
        return text
    what = "an empty text" if isinstance(text, str) else f"{type(text).__name__} where a text belongs"
    raise ValueError(f"Source {source!r}, row {row}, column {column!r}: {what}. Correct the row or leave it out.")
