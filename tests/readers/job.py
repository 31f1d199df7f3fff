"""What every program is given: a published directory, texts of several lengths, and the embeddings to find."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nomic_bert.embedder import load_embedder
from publishing.card import describe_model
from publishing.verification import make_probes
from textfiles.atomic import atomic_directory, write_json

from .directories import Directory

_PROJECT = Path(__file__).parents[2]


def prepare_job(folder: Path, directory: Directory) -> None:
    """Write the job, unless it is there already and the code that wrote it has not changed since.

    Args:
        folder: gets `model` (the published directory), job.json and expected.npy, float32 (texts, dim).
        directory: what the programs open.
    """
    state = {"code": _hash_of_code(), "directory": json.loads(json.dumps(asdict(directory), default=repr))}
    file = folder / "state.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == state:
        return
    with atomic_directory(folder) as written:
        if directory.model is None:
            directory.write(written / "model")
        else:
            (written / "model").symlink_to(directory.model.resolve())
        embedder = load_embedder(written / "model", device="cpu", dtype=torch.float32)
        probes = make_probes(embedder.tokenizer, directory.lengths, {})
        expected = embedder.encode([probe.text for probe in probes], prompt="", batch_size=1)
        np.save(written / "expected.npy", expected)
        facts = describe_model(embedder)
        write_json(
            written / "job.json",
            {
                "texts": [probe.text for probe in probes],
                "tokens": [probe.tokens for probe in probes],
                "groups": directory.groups,
                "layer_norm": facts.layer_norm,
                "length_without_eq_5": facts.length_without_eq_5,
                # what the card says to give llama.cpp for one longer text
                "bases": [facts.base_at(max(probe.tokens, facts.trained_length)) for probe in probes]
                if facts.is_scaled_by_eq_5
                else [],
            },
        )
        write_json(written / "state.json", state)


def cut_job(
    job: Path, *, without_eq_5: bool, alone: bool, folder: Path, **facts: Any
) -> tuple[list[int], list[list[int]]]:
    """Write the part of a job whose texts a program accepts.

    Args:
        job: what `prepare_job` wrote.
        without_eq_5: whether the program scales all texts alike, and so accepts no longer ones as it is run.
        alone: whether texts are embedded by themselves only.
        folder: gets job.json.
        facts: more keys of it.

    Returns:
        Tokens of the texts, and the groups of texts that are embedded as one batch.
    """
    content = json.loads((job / "job.json").read_text(encoding="utf-8"))
    longest = content["length_without_eq_5"] if without_eq_5 else max(content["tokens"])
    kept = [number for number, tokens in enumerate(content["tokens"]) if tokens <= longest]
    groups = [[number for number in group if number in kept] for group in content["groups"]]
    groups = [] if alone else [group for group in groups if len(group) > 1]
    of_texts = {key: [content[key][number] for number in kept] for key in ("texts", "tokens", "bases") if content[key]}
    more = {"groups": groups, "longest": longest, "model": str((job / "model").resolve()), **facts}
    write_json(folder / "job.json", {**content, **of_texts, **more})
    return of_texts["tokens"], groups


def _hash_of_code() -> str:
    """Over the files that decide what a published directory holds, and over the texts."""
    digest = hashlib.sha256()
    published = ("directory", "known_files", "onnx_export", "openvino_export", "verification")
    files = [*sorted(_PROJECT.glob("nomic_bert/*.py")), *(_PROJECT / "publishing" / f"{name}.py" for name in published)]
    for path in [*files, Path(__file__), Path(__file__).with_name("directories.py")]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
