"""The files of sentence-transformers in an embedder's directory: what they may ask for, and how they are written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from sentence_transformers.util import load_file_path

from textfiles.atomic import read_json, write_json
from textfiles.settings import is_number

# Modules that need no code of the directory. Router and others bring settings that are not checked here.
_MODULES = ("Transformer", "Pooling", "LayerNorm", "Normalize", "Dense", "Dropout")
# Of a Transformer that reads texts as they are; one whose tokenizer has a chat template would take them for messages.
TEXT_ALONE: dict[str, Any] = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
# Settings of sentence_bert_config.json that only sentence-transformers from 5.4 on knows, at their default values.
_DEFAULTS: dict[str, Any] = {
    **TEXT_ALONE,
    "transformer_task": "feature-extraction",
    "unpad_inputs": None,
    "processing_kwargs": {},
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
}
_READ_SETTINGS = {*_DEFAULTS, "max_seq_length", "do_lower_case"}
_POOLING_KEYS = {  # in the order in which old versions join several
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ALWAYS_WRITTEN = 4  # of these keys: text-embeddings-inference requires them


@dataclass(frozen=True, kw_only=True)
class ModuleFiles:
    """What a directory's own files say about its modules.

    Attributes:
        has_prompts: whether they name prompts, if only empty ones.
        is_mean: whether an embedding is the mean of all tokens, prompt included, and nothing trained comes after.
    """

    has_prompts: bool
    is_mean: bool


def read_module_files(checkpoint: str) -> ModuleFiles | None:
    """Read modules.json and what it leads to; refuse what would run code, unpickle, or be read as something else.

    Args:
        checkpoint: directory or hub name.

    Returns:
        What the files say; None where there is no modules.json.

    Raises:
        ValueError: names the file, what it asks for, and the remedy.
    """
    modules = _read(checkpoint, "modules.json", kind=list)
    if modules is None:
        return None
    where = f"{checkpoint}/modules.json"
    if not all(
        isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str)
        for module in modules
    ):
        raise ValueError(f"{where} must be a list of modules, each with 'type' and 'path'. Copy it again.")
    names = [module["type"].rsplit(".", 1)[-1] for module in modules]
    for module, name in zip(modules, names, strict=True):
        if name not in _MODULES or not module["type"].startswith("sentence_transformers."):
            raise ValueError(
                f"{where} needs the module {module['type']!r}, which is not supported; of sentence-transformers' own, "
                f"{', '.join(_MODULES)} are. Open the directory with SentenceTransformer if you trust its code."
            )
    if names[:1] != ["Transformer"] or modules[0]["path"]:
        raise ValueError(f"{where} must begin with a Transformer in the directory itself (path '').")
    if "Pooling" not in names:
        raise ValueError(f"{where} has no Pooling, so that the model gives no embedding of a text.")
    _check_transformer_settings(checkpoint)
    for module, name in zip(modules, names, strict=True):
        if name == "Dense":
            _check_dense(checkpoint, module["path"])
        if name in ("Dense", "LayerNorm") and not _find(checkpoint, "model.safetensors", module["path"]):
            raise ValueError(f"{checkpoint}/{module['path']} has no model.safetensors; a pickle is not read.")
    settings = _read(checkpoint, "config_sentence_transformers.json") or {}
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ValueError(
            f"{checkpoint} is a {settings['model_type']}, not a SentenceTransformer: it does not embed texts."
        )
    poolings = [
        _read(checkpoint, "config.json", module["path"]) or {}
        for module, name in zip(modules, names, strict=True)
        if name == "Pooling"
    ]
    return ModuleFiles(
        has_prompts=bool(settings.get("prompts")),
        is_mean=len(poolings) == 1 and _is_mean(poolings[0]) and not {"Dense", "Dropout"} & {*names},
    )


def _check_transformer_settings(checkpoint: str) -> None:
    settings = _read(checkpoint, "sentence_bert_config.json") or {}
    length = settings.get("max_seq_length")
    if length is not None and not (is_number(length) and length > 0):
        raise ValueError(
            f"{checkpoint}/sentence_bert_config.json: max_seq_length={length!r} must be a positive integer, or null."
        )
    for key, value in settings.items():
        # `model_args` may lift the ban on pickles, `tokenizer_name_or_path` leads out of the directory, ...
        if key not in _READ_SETTINGS and value:
            raise ValueError(
                f"{checkpoint}/sentence_bert_config.json sets {key!r}, which is not supported. Open the directory with "
                "SentenceTransformer if you trust it."
            )


def _check_dense(checkpoint: str, path: str) -> None:
    activation = (_read(checkpoint, "config.json", path) or {}).get("activation_function", "torch.")
    if not str(activation).startswith("torch."):
        raise ValueError(  # sentence-transformers would warn and take Tanh instead
            f"{checkpoint}/{path}/config.json names the activation {activation!r}; only those of torch are supported."
        )


def _is_mean(pooling: dict[str, Any]) -> bool:
    modes = [mode for mode, key in _POOLING_KEYS.items() if pooling.get(key)]
    return pooling.get("pooling_mode", modes or ["mean"]) in ("mean", ["mean"]) and pooling.get("include_prompt", True)


def _find(checkpoint: str, name: str, folder: str = "") -> str | None:
    return load_file_path(checkpoint, name, subfolder=folder)


def _read(checkpoint: str, name: str, folder: str = "", kind: type = dict) -> Any:
    file = _find(checkpoint, name, folder)
    return None if file is None else read_json(file, "Copy it again from where the model is from.", kind)


def write_portable_module_files(embedder: SentenceTransformer, directory: Path) -> None:
    """Restate the files that sentence-transformers wrote, so that its older versions and other programs read them too.

    Those are sentence-transformers from 2.7 on (with a LayerNorm or Dense, from 5.0 on) and llama.cpp's converter.

    Raises:
        ValueError: the embedder has settings that older versions cannot be told.
    """
    transformer = cast(Any, embedder[0])
    if type(transformer) is not Transformer:
        raise ValueError(f"An embedder begins with a Transformer module, not with {type(transformer).__name__}.")
    settings = transformer.get_config_dict()
    if beyond := sorted(key for key, value in settings.items() if value != _DEFAULTS.get(key, value)):
        raise ValueError(f"The Transformer module has settings that cannot be saved: {', '.join(beyond)}. Unset them.")
    modules = read_json(directory / "modules.json", "Save the embedder again.", list)
    for module, described in zip(embedder, modules, strict=True):
        described["type"] = f"sentence_transformers.models.{type(module).__name__}"
        file = directory / described["path"] / "config.json"
        if isinstance(module, Pooling):
            write_json(file, _pooling_config(module))
        elif isinstance(module, Dense):
            config = module.get_config_dict()
            config = {key: config[key] for key in ("in_features", "out_features", "bias", "activation_function")}
            write_json(file, config)
    write_json(directory / "modules.json", modules)
    # Any other key ends sentence-transformers before 5.4.
    write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": embedder.max_seq_length, "do_lower_case": transformer.do_lower_case},
    )


def _pooling_config(pooling: Pooling) -> dict[str, Any]:
    modes = pooling.pooling_mode if isinstance(pooling.pooling_mode, tuple) else (pooling.pooling_mode,)
    if list(modes) != [mode for mode in _POOLING_KEYS if mode in modes]:
        return pooling.get_config_dict()  # old versions would join them in another order, so they are told nothing
    return {
        "word_embedding_dimension": pooling.embedding_dimension,
        **{
            key: mode in modes
            for place, (mode, key) in enumerate(_POOLING_KEYS.items())
            if place < _ALWAYS_WRITTEN or mode in modes
        },
        "include_prompt": pooling.include_prompt,
    }
