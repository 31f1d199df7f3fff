"""Packing documents into blocks of one length for masked-language-model training (paper §4.1.1)."""

import itertools
import logging
from collections.abc import Iterable, Sequence

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 1_000


def pack_documents(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> datasets.Dataset:
    """Lay the tokens of all documents end to end and cut them into blocks.

    Each document carries its own special tokens ([CLS] ... [SEP]). Short documents share a block; a long one
    runs on into the next, where its continuation has no new [CLS]. Tokens after the last full block are
    dropped, and counted in the log. The blocks depend on the order of the documents and on nothing else.

    Args:
        texts: Documents, read once; shuffle them beforehand where their order carries meaning.
        tokenizer: Tokenizer of the model to be trained.
        block_size: Tokens in a block.

    Returns:
        A data set, held in memory, with the columns `input_ids` (`block_size` token ids) and
        `document_lengths` (token counts of the pieces of documents in the block, in order; they sum to
        `block_size`).

    Raises:
        ValueError: There are no documents, one is blank, or all of them together do not fill one block.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1 token, not {block_size}.")
    tokens = np.empty(0, dtype=np.int32)
    lengths = np.empty(0, dtype=np.int32)
    tables: list[pa.Table] = []
    num_documents = num_tokens = 0
    iterator = iter(texts)
    with tqdm(desc="Packing", unit="token", unit_scale=True) as progress:
        while batch := list(itertools.islice(iterator, _DOCUMENTS_AT_ONCE)):
            documents = _tokenize(batch, tokenizer, num_documents)
            new_lengths = np.array([len(document) for document in documents], dtype=np.int32)
            tokens = np.concatenate([tokens, *documents])
            lengths = np.concatenate([lengths, new_lengths])
            table, tokens, lengths = _cut_blocks(tokens, lengths, block_size)
            tables.append(table)
            num_documents += len(batch)
            num_tokens += int(new_lengths.sum())
            progress.update(int(new_lengths.sum()))
    if num_documents == 0:
        raise ValueError("there are no documents to pack; check the paths and filters of the corpus.")
    num_blocks = num_tokens // block_size
    if num_blocks == 0:
        raise ValueError(
            f"{num_documents} documents of {num_tokens} tokens in all do not fill one block of {block_size}; "
            "give more text or a smaller block_size."
        )
    logger.info(
        "Packed %d documents of %d tokens into %d blocks of %d; %d tokens at the end were dropped.",
        num_documents, num_tokens, num_blocks, block_size, len(tokens),
    )  # fmt: skip
    return datasets.Dataset(pa.concat_tables(tables))


def _tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, num_before: int) -> list[np.ndarray]:
    for position, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"document {num_before + position} (counted from 0) is blank; remove it.")
    # verbose=False: a document longer than the model's limit is expected here, since blocks split it.
    encoded = tokenizer(
        list(texts), return_attention_mask=False, return_token_type_ids=False, truncation=False, verbose=False
    )
    return [np.array(ids, dtype=np.int32) for ids in encoded["input_ids"]]


def _cut_blocks(tokens: np.ndarray, lengths: np.ndarray, block_size: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Cut off the full blocks; returns them, the remaining tokens and the lengths of the remaining pieces."""
    num_blocks = len(tokens) // block_size
    block_ends = np.arange(1, num_blocks + 1, dtype=np.int64) * block_size
    # Pieces end where a document ends and where a block ends.
    ends = np.union1d(np.cumsum(lengths, dtype=np.int64), block_ends)
    pieces = np.diff(ends, prepend=0).astype(np.int32)
    cut = int(np.searchsorted(ends, num_blocks * block_size, side="right"))
    offsets = np.concatenate([[0], np.searchsorted(ends, block_ends, side="right")]).astype(np.int32)
    table = pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(
                (np.arange(num_blocks + 1) * block_size).astype(np.int32), tokens[: num_blocks * block_size]
            ),
            "document_lengths": pa.ListArray.from_arrays(offsets, pieces[:cut]),
        }
    )
    return table, tokens[num_blocks * block_size :], pieces[cut:]
