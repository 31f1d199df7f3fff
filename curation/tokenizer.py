"""A tokenizer of one's own, for a language or a scale that bert-base-uncased's does not fit."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from nomic_bert.embedder import atomic_directory


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
