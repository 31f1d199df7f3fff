"""Tokenizers: training one where bert-base-uncased's does not fit, and telling one from another."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textfiles.atomic import atomic_directory


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: Path) -> None:
    """Train a lower-casing WordPiece tokenizer that writes [CLS] ... [SEP], as bert-base-uncased's, and save it.

    Args:
        texts: What to train on, read once.
        vocab_size: Tokens, the five special ones among them.
        directory: Where to; it appears whole or not at all.
    """
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    # tokenizers adds [CLS] ... [SEP] by itself only where a vocabulary is given, not where one is trained
    wordpiece.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, wordpiece.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece._tokenizer, model_max_length=8192, **names)
    with atomic_directory(directory) as files:
        tokenizer.save_pretrained(files)


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer in the JSON form of `tokenizers`, without truncation and padding, as `PackingPlan` wants it.

    Raises:
        ValueError: The tokenizer is not of the fast kind, or marks no document with special tokens.
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
