"""The encoder in OpenVINO's format, where sentence-transformers' `backend="openvino"` looks for it.

The weights are kept in float32. OpenVINO computes in bfloat16 on CPUs that have it, which moves a component of an
embedding by up to 3e-3; `ov_config={"INFERENCE_PRECISION_HINT": "f32"}` makes it compute in float32.
"""

import importlib.util
from pathlib import Path

OPENVINO_FILE = "openvino/openvino_model.xml"  # the weights lie beside it, in openvino_model.bin


def require_openvino() -> None:
    """Refuse to continue without the package.

    Raises:
        ValueError: says how to install it.
    """
    if importlib.util.find_spec("openvino") is None:
        raise ValueError('--openvino needs the package openvino: pip install "nomic-embed-hf[onnx,openvino]"')


def export_openvino(onnx_file: str | Path, file: str | Path) -> None:
    """Convert what `publishing.onnx_export.export_onnx` wrote, with the same inputs, output and free axes.

    Args:
        onnx_file: the ONNX file in float32.
        file: the .xml file to write; the weights get the same name with .bin.

    Raises:
        ValueError: openvino is missing.
    """
    require_openvino()
    from nomic_bert.openvino_import import openvino

    model = openvino.Core().read_model(str(onnx_file))
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(file), compress_to_fp16=False)
