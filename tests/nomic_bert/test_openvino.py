"""An embedder in OpenVINO: torch's own in float32, near it below, and in each precision of one text alone."""

import copy
import gc
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import torch as torch_files
from safetensors.numpy import load_file, save_file

from nomic_bert.embedder import compute_in_openvino, load_embedder, save_embedder
from nomic_bert.encoding import encode_by_tokens
from nomic_bert.identity import weights_hash
from nomic_bert.openvino_encoder import OpenVINOEncoder, plan_rows
from nomic_bert.openvino_int8 import MAXIMA_FILE, measure_input_maxima, read_input_maxima, save_input_maxima
from tests.checkpoints import save_nomic
from tests.processes import Forked

pytest.importorskip("openvino")

# Trained to 64 tokens, usable to 256: two are scaled, one is cut. A tokenizer of letters: 20 letters are 22 tokens.
TEXTS = ["a", "b" * 62, "", "some words", "c d e" * 17, "text " * 60, "z" * 300, "a", "other words here", "q" * 15]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": "int8"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_nomic(tmp_path_factory.mktemp("openvino") / "model")


@pytest.fixture(scope="module")
def embedders(checkpoint):
    return {name: load_embedder(checkpoint, backend="openvino", dtype=dtype) for name, dtype in PRECISIONS.items()}


def cosines(first, second):
    return (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"rotary_scaling_type": "ntk"}, {"rotary_scaling_type": "linear"}, {"rotary_scaling_factor": None}],
    ids=["dynamic", "ntk", "linear", "unscaled"],
)
def test_float32_is_torchs_own_to_float_noise_whatever_scales_the_rotation(tmp_path, settings):
    path = save_nomic(tmp_path / "model", **settings)
    expected = load_embedder(path, device="cpu").encode(TEXTS)
    found = encode_by_tokens(load_embedder(path, backend="openvino", dtype=torch.float32), TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.9999), ("int8", 0.999)])
def test_lower_precisions_stay_near(checkpoint, embedders, precision, least):
    expected = load_embedder(checkpoint, device="cpu").encode(TEXTS)
    found = encode_by_tokens(embedders[precision], TEXTS)
    assert cosines(found, expected).min() > least
    if precision == "int8":
        assert np.abs(found - expected).max() > 1e-5  # else the products ran in another precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_embedding_depends_neither_on_neighbours_nor_on_order_nor_on_earlier_calls(embedders, precision):
    embedder = embedders[precision]
    alone = np.stack([encode_by_tokens(embedder, text) for text in TEXTS])
    for batch_size in (1, 3, 32):
        np.testing.assert_allclose(embedder.encode(TEXTS, batch_size=batch_size), alone, atol=1e-6)
    order = random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    together = encode_by_tokens(embedder, [TEXTS[number] for number in order], tokens_per_batch=700)
    np.testing.assert_allclose(together, alone[order], atol=1e-6)


