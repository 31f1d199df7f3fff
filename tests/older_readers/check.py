"""Open a model's directory with the packages of this environment and compare with what the main one wrote beside it.

python -I tests/older_readers/check.py OUTPUT_OF_WRITE_EXPECTED

Runs in the older environment, without the project: all code comes from the model's directory. Prints a table and exits
1 where token ids, prompts or lengths differ, or an embedding by more than rounding.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

# Before anything imports huggingface_hub: no network, and no copy of remote code that an earlier run left.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="older-readers-")
os.environ["HF_MODULES_CACHE"] = os.path.join(os.environ["HF_HOME"], "modules")

import numpy as np
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

Differences = Iterator[tuple[str, float]]  # what was compared, and by how much it differs at most

_TOLERANCE, _ONNX_TOLERANCE = 1e-5, 1e-4


class Expected:
    """What `write_expected.py` wrote."""

    def __init__(self, directory: Path) -> None:
        content = json.loads((directory / "expected.json").read_text(encoding="utf-8"))
        self.model = str(directory / "model")
        self.has_onnx = (directory / "model" / "onnx" / "model.onnx").is_file()
        self.texts: list[str] = content["texts"]
        self.ids: list[list[int]] = content["ids"]
        self.together: list[int] = content["together"]
        self.prompted: list[int] = content["prompted"]
        self.prompts: dict[str, str] = content["prompts"]
        self.max_seq_length: int = content["max_seq_length"]
        self.arrays: dict[str, np.ndarray] = load_file(directory / "expected.safetensors")

    @property
    def lengths(self) -> list[int]:
        """Tokens of the texts, each length once."""
        return sorted({len(tokens) for tokens in self.ids})


@torch.no_grad()
def compare_transformers(expected: Expected) -> Differences:
    """AutoModel and AutoTokenizer: texts alone, then together as one padded batch."""
    tokenizer = AutoTokenizer.from_pretrained(expected.model, trust_remote_code=True)
    model = AutoModel.from_pretrained(expected.model, trust_remote_code=True).eval()
    require_remote_code(model)
    require_equal("token ids", tokenizer(expected.texts, truncation=True)["input_ids"], expected.ids)

    def token_means(texts: list[str]) -> np.ndarray:
        inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()

    wanted = expected.arrays["token_means"]
    yield "alone", largest(np.concatenate([token_means([text]) for text in expected.texts]), wanted)
    yield "together", largest(token_means([expected.texts[n] for n in expected.together]), wanted[expected.together])


def compare_sentence_transformers(expected: Expected, backend: str) -> Differences:
    """SentenceTransformer: texts alone, together, and with every prompt by each way to it."""
    options = {} if backend == "torch" else {"provider": "CPUExecutionProvider"}
    embedder = SentenceTransformer(
        expected.model, device="cpu", trust_remote_code=True, backend=backend, model_kwargs=options
    )
    if backend == "torch":
        require_remote_code(embedder[0].auto_model)
    require_equal("max_seq_length", embedder.max_seq_length, expected.max_seq_length)
    require_equal("token ids", embedder.preprocess(expected.texts)["input_ids"][-1].tolist(), expected.ids[-1])
    require_equal("prompts", {name: embedder.prompts.get(name) for name in expected.prompts}, expected.prompts)
    require_equal("similarity", embedder.similarity_fn_name, "cosine")

    wanted, texts = expected.arrays["embeddings"], expected.texts
    yield "alone", largest(np.stack([embedder.encode(text) for text in texts]), wanted)
    together = embedder.encode([texts[n] for n in expected.together], batch_size=len(texts))
    yield "together", largest(together, wanted[expected.together])
    prompted = [texts[n] for n in expected.prompted]
    for name in expected.prompts:
        yield f"prompt {name}", largest(embedder.encode(prompted, prompt_name=name), expected.arrays[name])
    yield "encode_query", largest(embedder.encode_query(prompted), expected.arrays["query"])
    yield "encode_document", largest(embedder.encode_document(prompted), expected.arrays["document"])


def require_remote_code(model: torch.nn.Module) -> None:
    """Refuse a model whose class is not the directory's own."""
    if not type(model).__module__.startswith("transformers_modules."):
        raise ValueError(f"the model's class comes from {type(model).__module__}, not from the directory.")


def require_equal(what: str, found: object, wanted: object) -> None:
    """Refuse other token ids, prompts or lengths than the main environment's."""
    if found != wanted:
        raise ValueError(f"{what}: {str(found)[:200]} where the main environment has {str(wanted)[:200]}")


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of any component; infinite for another shape, and for NaN."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(found - wanted).max(), nan=np.inf))


def main(directory: Path) -> bool:
    """Print the table; whether all readers agree."""
    if find_spec("nomic_bert") is not None:
        raise SystemExit("error: this environment has the package installed; all code must come from the directory.")
    expected = Expected(directory)
    readers: list[tuple[str, tuple[str, ...], float, Callable[[], Differences]]] = [
        ("transformers", ("transformers", "torch"), _TOLERANCE, lambda: compare_transformers(expected)),
        ("sentence-transformers", ("sentence-transformers", "transformers"), _TOLERANCE,
         lambda: compare_sentence_transformers(expected, "torch")),
    ]  # fmt: skip
    if expected.has_onnx:
        packages = ("sentence-transformers", "optimum-onnx", "onnxruntime")
        onnx = ('sentence-transformers, backend="onnx"', packages, _ONNX_TOLERANCE)
        readers.append((*onnx, lambda: compare_sentence_transformers(expected, "onnx")))
    lengths = ", ".join(f"{length:,}" for length in expected.lengths)
    print("\n| reader | versions | tokens | largest difference | allowed | |\n| --- | --- | --- | ---: | ---: | --- |")
    all_agree = True
    for name, packages, tolerance, compare in readers:
        versions = ", ".join(f"{package} {version(package)}" for package in packages)
        try:
            what, difference = max(compare(), key=lambda found: found[1])
            agrees, remark = difference <= tolerance, "agrees" if difference <= tolerance else f"DIFFERS: {what}"
        except Exception as error:
            difference, agrees, remark = float("nan"), False, f"FAILED: {type(error).__name__}: {error}"
        print(f"| {name} | {versions} | {lengths} | {difference:.1e} | {tolerance:.0e} | {remark} |", flush=True)
        all_agree &= agrees
    return all_agree


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python -I {sys.argv[0]} OUTPUT_OF_WRITE_EXPECTED")
    try:
        sys.exit(not main(Path(sys.argv[1])))
    finally:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
