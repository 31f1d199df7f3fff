"""The directory that goes to the hub: written from a checkpoint, proved in every reader, described by its card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.identity import weights_hash
from nomic_bert.training_record import read_training
from textfiles.atomic import atomic_directory

from .card import CardFacts, describe_model, model_card
from .card_results import evaluated_models
from .onnx_export import ONNX_FILE, QUANTIZED_FILE, export_onnx, quantize_onnx
from .verification import Agreement, verify_directory


@dataclass(frozen=True, kw_only=True)
class DirectorySettings:
    """What goes into the directory, and what its card says that the checkpoint does not.

    Attributes:
        checkpoint: local directory or hub name of an encoder, or of a head, whose encoder is taken.
        repo_id: "owner/name", for the card's code.
        rotary_scaling_factor: alpha of Eq. 5 to publish with; None: as the checkpoint says.
        onnx: whether onnx/model.onnx is written too.
        onnx_int8: whether onnx/model_quantized.onnx is written beside it.
        license: identifier of the hub, such as "apache-2.0"; None: none is stated.
        languages: ISO 639 codes; empty: not stated.
        evaluation: report.json of `python -m evaluation.report`; None: not evaluated.
    """

    checkpoint: str
    repo_id: str
    rotary_scaling_factor: float | None = None
    onnx: bool = False
    onnx_int8: bool = False
    license: str | None = None
    languages: Sequence[str] = ()
    evaluation: Path | None = None


def write_directory(settings: DirectorySettings, directory: Path) -> None:
    """Write the directory, prove it, and write its card; it appears when all of this has succeeded.

    Args:
        settings: what goes into it.
        directory: where to write; an earlier one there is replaced.

    Raises:
        FileExistsError: the directory exists and is not an embedder.
        FileNotFoundError: no such checkpoint or report.
        ValueError: the checkpoint cannot be published, the report has nothing for its weights, or a reader gives other
            embeddings.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / "modules.json").is_file():
        raise FileExistsError(f"{directory} exists and is not an embedder; choose another --output_dir or remove it.")
    embedder = load_embedder(settings.checkpoint, device="cpu", rotary_scaling_factor=settings.rotary_scaling_factor)
    weights, report = weights_hash(embedder), _read_report(settings.evaluation)
    if report is not None:
        evaluated_models(report, weights)  # refused now, not after minutes
    training = read_training(settings.checkpoint)
    with atomic_directory(directory) as written:
        save_embedder(embedder, written, training=training)
        embedder.to(dtype=torch.float32)  # the readers compute in it
        onnx_files = _export(settings, written)
        facts = CardFacts(
            repo_id=settings.repo_id,
            model=describe_model(embedder),
            weights=weights,
            readers=_prove(written, embedder),
            training=training,
            report=report,
            license=settings.license,
            languages=settings.languages,
            exported_files=onnx_files,
        )
        (written / "README.md").write_text(model_card(facts), encoding="utf-8")


def _export(settings: DirectorySettings, written: Path) -> list[str]:
    """Write the ONNX files that are asked for; their paths in the directory."""
    if not (settings.onnx or settings.onnx_int8):
        return []
    print("Exporting to ONNX", flush=True)
    export_onnx(written, written / ONNX_FILE)
    if not settings.onnx_int8:
        return [ONNX_FILE]
    quantize_onnx(written / ONNX_FILE, written / QUANTIZED_FILE)
    return [ONNX_FILE, QUANTIZED_FILE]


def _read_report(file: Path | None) -> Mapping[str, Any] | None:
    if file is None:
        return None
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); give report.json of `python -m evaluation.report`.") from error
    if not isinstance(report, dict) or "models" not in report:
        raise ValueError(f"{file} is no report: give report.json of `python -m evaluation.report`.")
    return report


def _prove(written: Path, embedder: SentenceTransformer) -> list[Agreement]:
    agreements = []
    for agreement in verify_directory(written, embedder):
        tqdm.write(  # above the progress bar
            f"  {agreement.reader.name}: {', '.join(f'{n:,}' for n in agreement.lengths)} tokens, "
            f"largest difference {agreement.difference:.1e}"
        )
        agreements.append(agreement)
    if wrong := [f"{a.reader.name} ({a.difference:.1e})" for a in agreements if not a.agrees]:
        raise ValueError(f"other embeddings than the checkpoint's: {', '.join(wrong)}; nothing was written.")
    return agreements
