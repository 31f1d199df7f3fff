"""The encoder as an ONNX file, and the same with 8-bit weights for CPUs.

Both lie in the published directory's `onnx` folder, where sentence-transformers' `backend="onnx"` looks.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from nomic_bert import NomicBertConfig, NomicBertModel
from nomic_bert.checkpoint_files import require_checkpoint
from textfiles.atomic import atomic_file

ONNX_FILE = "onnx/model.onnx"
QUANTIZED_FILE = "onnx/model_quantized.onnx"  # the name that transformers.js looks for under dtype "q8"

_OPSET = 18  # read by ONNX Runtime since 1.14
_IR_VERSION = 8  # torch writes 10, which ONNX Runtime reads since 1.18; nothing newer than 8 is used
_INPUTS, _OUTPUT = ("input_ids", "attention_mask"), "last_hidden_state"
_BATCH, _LENGTH = "batch", "length"
_MOST_WEIGHT_BYTES = 2**31 - 2**24  # protobuf's limit of one file, less room for the graph
_KNOWN_NOISE = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch's own use of what torch deprecates
    r"# The axis name: (batch|length) will not be used",  # both inputs share their axes, as they should
)


def export_onnx(checkpoint: str | Path, file: str | Path) -> None:
    """Write an encoder as ONNX: int64 `input_ids` and `attention_mask` (batch, length) to `last_hidden_state`.

    The output is float32 (batch, length, hidden), 0 at padding. Batch and length are free, and RoPE is scaled in the
    graph by each text's own length, as the checkpoint's configuration says. Weights lie in the file.

    Args:
        checkpoint: local directory or hub name of an encoder, or of a head, whose encoder is taken.
        file: where to write; it appears whole or not at all.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
        ValueError: packages are missing, the encoder is of another architecture, incomplete or too large for one file,
            or the exporter wrote a graph with fixed lengths.
    """
    _require_packages("onnx", "onnxscript")
    checkpoint, file = str(checkpoint), Path(file)
    require_checkpoint(checkpoint)
    model_type = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).model_type
    if model_type != NomicBertConfig.model_type:
        raise ValueError(f"{checkpoint} is a {model_type!r} checkpoint; 'nomic_bert' ones are exported.")
    # eager: torch's decomposition of SDPA looks for NaN in every attention probability, which takes time and memory
    model = NomicBertModel.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > _MOST_WEIGHT_BYTES:
        raise ValueError(
            f"{checkpoint}: weights of {size / 1e9:.1f} GB in float32 do not fit in one ONNX file of 2 GB; publish it "
            "without ONNX."
        )
    exported = _trace(_TokenStates(model).eval())
    exported.ir_version = _IR_VERSION
    _remove_source_places(exported)
    with atomic_file(file) as written:
        written.write_bytes(exported.SerializeToString())
        _check(written, file, model.config.hidden_size)


def quantize_onnx(file: str | Path, quantized: str | Path) -> None:
    """Write an exported encoder with 8-bit weights, a quarter of the size, for ONNX Runtime on a CPU.

    Matrices are quantized by column, word embeddings as a whole. Activations are quantized as they come, by the
    extremes of the whole batch: an embedding moves a little with its batch neighbours and its padding.

    Args:
        file: what `export_onnx` wrote.
        quantized: where to write; it appears whole or not at all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: packages are missing.
    """
    _require_packages("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file; write it with export_onnx.")
    with atomic_file(quantized) as written, _without_log("root", "Please consider to run pre-processing"):
        quantize_dynamic(
            file,
            written,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            reduce_range=True,  # sums of two products fit in the 16 bits that AVX2 without VNNI has for them
            weight_type=QuantType.QInt8,  # half the time of unsigned weights where there is VNNI
        )


class _TokenStates(nn.Module):
    """The encoder with the inputs and the one output of the file."""

    def __init__(self, model: NomicBertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, length) twice -> (batch, length, hidden)."""
        return self.model(input_ids, attention_mask).last_hidden_state


def _trace(module: nn.Module) -> Any:
    """The module as an ONNX model in memory; the example's sizes, 2 texts of up to 8 tokens, do not remain in it."""
    ids = torch.ones(2, 8, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {0: torch.export.Dim(_BATCH), 1: torch.export.Dim(_LENGTH)}
    with warnings.catch_warnings(), _without_log("torch.onnx._internal.exporter._registration", "torchvision is not"):
        for message in _KNOWN_NOISE:
            warnings.filterwarnings("ignore", message)
        program = torch.onnx.export(
            module,
            (ids, mask),
            dynamo=True,
            dynamic_shapes=dict.fromkeys(_INPUTS, axes),
            input_names=list(_INPUTS),
            output_names=[_OUTPUT],
            opset_version=_OPSET,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch wrote no ONNX program.")
    return program.model_proto


def _remove_source_places(exported: Any) -> None:
    """Take out the stack traces that the exporter keeps: they name the places of files on this machine."""
    graph = exported.graph
    del exported.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def _check(written: Path, file: Path, hidden: int) -> None:
    """Refuse a file that is no valid ONNX, or whose axes are not the ones promised."""
    import onnx

    onnx.checker.check_model(str(written), full_check=True)
    graph = onnx.load(str(written), load_external_data=False).graph
    found = {value.name: _axes(value) for value in (*graph.input, *graph.output)}
    promised = {**dict.fromkeys(_INPUTS, [_BATCH, _LENGTH]), _OUTPUT: [_BATCH, _LENGTH, hidden]}
    if found != promised:
        raise ValueError(
            f"{file}: the exporter gave the axes {found} where they should be {promised}; try another torch."
        )


def _axes(value: Any) -> Sequence[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _require_packages(*names: str) -> None:
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise ValueError(f'ONNX needs {" and ".join(missing)}: pip install "nomic-embed-hf[onnx]"')


@contextmanager
def _without_log(logger_name: str, beginning: str) -> Iterator[None]:
    """Drop one logger's messages with this beginning, and no others."""
    logger = logging.getLogger(None if logger_name == "root" else logger_name)

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
