"""Proof that a directory gives the checkpoint's own embeddings in every reader that runs here."""

import functools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from nomic_bert import NomicBertConfig

from .readers import EXPORT_READERS, READERS, Probe, Reader, read_embeddings

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


def make_probes(tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int], prompts: Mapping[str, str]) -> list[Probe]:
    """One text of each length, of words in a fixed random order; and one of middle length with each query's prefix.

    Args:
        tokenizer: of the model.
        lengths: in tokens, special tokens included.
        prompts: name -> text put before; "query" is tried if there is one.

    Raises:
        ValueError: the tokenizer makes no texts of these lengths.
    """
    words = _words(tokenizer)
    probes = [Probe(_text_of(tokenizer, words, length, ""), length) for length in lengths]
    if prefix := prompts.get("query"):
        with_one_word = len(tokenizer(prefix)["input_ids"]) + 1
        middle = max(lengths[len(lengths) // 2], with_one_word)
        probes.append(Probe(_text_of(tokenizer, words, middle, prefix), middle, prefix, "query"))
    return probes


def _words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of single tokens, in a fixed random order."""
    special = set(tokenizer.all_special_tokens)
    known = sorted(token for token in tokenizer.get_vocab() if token not in special)
    drawn = random.Random(0).sample(known, min(len(known), 4_000))
    words = [tokenizer.convert_tokens_to_string([token]).strip() for token in drawn]
    return [word for word in words if word.isalnum()] or ["a"]


def _text_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], length: int, prefix: str) -> str:
    """A text that is `length` tokens long as a whole: words may be any number of tokens, and more or fewer together."""

    def tokens(text: str) -> int:
        return len(tokenizer(prefix + text, truncation=False, verbose=False)["input_ids"])

    drawn = random.Random(length).choices(words, k=length)
    fitting = bisect_right(range(length + 1), length, key=lambda number: tokens(" ".join(drawn[:number]))) - 1
    text = " ".join(drawn[: max(fitting, 0)])
    for word in [*sorted(set(words), key=len)[:100], *"abcdefghijklmnopqrstuvwxyz"]:
        while (longer := f"{text} {word}".strip()) and tokens(text) < tokens(longer) <= length:
            text = longer
    if tokens(text) != length:
        raise ValueError(f"no text of {length} tokens was found for this tokenizer; the nearest has {tokens(text)}.")
    return text


def open_reference(checkpoint: str, rotary_scaling_factor: float | None) -> SentenceTransformer | None:
    """sentence-transformers' own reading of a checkpoint, which decides what its embeddings are.

    Args:
        checkpoint: local directory or hub name.
        rotary_scaling_factor: alpha of Eq. 5; None: as the checkpoint says.

    Returns:
        The embedder in float32; None: the checkpoint has no modules.json, so sentence-transformers would be guessing.
    """
    found = cached_file(checkpoint, "modules.json", _raise_exceptions_for_missing_entries=False)
    if found is None:
        return None
    return SentenceTransformer(
        checkpoint,
        device="cpu",
        trust_remote_code=False,
        model_kwargs={"dtype": torch.float32},
        config_kwargs={} if rotary_scaling_factor is None else {"rotary_scaling_factor": rotary_scaling_factor},
    )


def _prompt(name: str, embedder: SentenceTransformer) -> str | None:
    return embedder.prompts.get(name)


def require_same_settings(embedder: SentenceTransformer, reference: SentenceTransformer) -> None:
    """Refuse an embedder that truncates, prompts or compares in another way than the checkpoint says.

    Raises:
        ValueError: names the setting and both values.
    """
    settings: dict[str, Callable[[SentenceTransformer], Any]] = {
        "max_seq_length": lambda model: model.max_seq_length,
        "similarity_fn_name": lambda model: model.similarity_fn_name or "cosine",
        **{f"prompt {name!r}": functools.partial(_prompt, name)
           for name, text in reference.prompts.items() if text},
    }  # fmt: skip
    for name, read in settings.items():
        if read(embedder) != read(reference):
            raise ValueError(
                f"{name} is {read(reference)!r} in the checkpoint and would be published as {read(embedder)!r}."
            )


def verify_directory(directory: Path, reference: SentenceTransformer) -> Iterator[Agreement]:
    """Compare every reader of a directory with the embedder that it was written from.

    Each text is embedded alone; those within the trained length are then embedded as one batch too, where an
    embedding must be the same.

    Args:
        directory: as written by `publishing.directory`.
        reference: the checkpoint, in float32, as `open_reference` or `load_embedder` reads it.

    Raises:
        ValueError: a reader failed, or the tokenizer makes no texts of known lengths.
    """
    config = cast(NomicBertConfig, cast(PreTrainedModel, reference[0].auto_model).config)
    lengths_tried = probe_lengths(config, int(reference.max_seq_length or config.n_positions))
    probes = make_probes(reference.tokenizer, lengths_tried, cast(dict[str, str], reference.prompts))
    texts = [probe.full_text for probe in probes]
    expected = reference.encode(texts, prompt="", batch_size=1, normalize_embeddings=True)
    readers = [*READERS, *(reader for file, reader in EXPORT_READERS.items() if (directory / file).is_file())]
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
    """Infinite for other shapes and for NaN, which do not agree."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(found - wanted).max(), nan=np.inf))
