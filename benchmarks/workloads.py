"""What benchmarks work on: models of three sizes, a tokenizer, and text."""

import random
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from curation.tokenizer import train_tokenizer
from recipes.quickstart_text.docstrings import read_docstrings
from textfiles.rows import read_rows

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {},  # NomicBertConfig's defaults: 137M parameters
}
PACKAGES = ("torch", "transformers")  # whose documentation is the text where none is given
VOCAB_SIZE = 30528  # paper §4.1.2: rows of the model, whatever tokenizer is given
SIZE_HELP = "tiny: 2 layers of 128; small: 6 of 384; base: 137M parameters"
TOKENIZER_HELP = "directory, hub name or vocab.txt; default: a WordPiece tokenizer trained on the text"


def load_tokenizer(given: str | None, texts: Sequence[str], directory: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer, or train one on the texts.

    Args:
        given: a directory, hub name or vocab.txt; None: train one.
        texts: to train on.
        directory: where a trained tokenizer is written.

    Raises:
        ValueError: it has more tokens than the model has rows.
    """
    if given is None:
        train_tokenizer(texts, VOCAB_SIZE, directory)
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    loaded = (
        BertTokenizer(vocab=given)
        if given.endswith(".txt")
        else AutoTokenizer.from_pretrained(given, trust_remote_code=False)
    )
    if len(loaded) > VOCAB_SIZE:
        raise ValueError(f"--tokenizer {given}: {len(loaded):,} tokens; the model has rows for {VOCAB_SIZE:,}.")
    return loaded


def read_texts(files: Sequence[str]) -> tuple[list[str], str]:
    """Distinct texts in random order by a fixed seed, and where they are from.

    Args:
        files: .jsonl or .jsonl.gz with `document` or `text`; none: documentation strings of installed packages.

    Raises:
        ValueError, OSError: a file cannot be read, adds no text, or a row has neither column as text; names it.
    """
    texts: dict[str, None] = {}
    for file in files:
        before = len(texts)
        for where, row in read_rows(Path(file), ()):
            text = row.get("document", row.get("text"))
            if not isinstance(text, str):
                raise ValueError(f"{where}: neither `document` nor `text` is a text; correct the row.")
            if text.strip():
                texts[text] = None
        if len(texts) == before:
            raise ValueError(f"{file} adds no text; leave it out.")
    if not files:
        texts = dict.fromkeys(found["text"] for found in read_docstrings(PACKAGES))
    shuffled = list(texts)
    random.Random(0).shuffle(shuffled)  # neighbours are alike, and of like lengths
    source = ", ".join(Path(file).name for file in files) or f"documentation strings of {' and '.join(PACKAGES)}"
    return shuffled, source
