"""What may come from a checkpoint into a published directory: known files with known keys, and no code of its own.

Whoever opens the directory with `trust_remote_code=True` runs the code that its files name. A checkpoint is data, from
anywhere, so its settings are not carried over as they are.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

import nomic_bert
from nomic_bert import NomicBertConfig
from nomic_bert.training_record import TRAINING_FILE
from textfiles.atomic import write_json

_SOURCE = Path(nomic_bert.__file__).parent
_CODE = "*_nomic_bert.py"
_MODULES = [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "LayerNorm", "Normalize")]
_MODULE_FILES = ("config.json", "model.safetensors")  # a LayerNorm, as Matryoshka training adds, has both
_TOKENS = ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token")
# File -> the keys that it may have; None: the file has no settings that a reader would act on
_KEYS: dict[str, frozenset[str] | None] = {
    "config.json": frozenset({*NomicBertConfig().to_diff_dict(), "architectures", "dtype", "max_position_embeddings",
                              "num_labels", "transformers_version"}),
    "config_sentence_transformers.json": frozenset({"__version__", "default_prompt_name", "model_type", "prompts",
                                                    "similarity_fn_name"}),
    "sentence_bert_config.json": frozenset({"do_lower_case", "max_seq_length"}),
    "special_tokens_map.json": frozenset(_TOKENS),
    "tokenizer_config.json": frozenset({
        *_TOKENS, "added_tokens_decoder", "additional_special_tokens", "clean_up_tokenization_spaces", "do_lower_case",
        "extra_special_tokens", "model_input_names", "model_max_length", "padding_side", "strip_accents",
        "tokenize_chinese_chars", "tokenizer_class", "truncation_side"}),
    "model.safetensors": None, "modules.json": None, "tokenizer.json": None, TRAINING_FILE: None,
}  # fmt: skip


def keep_known_files(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Bring a directory that an embedder was saved to down to known files and keys, before anything opens it.

    Args:
        directory: as `nomic_bert.embedder.save_embedder` writes it.
        tokenizer: whose special tokens are listed once more in special_tokens_map.json, for fastembed to 0.7.4.

    Raises:
        ValueError: a file of model code is not this package's, or a module is unknown.
    """
    _require_own_code(directory)
    modules = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
    if unknown := [module["type"] for module in modules if module["type"] not in _MODULES]:
        raise ValueError(f"{directory}: modules.json names {', '.join(unknown)}, which this command does not publish.")
    folders = {module["path"] for module in modules if module["path"]}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name in _TOKENS}
    write_json(directory / "special_tokens_map.json", special)
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        is_code = path.parent == directory and path.match(_CODE)
        if path.is_dir() or is_code or (path.parent.name in folders and path.name in _MODULE_FILES):
            continue
        if name not in _KEYS:
            path.unlink()
            continue
        known = _KEYS[name]
        if known is not None:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            write_json(path, {key: value for key, value in content.items() if key in known})
    for path in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _require_own_code(directory: Path) -> None:
    """Every code file must be this package's, byte for byte, and none may be missing."""
    wanted = {path.name: path.read_bytes() for path in _SOURCE.glob(_CODE)}
    found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.py")}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise ValueError(f"{directory}: {', '.join(wrong)}: not this package's model code; nothing was published.")
    auto_map = json.loads((directory / "config.json").read_text(encoding="utf-8"))["auto_map"]
    if auto_map != NomicBertConfig().to_dict()["auto_map"]:
        raise ValueError(f"{directory}: config.json names other code than this package's; nothing was published.")
