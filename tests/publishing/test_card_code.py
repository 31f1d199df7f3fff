"""The code on a card runs, and gives the embedder's vectors."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch

from nomic_bert import NomicBertModel
from nomic_bert.embedder import load_embedder, save_embedder
from publishing.card import describe_model, model_card
from tests.checkpoints import save_nomic
from tests.publishing.card_facts import NOTHING, section

RUN_SNIPPETS = """
import json, sys
import numpy as np
output = {}
for name, snippet in json.load(sys.stdin):
    scope = {}
    exec(snippet, scope)
    if "embeddings" in scope:
        found = scope["embeddings"]
    else:
        found = np.concatenate([scope["queries"], scope["documents"]] if "queries" in scope else [scope["short"]])
    model = scope["model"]
    encoder = model[0].auto_model if hasattr(model, "encode") else model
    output[name] = [type(encoder).__module__, np.asarray(found).tolist(), np.ravel(scope.get("binary", [])).tolist()]
    assert ("nomic_bert" in sys.modules) == name.endswith("package"), name
print("RESULT" + json.dumps(output))
"""
NAMES = ["sentence-transformers", "package", "transformers", "native", "onnx", "shorter"]
QUERY, DOCUMENT = "solve a banded linear system", "Solve the equation a @ x = b for x, where a is a banded matrix."


def save_shifted(directory):
    """A checkpoint whose token vectors have no mean of zero: without that a layer norm changes no direction."""
    save_nomic(directory)
    model = NomicBertModel.from_pretrained(directory)
    torch.nn.init.normal_(model.encoder.layers[-1].norm2.bias)
    model.save_pretrained(directory)


def snippets_of(embedder):
    """The Python code of the card of an embedder."""
    text = model_card(replace(NOTHING, model=describe_model(embedder), exported_files=["onnx/model.onnx"]))
    blocks = re.findall(r"```python\n(.*?)```", section(text, "Usage") + section(text, "Shorter embeddings"), re.DOTALL)
    return dict(zip(NAMES, blocks, strict=True))


def test_the_code_runs_and_every_reader_gives_the_embedders_vectors(tmp_path, repository):
    save_shifted(tmp_path / "checkpoint")
    directories = {"plain": tmp_path / "plain", "with a layer norm": tmp_path / "normed"}
    jobs = []
    for model, directory in directories.items():
        embedder = load_embedder(tmp_path / "checkpoint", layer_norm=model != "plain", device="cpu")
        save_embedder(embedder, directory)
        for name, snippet in snippets_of(embedder).items():
            if name != "onnx":
                jobs.append((f"{model}: {name}", snippet.replace("owner/my-model", str(directory))))
    run = subprocess.run(
        [sys.executable, "-c", RUN_SNIPPETS], text=True, capture_output=True, cwd=tmp_path, check=False,
        input=json.dumps(sorted(jobs, key=lambda job: job[0].endswith("package"))),  # last: it registers its classes
        env={**os.environ, "PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.split("RESULT")[1])
    modules = {"native": "transformers", "package": "nomic_bert"}
    for model, directory in directories.items():
        for name in set(NAMES) - {"onnx"}:
            # native reads to the trained length, which the document is beyond
            length = 64 if name == "native" else None
            embedder = load_embedder(directory, max_seq_length=length, device="cpu")
            expected = np.stack([embedder.encode_query(QUERY), embedder.encode_document(DOCUMENT)])
            module, embeddings, binary = found[f"{model}: {name}"]
            assert module.split(".")[0] == modules.get(name, "transformers_modules")
            if name == "shorter":
                expected = expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
                assert binary == np.packbits(expected[1] > 0).tolist()
                expected = expected[:1]
            np.testing.assert_allclose(embeddings, expected, atol=1e-5, err_msg=f"{model}: {name}")


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_code_for_onnx_pads_and_pools_as_the_embedder_does(tmp_path, monkeypatch, layer_norm):
    """With torch in the place of the exported graph, which has tests of its own."""
    onnxruntime = pytest.importorskip("onnxruntime")
    save_shifted(tmp_path)
    embedder = load_embedder(tmp_path, layer_norm=layer_norm, device="cpu")

    class Session:
        def __init__(self, file):
            assert file == "owner/my-model/onnx/model.onnx"

        @torch.no_grad()
        def run(self, outputs, inputs):
            tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
            return [embedder[0].auto_model(**tensors)[name].numpy() for name in outputs]

    def download(repository, file):
        return str(tmp_path / file) if file == "tokenizer.json" else f"{repository}/{file}"

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    scope = {}
    exec(snippets_of(embedder)["onnx"], scope)
    expected = np.stack([embedder.encode_query(QUERY), embedder.encode_document(DOCUMENT)])
    np.testing.assert_allclose(scope["embeddings"], expected, atol=1e-5)
