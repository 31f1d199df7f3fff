"""The tokenizer of a checkpoint: opened with a check, written in a form that old and new readers take."""

import os
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textfiles.atomic import read_json, write_json

from .checkpoint_files import named_on_hub, read_config, refuse_damaged_settings, refuse_links_out

# One of these holds the vocabulary.
_VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# What tokenizer_config.json may say. Not `auto_map`, which names code to run, nor what the last call left there.
_SETTINGS = {
    *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES,
    *("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "split_special_tokens"),
    *("tokenizer_class", "model_max_length", "model_input_names", "padding_side", "truncation_side"),
    *("clean_up_tokenization_spaces", "do_lower_case", "do_basic_tokenize", "strip_accents", "tokenize_chinese_chars"),
    *("never_split", "add_prefix_space", "trim_offsets", "errors", "add_bos_token", "add_eos_token", "legacy"),
    *("sp_model_kwargs", "keep_accents", "remove_space"),
}
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def open_tokenizer(source: str | os.PathLike) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a directory or hub name as `AutoTokenizer` does, without running code that came with it.

    Where the files are missing, transformers makes an empty tokenizer, which reads every word as unknown.

    Args:
        source: of a tokenizer alone, or of a checkpoint, whose vocabulary must then match the embedding.

    Raises:
        FileNotFoundError: the directory has no tokenizer files, or the hub no such name.
        ValueError: the source is a file, the vocabulary does not belong to the checkpoint, a file is damaged, or a
            link leaves the directory.
    """
    if Path(source).is_file():
        raise ValueError(f"{source} is a file; give the directory of the tokenizer.")
    if Path(source).is_dir():
        refuse_links_out(source)
        require_tokenizer_files(source)
        refuse_damaged_settings(source)
    rows = _embedding_rows(source)
    with named_on_hub(source):
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    tokenizer.init_kwargs.pop("auto_map", None)  # names code, and would be written into every checkpoint of a run
    require_vocabulary(tokenizer, rows, source)
    return tokenizer


def require_tokenizer_files(directory: str | os.PathLike) -> None:
    """Refuse a directory without a vocabulary file.

    Raises:
        FileNotFoundError: names the directory and the remedy.
    """
    if not any(Path(directory, name).is_file() for name in _VOCABULARY_FILES):
        raise FileNotFoundError(f"{directory} has no tokenizer files. {_REMEDY}")


def require_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int | None, source: str | os.PathLike) -> None:
    """Refuse a tokenizer that cannot be the one a model was trained with.

    Args:
        tokenizer: of the model.
        rows: of the word embedding; None: unknown.
        source: of the tokenizer, for the message.

    Raises:
        ValueError: the vocabulary is empty, has more tokens than the embedding has rows, or less than half as many
            (rows may be rounded up to a multiple of 64).
    """
    tokens = len(tokenizer)
    if tokens <= len(tokenizer.all_special_ids):
        raise ValueError(f"{source} has a tokenizer without words ({tokens} special tokens). {_REMEDY}")
    if rows is not None and not (rows - 63) / 2 <= tokens <= rows:
        raise ValueError(f"{source} has a tokenizer of {tokens:,} tokens for an embedding of {rows:,} rows. {_REMEDY}")


def require_words(embedder: Any, source: str | os.PathLike) -> None:
    """Run `require_vocabulary`'s check on any sentence-transformers model with a tokenizer of transformers."""
    if isinstance(embedder.tokenizer, PreTrainedTokenizerBase):
        config = getattr(getattr(embedder[0], "model", None), "config", None)
        require_vocabulary(embedder.tokenizer, getattr(config, "vocab_size", None), source)


_REMEDY = (
    "Copy there the files of the tokenizer that the model was trained with; for nomic-bert-2048 it is the one of "
    "bert-base-uncased."
)


def _embedding_rows(source: str | os.PathLike) -> int | None:
    """Rows of the word embedding as config.json says; None where there is no such file."""
    try:
        config = read_config(source)
    except OSError:  # a repository of a tokenizer alone
        return None
    rows = config.get("vocab_size")
    multiple = config.get("pad_vocab_size_multiple") or 1  # the authors' code rounds up to it
    return -(-rows // multiple) * multiple if isinstance(rows, int) else None


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a tokenizer's files to a directory, portable."""
    tokenizer.save_pretrained(str(directory))
    make_tokenizer_portable(directory, tokenizer.model_max_length)


def make_tokenizer_portable(directory: Path, max_length: int | None) -> None:
    """Restate the tokenizer files that transformers wrote to a directory.

    transformers keeps the truncation and padding of the last call in tokenizer.json, where other readers
    (text-embeddings-inference, transformers.js, the tokenizers library) take them for the model's own: one query
    truncated at 32 tokens would truncate all texts there. It names a class that transformers 4 does not have. And it
    passes on every setting that it has read, code to run among them, and chat templates, which embedders do not use.

    Args:
        directory: the files of a tokenizer.
        max_length: `model_max_length` in tokens; None: as it is.
    """
    for name in _CHAT_TEMPLATES:
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    remedy = "Save the tokenizer again."
    file, settings_file = directory / "tokenizer.json", directory / "tokenizer_config.json"
    if file.is_file():
        write_json(file, {**read_json(file, remedy), "truncation": None, "padding": None})
    if not settings_file.is_file():
        return
    read: dict[str, Any] = read_json(settings_file, remedy)
    settings = {key: value for key, value in read.items() if key in _SETTINGS}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if max_length is not None:
        settings["model_max_length"] = max_length
    write_json(settings_file, settings)
