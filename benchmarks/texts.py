"""What benchmarks read where no text is given, and the tokenizer that they read it with."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from curation.tokenizer import train_tokenizer

PACKAGES = ("torch", "transformers")  # whose documentation is the text where none is given
VOCAB_SIZE = 30528  # paper §4.1.2: the model has as many rows whatever tokenizer is given


def load_tokenizer(given: str | None, texts: Sequence[str], directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer given as a directory, hub name or vocab.txt; None: one trained on the texts, in `directory`.

    Raises:
        ValueError: it has more tokens than the model has rows.
    """
    if given is None:
        train_tokenizer(texts, VOCAB_SIZE, directory)
        return AutoTokenizer.from_pretrained(directory)
    loaded = BertTokenizer(vocab=given) if given.endswith(".txt") else AutoTokenizer.from_pretrained(given)
    if len(loaded) > VOCAB_SIZE:
        raise ValueError(f"--tokenizer {given}: {len(loaded):,} tokens; the model has rows for {VOCAB_SIZE:,}.")
    return loaded
