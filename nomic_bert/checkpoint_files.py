"""Checks of a checkpoint's directory before anything in it is read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import PretrainedConfig

from textfiles.atomic import read_json
from textfiles.hub_names import is_hub_name
from textfiles.replacing import refuse_changed

_REMEDY = "Copy the checkpoint again from where it is from."
# JSON objects that transformers and sentence-transformers read; of a damaged one they do not say the name.
_OBJECTS = (
    "config.json", "generation_config.json", "model.safetensors.index.json", "adapter_config.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "*/config.json",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*/model.safetensors")
# Beside these, what an embedding depends on.
_OTHERS = (
    "modules.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.bin",
    "*/*.bin",
    "openvino/*",
)


def read_config(checkpoint: str | os.PathLike) -> dict[str, Any]:
    """config.json of a directory or hub name, as it is; empty where a directory has none.

    Raises:
        FileNotFoundError: the hub cannot be reached, or has no such file.
        ValueError: the file is damaged.
    """
    if not Path(checkpoint).exists():
        with named_on_hub(checkpoint):
            return PretrainedConfig.get_config_dict(str(checkpoint))[0]
    file = Path(checkpoint, "config.json")
    return read_json(file, _REMEDY) if file.is_file() else {}


@contextmanager
def named_on_hub(checkpoint: str | os.PathLike) -> Iterator[None]:
    """Name what is neither local nor fetched from the hub; without a connection, transformers does not name it.

    Args:
        checkpoint: directory or hub name that is opened within.

    Raises:
        FileNotFoundError: in place of any OSError, unless the checkpoint is local.
    """
    try:
        yield
    except OSError as error:
        if Path(checkpoint).exists():
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise FileNotFoundError(
            f"{checkpoint} is not a directory, and the hub did not give it: {reason}. Correct the path or the name."
        ) from error


@contextmanager
def named_settings(checkpoint: str | os.PathLike) -> Iterator[None]:
    """Name the model where sentence-transformers stumbles over the kind of a value in its files.

    Raises:
        ValueError: in place of an error that speaks of Python's types alone.
    """
    try:
        yield
    except (TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{checkpoint} has a setting that cannot be read, in modules.json, a config.json that it leads to, or "
            f"config_sentence_transformers.json ({type(error).__name__}: {error}). Copy them again."
        ) from error


def decisive_files(directory: str | os.PathLike) -> list[Path]:
    """The files of a model that its embeddings depend on, in the order of their paths; none where it is not local."""
    root = Path(directory)
    found = {file for pattern in (*_OBJECTS, *_WEIGHTS, *_OTHERS) for file in root.glob(pattern)}
    return sorted(file for file in found if file.is_file())


def require_checkpoint(checkpoint: str) -> None:
    """Refuse what is neither a directory with a model or a PEFT adapter, nor shaped like a hub name (`owner/name`).

    Raises:
        FileNotFoundError: names the path; transformers would only say that it is not a repository.
        ValueError: a link leaves the directory, or a file is damaged.
    """
    local = Path(checkpoint)
    if not local.exists() and is_hub_name(checkpoint):
        return
    if not any((local / name).is_file() for name in ("config.json", "adapter_config.json")):
        fault = "it has no config.json. Give a directory that has one."
        if not local.exists():
            fault = "there is no such directory. Correct the path."
        raise FileNotFoundError(f"{checkpoint} is not a checkpoint: {fault}")
    refuse_links_out(local)
    refuse_damage(local)


def refuse_damage(directory: str | os.PathLike) -> None:
    """Refuse weights that are cut short, damaged settings, and weights that are not those that were saved.

    The last is checked where `nomic_bert.embedder.save_embedder` or a stage has written the directory.

    Args:
        directory: of a model of any kind.

    Raises:
        PermissionError: weights may not be read.
        ValueError: names the file and the remedy.
    """
    root = Path(directory)
    for path in root.iterdir():
        _refuse_pipe(path)
    refuse_damaged_settings(directory)
    for file in sorted(file for pattern in _WEIGHTS for file in root.glob(pattern)):
        try:
            # safetensors says of a file that may not be read that there is none; it compares the size with the header
            with open(file, "rb"), safe_open(file, framework="numpy"):
                pass
        except PermissionError:
            raise
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged or cut short ({error}). {_REMEDY}") from error
    refuse_changed(root, "*model*.safetensors")


def refuse_damaged_settings(directory: str | os.PathLike) -> None:
    """Refuse JSON files of a model or tokenizer that are invalid, or hold another type than readers expect.

    Raises:
        ValueError: names the file and the remedy.
    """
    root = Path(directory)
    for name, kind in (*((name, dict) for name in _OBJECTS), ("modules.json", list)):
        for file in sorted(root.glob(name)):
            read_json(file, _REMEDY, kind)
    if (file := root / "tokenizer.json").is_file():
        try:
            Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"{file} is damaged ({error}). {_REMEDY}") from error


def refuse_links_out(directory: str | os.PathLike) -> None:
    """Refuse links to files outside a directory: what they show would be read, and copied into what is published.

    A snapshot in the hub's cache consists of links to the `blobs` of the same repository, which are accepted.

    Raises:
        ValueError: names the link, or what is neither a file nor a directory.
    """
    root = Path(directory).resolve()
    accepted = [root]
    if root.parent.name == "snapshots":
        accepted.append(root.parent.parent / "blobs")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in accepted):
                raise ValueError(
                    f"{path} is a link to {os.readlink(path)}, outside its directory. If you trust it, replace the "
                    "link by a copy of the file."
                )
            if not path.is_symlink():
                _refuse_pipe(path)


def _refuse_pipe(path: Path) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a pipe, a socket or a device, which a reader could wait for. Remove it.")
