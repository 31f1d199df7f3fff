"""OpenVINO, told to compute in float32, gives torch's token vectors for texts of any length, alone and in a batch."""

import numpy as np
import pytest
import torch

from nomic_bert import NomicBertModel
from publishing import openvino_export
from publishing.onnx_export import export_onnx
from publishing.openvino_export import export_openvino
from publishing.read_embeddings import open_openvino
from tests.checkpoints import save_nomic

pytest.importorskip("onnx")


def test_every_text_is_torchs_alone_and_beside_longer_ones(tmp_path):
    pytest.importorskip("openvino")
    save_nomic(tmp_path / "checkpoint")
    export_onnx(tmp_path / "checkpoint", tmp_path / "model.onnx")
    file = tmp_path / "openvino" / "openvino_model.xml"
    export_openvino(tmp_path / "model.onnx", file)
    (tmp_path / "model.onnx").unlink()  # nothing of it is needed
    run, model = open_openvino(str(file)), NomicBertModel.from_pretrained(tmp_path / "checkpoint").eval()
    lengths = (5, 64, 65, 256)  # the trained length is 64
    ids, mask = np.zeros((2, len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length], mask[row, :length] = np.random.default_rng(row).integers(5, 99, length), 1
    together = run({"input_ids": ids, "attention_mask": mask})
    for row, length in enumerate(lengths):
        alone = run({"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]})[0]
        with torch.no_grad():
            wanted = model(torch.from_numpy(ids[row : row + 1, :length])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(alone, wanted, atol=1e-5)
        np.testing.assert_allclose(together[row, :length], wanted, atol=1e-5)
    assert str(tmp_path) not in file.read_text()


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"nomic-embed-hf\[onnx,openvino\]"):
        export_openvino(tmp_path / "model.onnx", tmp_path / "openvino" / "model.xml")
    assert list(tmp_path.iterdir()) == []
