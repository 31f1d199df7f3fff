"""Tokenizers: trained where bert-base-uncased's does not fit, and told apart by their hashes."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textfiles.atomic import atomic_directory

_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ALPHABET_SIZE = 1000  # characters that have tokens of their own, as by default in tokenizers


def train_tokenizer(texts: Sequence[str], vocab_size: int, directory: Path) -> None:
    """Train a lower-casing WordPiece tokenizer that writes [CLS] ... [SEP], as bert-base-uncased's, and save it.

    The same texts give the same vocabulary in every run.

    Args:
        texts: what to train on, read twice.
        vocab_size: tokens, the five special ones among them.
        directory: where to; it appears whole or not at all.
    """
    trained = BertWordPieceTokenizer(lowercase=True)
    alphabet, continuations = _characters(trained, texts)
    # Of pairs that are equally frequent the trainer merges the one with the lowest ids, and it numbers continuations
    # ("##a") in the order of a hash map, which differs from run to run. As special tokens they are numbered as listed.
    trained.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL_TOKENS, *continuations],
        limit_alphabet=_ALPHABET_SIZE,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    wordpiece = BertWordPieceTokenizer(vocab=trained.get_vocab(), lowercase=True)  # where only five are special
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece._tokenizer, model_max_length=8192, **names)
    with atomic_directory(directory) as files:
        tokenizer.save_pretrained(files)


def _characters(wordpiece: BertWordPieceTokenizer, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The most frequent characters, and as "##x" those of them that continue a word, each in a fixed order."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        for word, _ in wordpiece.pre_tokenizer.pre_tokenize_str(wordpiece.normalizer.normalize_str(text)):
            counts.update(word)
            inside.update(word[1:])
    alphabet = sorted(counts, key=lambda character: (-counts[character], character))[:_ALPHABET_SIZE]
    return alphabet, [f"##{character}" for character in alphabet if character in inside]


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer in the JSON form of `tokenizers`, without truncation and padding, as `PackingPlan` wants it.

    Raises:
        ValueError: the tokenizer is not of the fast kind, or marks no document with special tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer; packing needs one (tokenizer.json).")
    if tokenizer.num_special_tokens_to_add() == 0:
        raise ValueError(
            f"{tokenizer.name_or_path}: this tokenizer puts no special tokens around a text ([CLS] ... [SEP]), so no "
            "document could be told from the next; give its tokenizer.json a post_processor that does."
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def tokenizer_hash(tokenizer: str) -> str:
    """SHA-256 of a tokenizer's JSON form."""
    return hashlib.sha256(tokenizer.encode()).hexdigest()


def vocabulary_hash(tokenizer: str) -> str:
    """SHA-256 of the tokens and their ids: what a model that is trained on packed blocks must share."""
    vocabulary = sorted(Tokenizer.from_str(tokenizer).get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
