"""What ONNX Runtime computes from an exported file is what torch computes, for every text alone and in any batch."""

import contextlib
import io
import logging
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nomic_bert import NomicBertForMaskedLM, NomicBertModel
from publishing import onnx_export
from publishing.onnx_export import export_onnx, quantize_onnx
from tests.checkpoints import save_nomic, save_other
from tests.tensors import pad

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TRAINED = 64  # tokens of save_nomic's model, whose usable length is 256
LENGTHS = (5, TRAINED - 1, TRAINED, TRAINED + 1, 256)
TOLERANCE = 1e-5  # of token states, whose spread is 1


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: opened.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint of a head, stored in bfloat16, its two files, and what exporting said."""
    directory = tmp_path_factory.mktemp("onnx")
    checkpoint = save_nomic(directory / "checkpoint")
    NomicBertForMaskedLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(checkpoint)
    file, quantized = directory / "onnx" / "model.onnx", directory / "onnx" / "quantized.onnx"
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "torch.onnx._internal.exporter._registration")]
    for logger in loggers:
        logger.addHandler(handler)
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        export_onnx(checkpoint, file)
        quantize_onnx(file, quantized)
    for logger in loggers:
        logger.removeHandler(handler)
    said += [str(warning.message) for warning in warned] + printed.getvalue().splitlines()
    return SimpleNamespace(checkpoint=checkpoint, file=file, quantized=quantized, said=said)


@pytest.fixture(scope="module")
def torch_model(exported):
    return NomicBertModel.from_pretrained(exported.checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 99, (length,), generator=generator) for length in LENGTHS]


@torch.no_grad()
def states_of(model, text):
    return model(text[None]).last_hidden_state[0].numpy()


def largest(found, wanted):
    assert found.shape == wanted.shape and found.dtype == np.float32
    return np.abs(found - wanted).max()


def test_every_length_alone_is_torchs(exported, torch_model, texts):
    run = session(exported.file)
    for text in [*texts, torch.tensor([7])]:
        found = run(text[None], torch.ones_like(text)[None])[0]
        assert largest(found, states_of(torch_model, text)) < TOLERANCE, f"{len(text)} tokens"


@pytest.mark.parametrize("left", [False, True])
def test_a_text_does_not_depend_on_its_batch(exported, torch_model, texts, left):
    """Torch computes each text alone; a text beyond the trained length must not scale its neighbours."""
    ids, mask = pad(texts, left=left)
    found = session(exported.file)(ids, mask)
    assert np.abs(found[mask.numpy() == 0]).max() == 0
    for row, text in enumerate(texts):
        assert largest(found[row][mask[row].numpy() == 1], states_of(torch_model, text)) < TOLERANCE


def test_scaling_is_in_the_graph(exported, texts):
    unscaled = NomicBertModel.from_pretrained(exported.checkpoint, dtype=torch.float32, rotary_scaling_factor=None)
    run = session(exported.file)
    for text in texts:
        moved = largest(run(text[None], torch.ones_like(text)[None])[0], states_of(unscaled.eval(), text))
        assert moved > 100 * TOLERANCE if len(text) > TRAINED else moved < TOLERANCE, f"{len(text)} tokens"


def test_the_file_holds_everything_and_no_place_of_this_machine(exported, repository):
    proto = onnx.load(str(exported.file), load_external_data=False)
    assert [tensor.name for tensor in proto.graph.initializer if tensor.external_data] == []
    assert [path.name for path in exported.file.parent.iterdir()].count("model.onnx") == 1
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    both = ["batch", "length"]
    assert axes == {"input_ids": both, "attention_mask": both, "last_hidden_state": [*both, 32]}
    assert {value.type.tensor_type.elem_type for value in proto.graph.input} == {onnx.TensorProto.INT64}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    for file in (exported.file, exported.quantized):
        assert onnx.load(str(file), load_external_data=False).ir_version == 8  # 9 and 10 do not open in 1.16 and 1.17
        content = file.read_bytes()
        assert str(repository).encode() not in content and b".py" not in content


def test_the_8_bit_file_is_smaller_and_close(exported, torch_model, texts):
    operators = {node.op_type for node in onnx.load(str(exported.quantized)).graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLinear", "DequantizeLinear"} <= operators
    weights = sum(parameter.numel() for parameter in torch_model.parameters())
    graph = exported.file.stat().st_size - 4 * weights
    assert exported.quantized.stat().st_size < 1.2 * weights + 3 * graph
    run = session(exported.quantized)
    for text in texts:
        found = run(text[None], torch.ones_like(text)[None])[0].mean(0)
        wanted = states_of(torch_model, text).mean(0)
        cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert 0.99 < cosine < 0.9999999, f"{len(text)} tokens"


def test_exporting_is_quiet_about_what_is_known_only(exported):
    assert exported.said == []
    logger, heard = logging.getLogger("quiet"), []
    logger.addFilter(lambda record: bool(heard.append(record.getMessage())) or True)
    with onnx_export._without_log("quiet", "torchvision"):
        logger.warning("something else")
    assert heard == ["something else"]


def test_what_cannot_be_exported_is_refused_by_name(exported, tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError, match="absent is not a checkpoint: there is no such directory"):
        export_onnx(tmp_path / "absent", file)
    with pytest.raises(FileNotFoundError, match="absent.onnx.*export_onnx"):
        quantize_onnx(tmp_path / "absent.onnx", file)
    with pytest.raises(ValueError, match="other is a 'bert' checkpoint"):
        export_onnx(save_other(tmp_path / "other"), file)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "_MOST_WEIGHT_BYTES", 1_000)
        with pytest.raises(ValueError, match="checkpoint.*2 GB.*without ONNX"):
            export_onnx(exported.checkpoint, file)
    absent = {"onnxscript", "onnxruntime"}
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None if name in absent else name)
    for act in (export_onnx, quantize_onnx):
        with pytest.raises(ValueError, match=r'pip install "nomic-embed-hf\[onnx\]"'):
            act(exported.file, file)
    assert not file.exists()


def test_a_graph_with_a_fixed_length_is_refused_and_the_earlier_file_stays(exported, tmp_path, monkeypatch):
    fixed = onnx.load(str(exported.file))
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
    monkeypatch.setattr(onnx_export, "_trace", lambda module: fixed)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"earlier")
    with pytest.raises(ValueError, match="model.onnx.*axes"):
        export_onnx(exported.checkpoint, file)
    assert file.read_bytes() == b"earlier" and [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