def test_threads_share_an_embedder(embedders):
    embedder = embedders["float32"]
    expected = encode_by_tokens(embedder, TEXTS)
    found = []

    def work(encode):
        for _ in range(10):
            found.append(encode(embedder, TEXTS))

    ways = [encode_by_tokens, lambda embedder, texts: embedder.encode(texts, show_progress_bar=False)]
    threads = [threading.Thread(target=work, args=(way,)) for way in ways * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for embeddings in found:
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_rows_hold_every_text_once_and_no_more_than_they_may():
    generator = random.Random(0)
    for _ in range(100):
        lengths = tuple(generator.choice([0, 3, 17, 100, 300, 600, 2040]) for _ in range(generator.randrange(30)))
        calls = list(plan_rows(lengths))
        assert [each for rows, _ in calls for row in rows for each in row] == [each for each in lengths if each]
        for rows, width in calls:
            step = 4 if width <= 64 else 16
            assert 0 <= width - max(map(sum, rows)) < step and width % step == 0
            assert len(rows) == 1 or len(rows) * width <= 1024
            assert width <= 1024 or rows == [rows[0][:1]]  # a long row that is shared costs the square of its length


def test_large_channels_do_not_cost_the_others_their_precision(tmp_path):
    """A model that computes the same, with a gate and values whose channels differ by a factor of 1,000."""
    embedder = load_embedder(save_nomic(tmp_path / "model"), device="cpu")
    expected = embedder.encode(TEXTS)
    factors = torch.logspace(-1.5, 1.5, 64)
    with torch.no_grad():
        for layer in embedder[0].model.encoder.layers:
            layer.mlp.fc11.weight *= factors[:, None]
            layer.mlp.fc2.weight /= factors
            layer.attn.Wqkv.weight[-32:] *= factors[:32, None]
            layer.attn.out_proj.weight /= factors[:32]
    np.testing.assert_allclose(embedder.encode(TEXTS), expected, atol=1e-5)
    compute_in_openvino(embedder, tmp_path / "model", "int8")
    assert cosines(encode_by_tokens(embedder, TEXTS), expected).min() > 0.999


def test_int8_takes_the_ranges_that_the_directory_has(checkpoint, embedders, tmp_path):
    embedder = load_embedder(checkpoint, device="cpu")
    save_embedder(embedder, tmp_path / "saved")
    measured = measure_input_maxima(embedder, ["only one short text"])
    save_input_maxima(measured, tmp_path / "saved")
    read = read_input_maxima(tmp_path / "saved" / MAXIMA_FILE, embedder[0].model.config)
    assert all(np.array_equal(read[name], value) for name, value in measured.items())
    other = load_embedder(tmp_path / "saved", backend="openvino", dtype="int8")
    assert np.abs(encode_by_tokens(other, TEXTS) - encode_by_tokens(embedders["int8"], TEXTS)).max() > 1e-6


def test_ranges_are_measured_without_the_default_prompt(checkpoint):
    embedder = load_embedder(checkpoint, device="cpu")
    before = measure_input_maxima(embedder, ["query: text"])
    embedder.default_prompt_name = "search_document"
    after = measure_input_maxima(embedder, ["query: text"])
    assert all(np.array_equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("damage", ["cut", "missing", "misshapen", "nan", "negative", "bfloat16", "integers"])
def test_damaged_ranges_are_named(checkpoint, tmp_path, damage):
    embedder = load_embedder(checkpoint, device="cpu")
    save_embedder(embedder, tmp_path / "saved")
    save_input_maxima(measure_input_maxima(embedder, ["text"]), tmp_path / "saved")
    file = tmp_path / "saved" / MAXIMA_FILE
    values = load_file(file)
    first = next(iter(values))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "missing":
        del values[first]
    elif damage == "misshapen":
        values[first] = values[first][:-1]
    elif damage == "integers":
        values[first] = values[first].astype(np.int32)
    elif damage != "bfloat16":
        values[first][0] = np.nan if damage == "nan" else -1
    if damage == "bfloat16":
        torch_files.save_file({name: torch.tensor(value).bfloat16() for name, value in values.items()}, file)
    elif damage != "cut":
        save_file(values, file)
    with pytest.raises(ValueError, match=r"input_maxima\.safetensors .*[Dd]elete it"):
        load_embedder(tmp_path / "saved", backend="openvino", dtype="int8")


def test_what_it_cannot_do_is_refused(checkpoint, embedders, tmp_path):
    with pytest.raises(ValueError, match="float32, bfloat16, int8, not in float16"):
        load_embedder(checkpoint, backend="openvino", dtype=torch.float16)
    with pytest.raises(ValueError, match="computes on the CPU, not on 'cuda'"):
        load_embedder(checkpoint, backend="openvino", device="cuda")
    with pytest.raises(ValueError, match='must be "torch" or "openvino", not \'onnx\''):
        load_embedder(checkpoint, backend="onnx")
    with pytest.raises(ValueError, match='needs backend="openvino"'):
        load_embedder(checkpoint, dtype="int8")
    with pytest.raises(ValueError, match='dtype=\'fp16\' must be "float32", .*"int8"'):
        load_embedder(checkpoint, dtype="fp16")
    assert load_embedder(checkpoint, device="cpu", dtype="float16")[0].model.dtype is torch.float16
    embedder = embedders["float32"]
    for save in (
        lambda: save_embedder(embedder, tmp_path / "x"),
        lambda: embedder.save_pretrained(str(tmp_path / "y")),
    ):
        with pytest.raises(TypeError, match="cannot be saved"):
            save()
    assert not (tmp_path / "x").exists()
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(embedder)
    with pytest.raises(TypeError, match="has no weights to read"):
        weights_hash(embedder)
    with pytest.raises(ValueError, match="token_type_ids must be 0"):
        embedder[0].model(torch.tensor([[5, 6]]), token_type_ids=torch.tensor([[0, 1]]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"attention_mask": torch.ones(2, 5)}, r"attention_mask must have the input's shape \(2, 3\)"),
        ({"cu_seq_lens_q": torch.tensor([0, 3])}, "describes one packed row"),
        ({"input_ids": torch.tensor([[5, 128]])}, "has 128, which is outside the vocabulary of 128 tokens"),
        ({"input_ids": torch.tensor([[5, -1]])}, "has -1, which is outside"),
    ],
)
def test_inputs_that_torch_refuses_are_refused(embedders, inputs, message):
    with pytest.raises(ValueError, match=message):
        embedders["float32"][0].model(**{"input_ids": torch.full((2, 3), 5), **inputs})


