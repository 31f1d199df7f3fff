"""The tokenizer of a checkpoint in the form that readers of every age take, and without what one run left in it."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from textfiles.atomic import write_json

# What transformers 5 adds: where the tokenizer came from, and how it was last called.
_OF_ONE_RUN = ("backend", "is_local", "local_files_only", "max_length", "stride", "truncation_strategy")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a tokenizer's files to a directory, portable."""
    tokenizer.save_pretrained(str(directory))
    make_tokenizer_portable(directory, tokenizer.model_max_length)


def make_tokenizer_portable(directory: Path, max_length: int | None) -> None:
    """Restate the tokenizer files that transformers wrote to a directory.

    transformers keeps the truncation and padding of the last call in tokenizer.json, where other readers
    (text-embeddings-inference, transformers.js, the tokenizers library) take them for the model's own: one query cut
    at 32 tokens would cut every text of theirs. And it names a class that transformers 4 does not have.

    Args:
        directory: has tokenizer.json and tokenizer_config.json; without the former nothing is done.
        max_length: `model_max_length` in tokens; None: as it is.
    """
    file, settings_file = directory / "tokenizer.json", directory / "tokenizer_config.json"
    if not file.is_file():
        return
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, {**content, "truncation": None, "padding": None})
    settings: dict[str, Any] = json.loads(settings_file.read_text(encoding="utf-8"))
    settings = {key: value for key, value in settings.items() if key not in _OF_ONE_RUN}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if max_length is not None:
        settings["model_max_length"] = max_length
    write_json(settings_file, settings)
