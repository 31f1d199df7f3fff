"""Proof that a directory gives the checkpoint's own embeddings in every reader that runs here."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nomic_bert import NomicBertConfig
from nomic_bert.prompts import PROMPTS

from .readers import ONNX_READERS, READERS, Probe, Reader, read_embeddings

_SHORT, _MIDDLE = 5, 500  # tokens


@dataclass(frozen=True)
class Agreement:
    """How far one reader is from the checkpoint.

    Attributes:
        reader: which.
        versions: package -> version that read.
        lengths: of the texts that were compared, in tokens.
        difference: largest of any component of any embedding at unit length.
    """

    reader: Reader
    versions: dict[str, str]
    lengths: tuple[int, ...]
    difference: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= self.reader.tolerance


def probe_lengths(config: NomicBertConfig, max_seq_length: int) -> list[int]:
    """Short, middle, the trained length, one more, and the longest text, in tokens; each once, rising."""
    trained = config.max_trained_positions
    wanted = (_SHORT, _MIDDLE, trained, trained + 1, max_seq_length)
    return sorted({length for length in wanted if length <= max_seq_length})


def make_probes(tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int]) -> list[Probe]:
    """One text of each length, of words that are one token each, in a fixed random order; and one with a prefix.

    Raises:
        ValueError: the tokenizer has no words that stay one token each.
    """
    words = _whole_words(tokenizer)
    probes = [Probe(_text_of(tokenizer, words, length, ""), length) for length in lengths]
    name, middle = "query", lengths[len(lengths) // 2]
    prefix = PROMPTS[name]
    return [*probes, Probe(_text_of(tokenizer, words, middle, prefix), middle, prefix, name)]


def _whole_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    special = set(tokenizer.all_special_tokens)
    bare = len(tokenizer("")["input_ids"])
    known = sorted(word for word in tokenizer.get_vocab() if word.isalnum() and word not in special)
    drawn = random.Random(0).sample(known, min(len(known), 2_000))
    words = [word for word in drawn if len(tokenizer(f"{word} {word}")["input_ids"]) == bare + 2]
    if not words:
        raise ValueError("the tokenizer splits every word of its vocabulary, so texts of known length cannot be made.")
    return words


def _text_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], length: int, prefix: str) -> str:
    frame = len(tokenizer(prefix)["input_ids"])
    text = " ".join(random.Random(length).choices(words, k=max(length - frame, 1)))
    tokens = len(tokenizer(prefix + text, truncation=False)["input_ids"])
    if tokens != max(length, frame + 1):
        raise ValueError(f"a text of {length} tokens came out as {tokens}: the tokenizer joins words.")
    return text


def verify_directory(directory: Path, embedder: SentenceTransformer) -> Iterator[Agreement]:
    """Compare every reader of a directory with the embedder that it was written from.

    Each text is embedded alone; those within the trained length are then embedded as one batch too, where an
    embedding must be the same.

    Args:
        directory: as written by `publishing.directory`.
        embedder: the checkpoint, in float32.

    Raises:
        ValueError: a reader failed, or the tokenizer makes no texts of known lengths.
    """
    config = cast(NomicBertConfig, cast(PreTrainedModel, embedder[0].auto_model).config)
    probes = make_probes(embedder.tokenizer, probe_lengths(config, int(embedder.max_seq_length or config.n_positions)))
    expected = np.stack([embedder.encode(probe.full_text, batch_size=1) for probe in probes])
    readers = [*READERS, *(reader for file, reader in ONNX_READERS.items() if (directory / file).is_file())]
    within = [n for n, probe in enumerate(probes) if probe.tokens <= config.max_trained_positions]
    with tqdm(total=len(readers), unit="reader", desc="Verifying", leave=False) as progress:
        for code in dict.fromkeys(reader.code for reader in readers):
            alike = [reader for reader in readers if reader.code == code]
            read = within if alike[0].trained_length_only else list(range(len(probes)))
            together = [read.index(n) for n in within]
            wanted, lengths = expected[[*read, *within]], tuple(sorted({probes[n].tokens for n in read}))
            found = read_embeddings(alike, directory, [probes[n] for n in read], together)
            for reader, (embeddings, versions) in zip(alike, found, strict=True):
                yield Agreement(reader, versions, lengths, _largest_difference(embeddings, wanted))
                progress.update()


def _largest_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Infinite for other shapes and for NaN, which are no agreement."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(found - wanted).max(), nan=np.inf))
