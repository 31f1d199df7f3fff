"""Texts tokenized once, ahead of the model, and put together in batches sized in tokens rather than in texts."""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, compress
from typing import Any, cast

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_CHARACTERS_AT_ONCE = 1_000_000  # tokenized together: several batches, and less than a second
_CHARACTERS_OF_A_TEXT = 16  # counted for every text besides its own, so that a block of short ones is bounded too

Tokens = dict[str, list[int]]  # as the tokenizer names them: input_ids, ...
Batch = list[tuple[int, Tokens]]  # with the number of each text

# A tokenizer keeps the truncation and padding of its last call, so a thread in `encode` would change those of another.
_own_tokenizers: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, PreTrainedTokenizerBase]] = (
    weakref.WeakKeyDictionary()
)


def token_batches(
    embedder: SentenceTransformer,
    texts: list[str],
    prompt: str,
    tokens_per_batch: int,
    packed: bool,
    truncated: set[int] | None,
) -> Iterator[Batch]:
    """Tokenize texts as `embedder.encode` does, and divide them among batches.

    On a GPU the next texts are tokenized while it computes.

    Args:
        embedder: whose tokenizer is one of transformers.
        texts: any number.
        prompt: put before each.
        tokens_per_batch: most tokens of a batch; a longer text is a batch by itself.
        packed: texts share a row; else they are padded, which counts, and need masks.
        truncated: the numbers of texts that lost tokens are added before their batch comes; None: they are not known.

    Returns:
        Batches, the longest texts first: if one is too large for the memory, it is the first.
    """
    return _batches(_tokenized(embedder, texts, prompt, packed, truncated), tokens_per_batch, packed)


def _tokenized(
    embedder: SentenceTransformer, texts: list[str], prompt: str, packed: bool, truncated: set[int] | None
) -> Iterator[Batch]:
    """Blocks of tokenized texts, the longest first."""
    tokenizer = _own_tokenizer(cast(PreTrainedTokenizerBase, embedder.tokenizer))
    ids_alone = packed and _calls_backend(tokenizer)

    def tokenize(numbers: list[int]) -> Batch:
        prompted = [prompt + texts[number] for number in numbers]
        if ids_alone:  # without transformers' lists of all else, and the offsets of tokens, in two thirds of the time
            encodings = cast(Any, tokenizer).backend_tokenizer.encode_batch_fast(prompted)
            each = [{"input_ids": encoding.ids} for encoding in encodings]
        else:
            found = tokenizer(prompted, truncation="longest_first")
            encodings, columns = found.encodings, found.data  # iterating over a BatchEncoding itself is slow
            each = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if truncated is not None:
            if encodings is None:  # a tokenizer in Python
                lost = [_loses_tokens(tokenizer, *text) for text in zip(prompted, each, strict=True)]
            else:
                lost = [bool(encoding.overflowing) for encoding in encodings]
            truncated.update(compress(numbers, lost))
        return sorted(zip(numbers, each, strict=True), key=length_of, reverse=True)

    blocks = _blocks([len(prompt) + len(text) + _CHARACTERS_OF_A_TEXT for text in texts])
    return map(tokenize, blocks) if embedder.device.type == "cpu" else _one_ahead(tokenize, blocks)


def _calls_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether calling the tokenizer is transformers' own call of the library tokenizers, and nothing of a subclass."""
    kind, plain = type(tokenizer), PreTrainedTokenizerFast
    return issubclass(kind, plain) and (kind.__call__, kind._encode_plus) == (plain.__call__, plain._encode_plus)


def _loses_tokens(tokenizer: PreTrainedTokenizerBase, text: str, kept: Tokens) -> bool:
    most = tokenizer.model_max_length
    return len(kept["input_ids"]) >= most and len(tokenizer(text, verbose=False)["input_ids"]) > most


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that calls of the given tokenizer do not change; made again when the given one has been changed itself."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [getattr(backend, part, None) for part in ("normalizer", "pre_tokenizer", "post_processor")]
    state = (
        len(tokenizer),
        tokenizer.model_max_length,
        tokenizer.truncation_side,
        *(part and part.__getstate__() for part in parts),
    )
    known = _own_tokenizers.get(tokenizer)
    if known is None or known[0] != state:
        own = copy.deepcopy(tokenizer)
        own([""], truncation="longest_first")  # sets truncation and padding, before several threads use it
        known = _own_tokenizers[tokenizer] = state, own
    return known[1]


def length_of(text: tuple[int, Tokens]) -> int:
    """Tokens of one of a batch."""
    return len(text[1]["input_ids"])


def _blocks(characters: list[int]) -> Iterator[list[int]]:
    """Numbers of texts, those with most characters first, as many as are tokenized together."""
    block: list[int] = []
    total = 0
    for number in np.argsort(-np.array(characters), kind="stable").tolist():
        block.append(number)
        total += characters[number]
        if total >= _CHARACTERS_AT_ONCE:
            yield block
            block, total = [], 0
    if block:
        yield block


def _one_ahead(function: Callable[[list[int]], Batch], items: Iterable[list[int]]) -> Iterator[Batch]:
    """`map`, with the next result computed in a thread while one is used; tokenizers let go of Python's lock."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = None
        for item in items:
            following = thread.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _batches(blocks: Iterable[Batch], tokens_per_batch: int, packed: bool) -> Iterator[Batch]:
    """Cut the stream of texts where the tokens of a batch, or with padding its longest text times texts, are enough."""
    batch: Batch = []
    total = longest = 0
    for text in chain.from_iterable(blocks):
        length = length_of(text)
        total, longest = total + length, max(longest, length)
        if batch and (total if packed else longest * (len(batch) + 1)) > tokens_per_batch:
            yield batch
            batch, total, longest = [], length, length
        batch.append(text)
    if batch:
        yield batch
