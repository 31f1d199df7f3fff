"""The directory that goes to the hub: written from a checkpoint, proved in every reader, described by its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, Transformer
from tqdm.auto import tqdm

from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.identity import weights_hash
from nomic_bert.openvino_int8 import measure_input_maxima, sample_texts, save_input_maxima
from nomic_bert.training_record import read_training
from textfiles.atomic import read_json
from textfiles.replacing import replaceable_directory, require_replaceable

from .card import CardFacts, describe_model, model_card, tried_programs
from .card_results import evaluated_models
from .known_files import keep_known_files
from .onnx_export import ONNX_FILE, QUANTIZED_FILE, export_onnx, quantize_onnx
from .openvino_export import OPENVINO_FILE, export_openvino, require_openvino
from .verification import Agreement, open_reference, require_same_settings, verify_directory


@dataclass(frozen=True, kw_only=True)
class DirectorySettings:
    """What goes into the directory, and what its card says that the checkpoint does not.

    Attributes:
        checkpoint: local directory or hub name of an encoder, of a head, whose encoder is taken, or of a PEFT adapter,
            which is merged into its encoder.
        repo_id: "owner/name", for the card's code.
        rotary_scaling_factor: alpha of Eq. 5 to publish with; None: as the checkpoint says.
        onnx: whether onnx/model.onnx is written too.
        onnx_int8: whether onnx/model_quantized.onnx is written beside it.
        openvino: whether openvino/openvino_model.xml and .bin are written, converted from onnx/model.onnx.
        openvino_int8: whether the ranges that `load_embedder(..., backend="openvino", dtype="int8")` needs are measured
            here, so that loading need not.
        license: identifier of the hub, such as "apache-2.0"; None: none is stated.
        languages: ISO 639 codes; empty: not stated.
        evaluation: report.json of `python -m evaluation.report`; None: not evaluated.
    """

    checkpoint: str
    repo_id: str
    rotary_scaling_factor: float | None = None
    onnx: bool = False
    onnx_int8: bool = False
    openvino: bool = False
    openvino_int8: bool = False
    license: str | None = None
    languages: Sequence[str] = ()
    evaluation: Path | None = None


def write_directory(settings: DirectorySettings, directory: Path, *, prove: bool = True) -> None:
    """Write the directory, prove it, and write its card; it appears when all of this has succeeded.

    Args:
        settings: what goes into it.
        directory: where to write; an earlier one there is replaced if it holds nothing but what was written to it.
        prove: whether every reader that runs here opens it first, which takes most of the time.

    Raises:
        FileExistsError: the directory has other files; names them.
        FileNotFoundError: no such checkpoint or report.
        ValueError: the checkpoint cannot be published, the report has nothing for its weights, or a reader gives other
            embeddings.
    """
    require_replaceable(directory)
    if settings.openvino:
        require_openvino()
    embedder = load_embedder(settings.checkpoint, device="cpu", rotary_scaling_factor=settings.rotary_scaling_factor)
    _require_mean_pooling(embedder, settings.checkpoint)
    reference = open_reference(settings.checkpoint, settings.rotary_scaling_factor) or embedder
    if _merge_adapter(embedder) and reference is embedder:  # the readers are compared with the adapter as it was
        reference = load_embedder(
            settings.checkpoint, device="cpu", rotary_scaling_factor=settings.rotary_scaling_factor
        )
    require_same_settings(embedder, reference)
    weights, report = weights_hash(embedder), _read_report(settings.evaluation)
    if report is not None:
        evaluated_models(report, weights)  # refused now, not after minutes
    training = read_training(settings.checkpoint)
    with replaceable_directory(directory) as written:
        save_embedder(embedder, written, training=training)
        keep_known_files(written, embedder.tokenizer)
        for compared in (embedder, reference):
            compared.to(dtype=torch.float32)  # the readers compute in it
        exported = _export(settings, written)
        if settings.openvino_int8:
            prompts = cast(dict[str, str], embedder.prompts).values()
            save_input_maxima(measure_input_maxima(embedder, sample_texts(prompts)), written)
        model = describe_model(embedder)
        facts = CardFacts(
            repo_id=settings.repo_id,
            model=model,
            weights=weights,
            readers=_prove(written, reference) if prove else (),
            training=training,
            report=report,
            license=settings.license,
            languages=settings.languages,
            exported_files=exported,
            other_programs=tried_programs(model),
        )
        (written / "README.md").write_text(model_card(facts), encoding="utf-8")


def _merge_adapter(embedder: SentenceTransformer) -> bool:
    """Add what a PEFT adapter learned to the encoder's own weights, which every reader knows; whether there is one."""
    encoder: Any = embedder[0].auto_model
    if not getattr(encoder, "_hf_peft_config_loaded", False):
        return False
    adapted = {name: layer for name, layer in encoder.named_modules() if hasattr(layer, "get_base_layer")}
    for name, layer in adapted.items():
        layer.merge()
        encoder.set_submodule(name, layer.get_base_layer())
    # a model that never had an adapter: transformers saves one that had under PEFT's names
    merged = type(encoder)(encoder.config).to(encoder.dtype)
    merged.load_state_dict(encoder.state_dict())
    embedder[0].model = merged.eval()
    return True


def _require_mean_pooling(embedder: SentenceTransformer, checkpoint: str) -> None:
    """Refuse an embedder that the readers without module files would read as another."""
    kinds = [type(module) for module in embedder]
    pooling = embedder[1] if len(embedder) > 1 else None
    known = ([Transformer, Pooling, Normalize], [Transformer, Pooling, LayerNorm, Normalize])
    is_mean = isinstance(pooling, Pooling) and pooling.pooling_mode == "mean" and pooling.include_prompt
    if kinds not in known or not is_mean:
        raise ValueError(
            f"{checkpoint}: its embeddings are not means of token vectors at unit length "
            f"({', '.join(kind.__name__ for kind in kinds)}). Upload it as it is with SentenceTransformer.push_to_hub."
        )


def _export(settings: DirectorySettings, written: Path) -> list[str]:
    """Write the ONNX and OpenVINO files that are asked for; their paths in the directory."""
    exported = []
    if settings.onnx or settings.onnx_int8 or settings.openvino:
        print("Exporting to ONNX", flush=True)
        export_onnx(written, written / ONNX_FILE)
        exported.append(ONNX_FILE)
    if settings.onnx_int8:
        quantize_onnx(written / ONNX_FILE, written / QUANTIZED_FILE)
        exported.append(QUANTIZED_FILE)
    if settings.openvino:
        export_openvino(written / ONNX_FILE, written / OPENVINO_FILE)
        exported.append(OPENVINO_FILE)
    return exported


def _read_report(file: Path | None) -> Mapping[str, Any] | None:
    if file is None:
        return None
    remedy = "Give report.json of `python -m evaluation.report`."
    report = read_json(file, remedy)
    if "models" not in report:
        raise ValueError(f"{file} is not a report. {remedy}")
    return report


def _prove(written: Path, reference: SentenceTransformer) -> list[Agreement]:
    agreements = []
    for agreement in verify_directory(written, reference):
        tqdm.write(  # above the progress bar
            f"  {agreement.reader.name}: {', '.join(f'{n:,}' for n in agreement.lengths)} tokens, "
            f"largest difference {agreement.difference:.1e}"
        )
        agreements.append(agreement)
    if wrong := [f"{a.reader.name} ({a.difference:.1e})" for a in agreements if not a.agrees]:
        raise ValueError(f"other embeddings than the checkpoint's: {', '.join(wrong)}; nothing was written.")
    return agreements