def test_a_device_is_the_cpu_by_any_name(checkpoint):
    assert load_embedder(checkpoint, backend="openvino", dtype=torch.float32, device="cpu:0").device.type == "cpu"


def test_beyond_its_length_it_warns_as_torch_does(checkpoint, embedders, monkeypatch):
    told = []
    monkeypatch.setattr("nomic_bert.rotary_nomic_bert.logger.warning_once", told.append)
    embedders["float32"][0].model(torch.randint(5, 90, (1, 257)))
    assert "longer than the usable length n_positions (256 tokens)" in told[0]


def test_where_the_cpu_has_no_bfloat16_it_computes_in_float32_and_says_so(checkpoint, monkeypatch):
    openvino = pytest.importorskip("openvino")
    told = []
    monkeypatch.setattr("nomic_bert.openvino_encoder.logger.warning_once", told.append)
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    model = load_embedder(checkpoint, device="cpu")[0].model
    assert OpenVINOEncoder(model, None).precision == "float32"
    assert OpenVINOEncoder(model, "bfloat16").precision == "float32"
    assert "no instructions for bfloat16" in told[-1]


def test_openvino_does_not_report_to_its_makers_that_it_was_imported(checkpoint):
    """The report took a process that ran beside the first second of every embedder, and a connection."""
    run = Forked(Path(__file__).with_name("reports_of_openvino.py"), [checkpoint])
    assert run.wait() == 0, run.printed[-2000:]
    assert run.printed.splitlines()[-1] == "[] []"


FREED_AND_FORKED = """
import gc, sys, threading
from torch.utils.data import DataLoader
from nomic_bert.embedder import load_embedder
embedders = [load_embedder(sys.argv[1], backend="openvino", dtype="int8") for _ in range(3)]
work = lambda: [embedder.encode(["a", "b"], show_progress_bar=False) for embedder in embedders]
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
del embedders
gc.collect()
print(sum(len(batch) for batch in DataLoader(list(range(40)), batch_size=4, num_workers=2)))
"""


def test_what_was_freed_leaves_nothing_that_a_later_fork_calls(checkpoint):
    """Workers of a data loader ended the process while OpenVINO's plugin was unloaded with its last embedder."""
    run = subprocess.run([sys.executable, "-c", FREED_AND_FORKED, str(checkpoint)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split()[-1] == "40"


def test_the_mean_of_a_text_without_tokens_is_0(embedders):
    model = embedders["float32"][0].model
    means = model.mean_states([[], [5, 6, 7], []])
    expected = model(torch.tensor([[5, 6, 7]])).last_hidden_state.mean(dim=1).numpy()
    np.testing.assert_allclose(means, [np.zeros(32), expected[0], np.zeros(32)], atol=1e-6)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_in_int8_the_file_of_the_float_weights_is_let_go(tmp_path):
    file = save_nomic(tmp_path / "model") / "model.safetensors"
    embedder = load_embedder(file.parent, backend="openvino", dtype=torch.float32)
    assert str(file) in Path("/proc/self/maps").read_text()  # in float32 the graph shares its memory
    del embedder
    gc.collect()
    embedder = load_embedder(file.parent, backend="openvino", dtype="int8")
    gc.collect()
    assert str(file) not in Path("/proc/self/maps").read_text()
    encode_by_tokens(embedder, TEXTS)
