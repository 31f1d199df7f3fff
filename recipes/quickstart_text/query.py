"""A query's embedding in NumPy: importing torch alone takes longer than a whole search may."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from textfiles.atomic import read_json
from textfiles.replacing import refuse_changed

_REMEDY = "Train or download the model again."


def embed_query(model_dir: str | Path, query: str) -> np.ndarray:
    """As `load_embedder(model_dir).encode_query(query)`, float32 (dim,).

    Directories that the quickstart writes are computed here. What they cannot be (other modules than a mean at unit
    length, weights in bfloat16 or in several files, a query beyond the trained length, where RoPE is scaled) is left to
    `load_embedder`, which takes seconds to import.
    """
    directory = Path(model_dir)
    config = read_json(directory / "config.json", _REMEDY)
    prompt = _plain_prompt(directory)
    if prompt is not None:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids = tokenizer.encode(prompt + query).ids
        if len(ids) <= _longest(directory, config) and (weights := _read_weights(directory)):
            mean = encode(config, weights, ids).mean(axis=0)
            return mean / np.linalg.norm(mean)
    from nomic_bert.embedder import load_embedder

    return load_embedder(model_dir, device="cpu").encode_query(query)


def encode(config: dict[str, Any], weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The encoder of one text, no longer than the trained length: the last hidden state (tokens, hidden).

    Args:
        config: what config.json says.
        weights: float32, by the names that `NomicBertModel` gives them.
        ids: of the tokens.
    """
    heads, eps = config["n_head"], config["layer_norm_epsilon"]

    def norm(hidden: np.ndarray, name: str) -> np.ndarray:
        centered = hidden - hidden.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(hidden: np.ndarray, name: str) -> np.ndarray:
        return hidden @ weights[f"{name}.weight"].T

    hidden = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    hidden = norm(hidden, "emb_ln")
    half = hidden.shape[1] // heads // 2
    frequencies = config["rotary_emb_base"] ** -(np.arange(half, dtype=np.float32) / half)
    turns = np.exp(1j * np.arange(len(ids))[:, None] * frequencies).astype(np.complex64)  # (tokens, half)
    for number in range(config["n_layer"]):
        layer = f"encoder.layers.{number}"
        projected = linear(hidden, f"{layer}.attn.Wqkv").reshape(len(ids), 3, heads, 2, half).transpose(1, 2, 0, 3, 4)
        query, key = ((each[..., 0, :] + 1j * each[..., 1, :]) * turns for each in projected[:2])
        scores = (query @ key.conj().swapaxes(-1, -2)).real * (2 * half) ** -0.5  # (heads, tokens, tokens)
        probabilities = np.exp(scores - scores.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        attended = probabilities @ projected[2].reshape(heads, len(ids), 2 * half)
        attended = attended.swapaxes(0, 1).reshape(len(ids), -1)
        hidden = norm(linear(attended, f"{layer}.attn.out_proj") + hidden, f"{layer}.norm1")
        gate = linear(hidden, f"{layer}.mlp.fc12")
        gated = linear(hidden, f"{layer}.mlp.fc11") * gate / (1 + np.exp(-gate))
        hidden = norm(linear(gated, f"{layer}.mlp.fc2") + hidden, f"{layer}.norm2")
    return hidden


def _plain_prompt(directory: Path) -> str | None:
    """The prompt of queries, if the directory says that an embedding is the mean at unit length and nothing else."""
    try:
        modules = read_json(directory / "modules.json", _REMEDY, list)
        pooling = read_json(directory / "1_Pooling" / "config.json", _REMEDY)
        prompts = read_json(directory / "config_sentence_transformers.json", _REMEDY)["prompts"]
    except (OSError, KeyError):
        return None
    modes = [mode for mode, chosen in pooling.items() if mode.startswith("pooling_mode_") and chosen]
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    plain = kinds == ["Transformer", "Pooling", "Normalize"] and modes == ["pooling_mode_mean_tokens"]
    return prompts.get("query") if plain and pooling.get("include_prompt", True) else None


def _longest(directory: Path, config: dict[str, Any]) -> int:
    """Tokens of a query that is neither truncated nor scaled."""
    settings = read_json(directory / "sentence_bert_config.json", _REMEDY)
    return min(settings.get("max_seq_length") or 0, config["max_trained_positions"])


def _read_weights(directory: Path) -> dict[str, np.ndarray]:
    """In float32; nothing where they are stored in what NumPy does not have, or in several files."""
    weights = {}
    file = directory / "model.safetensors"
    if not file.is_file():
        return {}
    refuse_changed(directory, file.name)
    with safe_open(file, framework="numpy") as stored:
        for name in stored.keys():  # noqa: SIM118  (not a dictionary)
            if stored.get_slice(name).get_dtype() not in ("F32", "F16"):
                return {}
            weights[name.removeprefix("bert.")] = stored.get_tensor(name).astype(np.float32, copy=False)
    return weights
