"""A search in an index, with a model that was not trained by the quickstart."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from nomic_bert import encoding
from nomic_bert.embedder import load_embedder, save_embedder
from recipes import search as command
from recipes.quickstart_text import docstrings
from recipes.quickstart_text.index import INDEX, search
from tests.checkpoints import save_nomic
from textfiles.replacing import replaceable_directory

FUNCTIONS = [["pkg.find", "find files by name"], ["pkg.sort", "sort a list"], ["pkg.listen", "open a socket"]]


@pytest.fixture
def model_dir(tmp_path):
    model = load_embedder(save_nomic(tmp_path / "checkpoint"), device="cpu")
    save_embedder(model, tmp_path / "model")
    with replaceable_directory(tmp_path / "model" / INDEX) as index:
        np.save(index / "embeddings.npy", model.encode_document([text for _, text in FUNCTIONS]))
        (index / "functions.json").write_text(json.dumps(FUNCTIONS))
    return tmp_path / "model"


@pytest.mark.parametrize(("query", "dtype"), [("word " * 100, torch.float32), ("files", torch.bfloat16)])
def test_long_queries_are_truncated_and_weights_may_be_stored_in_half(model_dir, query, dtype):
    load_embedder(model_dir, device="cpu", dtype=dtype)[0].model.save_pretrained(model_dir)
    embedder = load_embedder(model_dir, device="cpu")
    assert embedder[0].model.dtype == dtype
    expected = np.load(model_dir / INDEX / "embeddings.npy") @ embedder.encode_query(query)
    found = {name: score for score, name, _ in search(model_dir, query, by="dense")}
    assert [found[name] for name, _ in FUNCTIONS] == pytest.approx(expected, abs=1e-5 if dtype.itemsize > 2 else 0.01)


def test_a_query_without_a_known_word_is_answered(model_dir, capsys):
    command.main([str(model_dir), "zzz", "--bm25"])
    assert "No name or summary has a word of the query" in capsys.readouterr().out
    command.main([str(model_dir), "zzz"])
    assert "pkg.sort" in capsys.readouterr().out


def test_a_search_does_not_wait_for_torch(model_dir, repository):
    program = "import sys; from recipes.search import main; main(sys.argv[1:])"
    program += "; assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)"
    command = [sys.executable, "-c", program, str(model_dir), "files"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0 and "pkg.find" in run.stdout, run.stderr


@pytest.mark.parametrize("name", [f"{INDEX}/embeddings.npy", f"{INDEX}/functions.json", "model.safetensors"])
def test_one_changed_bit_is_named_with_the_remedy(model_dir, name):
    content = bytearray((model_dir / name).read_bytes())
    content[-9] ^= 1
    (model_dir / name).write_bytes(content)
    with pytest.raises(SystemExit, match=f"error: .*{name} is not what was written there: .* again"):
        command.main([str(model_dir), "files"])


def test_an_index_of_something_else_is_not_replaced_and_nan_is_not_indexed(model_dir, monkeypatch):
    (model_dir / INDEX / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"added or changed since it was written: notes\.txt"):
        command.main([str(model_dir), "files", "--packages", "bm25s"])
    (model_dir / INDEX / "notes.txt").unlink()
    monkeypatch.setattr(docstrings, "read_docstrings", lambda names: [])
    monkeypatch.setattr(docstrings, "docstring_pairs", lambda _: [{"name": "a", "query": "b", "document": "c"}])
    monkeypatch.setattr(encoding, "encode_by_tokens", lambda *_, **__: np.full((1, 32), np.nan, np.float32))
    with pytest.raises(SystemExit, match="not finite"):
        command.main([str(model_dir), "files", "--packages", "bm25s"])
    assert search(model_dir, "files", by="bm25")
