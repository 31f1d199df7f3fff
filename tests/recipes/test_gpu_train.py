"""The numbers of `make gpu-train`, and what comes back from it; training itself is tried by its smoke form (long)."""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from nomic_bert.embedder import load_embedder
from recipes.steps import gpu_train
from recipes.steps.gpu_train import GpuTraining
from tests.checkpoints import save_nomic


def test_it_has_12_layers_and_the_smoke_form_the_quickstarts_slice(tmp_path):
    assert GpuTraining(tmp_path, smoke=False).settings.model["num_hidden_layers"] == 12
    assert GpuTraining(tmp_path, smoke=True).corpus_settings.limit == 600


def test_what_comes_back_is_an_embedder_in_half_precision_in_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_train, "_PART_BYTES", 20_000)
    training = GpuTraining(tmp_path / "made", smoke=False)
    training.model = save_nomic(tmp_path / "made" / "model")
    for report in gpu_train._REPORTS:
        (tmp_path / "made" / report).parent.mkdir(exist_ok=True)
        (tmp_path / "made" / report).write_text("[]")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "gpu_train.tar.99").write_text("of an earlier, longer archive")
    parts = training.keep(tmp_path / "kept")
    assert len(parts) > 10 and max(part.stat().st_size for part in parts) <= 20_000
    as_cat_joins_them = sorted((tmp_path / "kept").glob("gpu_train.tar.*"))
    (tmp_path / "joined.tar").write_bytes(b"".join(part.read_bytes() for part in as_cat_joins_them))
    with tarfile.open(tmp_path / "joined.tar") as tar:
        tar.extractall(tmp_path / "back", filter="data")
    assert json.loads((tmp_path / "back" / "scores.json").read_text()) == []
    found, expected = (
        load_embedder(path, device="cpu").encode("abc") for path in (tmp_path / "back/model", training.model)
    )
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert load_embedder(tmp_path / "back/model", device="cpu")[0].model.dtype.itemsize == 2


@pytest.mark.long
def test_the_smoke_form_runs_to_its_table(tmp_path, repository):
    command = [
        sys.executable,
        str(repository / "recipes" / "gpu_train.py"),
        "--smoke",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    subprocess.run([*command, "--text_only"], check=True)
    ended = subprocess.run([*command, "--keep", str(tmp_path / "kept")], check=True, capture_output=True, text=True)
    assert "[1/13] Read docstrings: done before" in ended.stdout and "| stage 3 |" in ended.stdout
    assert (tmp_path / "kept" / "gpu_train.tar.000").is_file()
