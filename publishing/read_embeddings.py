"""What the readers of a directory make of some texts: run in a process of its own by `publishing.readers`.

python -I publishing/read_embeddings.py JOB_FILE

This file imports nothing of the project, so that a reader without the package is one; `tests/readers/read.py` takes
functions from it into environments where other programs are installed. The job is JSON with
`directory`, `readers` (names that `open_reader` knows, all with the package or all without it), `probes` (a list of
{"text", "prefix", "prompt_name"}), `together` (numbers of the probes that are embedded once more, as one batch) and
`output`, a directory that gets a file NUMBER.npy for each reader, float32 (probes + together, dim), and versions.json.
"""

import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

Probe = dict[str, str]
Embed = Callable[[list[Probe]], np.ndarray]
EmbedTexts = Callable[[list[str]], np.ndarray]
Run = Callable[[dict[str, np.ndarray]], np.ndarray]  # input_ids and attention_mask -> token vectors


def full_texts(probes: list[Probe]) -> list[str]:
    """The texts with their prefixes."""
    return [probe["prefix"] + probe["text"] for probe in probes]


def with_prefixes(embed: EmbedTexts) -> Embed:
    """A reader that knows no prompts, given the prefixes in the texts."""
    return lambda probes: embed(full_texts(probes))


def mean_at_unit_length(tokens: Any, mask: Any, layer_norm: bool) -> np.ndarray:
    """Mean of real token vectors, (batch, tokens, dim) and (batch, tokens), then the directory's further modules."""
    weights = mask[..., None].astype(np.float64)
    mean = (tokens * weights).sum(1) / weights.sum(1)
    if layer_norm:
        mean = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-5)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def has_layer_norm(directory: str) -> bool:
    """Whether the embedding is normalized before it is brought to unit length, as the module files say."""
    with open(f"{directory}/modules.json", encoding="utf-8") as file:
        return any(module["type"].endswith(".LayerNorm") for module in json.load(file))


def open_transformers(
    directory: str, from_module: str, *, trust_remote_code: bool | None = None, **options: Any
) -> EmbedTexts:
    """AutoModel, with options, and AutoTokenizer; the class must come from the module that this reader is about."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=bool(trust_remote_code))
    model = AutoModel.from_pretrained(directory, trust_remote_code=trust_remote_code, **options).eval()
    require_module(model, from_module)
    layer_norm = has_layer_norm(directory)

    @torch.no_grad()
    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return mean_at_unit_length(states.numpy(), batch["attention_mask"].numpy(), layer_norm)

    return embed


def open_sentence_transformers(directory: str, from_module: str, remote_code: bool) -> Embed:
    """SentenceTransformer, with its own tokenizing, pooling, prompts and lengths."""
    import torch
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(
        directory, device="cpu", trust_remote_code=remote_code, model_kwargs={"dtype": torch.float32}
    )
    require_module(embedder[0].auto_model, from_module)

    def embed(probes: list[Probe]) -> np.ndarray:
        names = {probe["prompt_name"] for probe in probes}
        if len(names) > 1:
            return embedder.encode(full_texts(probes), prompt="", batch_size=len(probes))
        name = names.pop()
        asked: Any = {"prompt_name": name} if name else {"prompt": ""}
        return embedder.encode([probe["text"] for probe in probes], **asked)

    return embed


def open_onnx(file: str) -> Run:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["last_hidden_state"], inputs)[0]


def open_openvino(file: str) -> Run:
    """OpenVINO on the CPU, told to compute in float32."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # else the import reports itself to its makers
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: model(inputs)["last_hidden_state"]


def open_graph(directory: str, run: Run) -> EmbedTexts:
    """A graph that gives token vectors, with the tokenizers library alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    layer_norm = has_layer_norm(directory)

    def embed(texts: list[str]) -> np.ndarray:
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        shape = len(encoded), max(map(len, encoded))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, text in enumerate(encoded):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        return mean_at_unit_length(run({"input_ids": ids, "attention_mask": mask}), mask, layer_norm)

    return embed


def require_module(model: Any, name: str) -> None:
    """Stop if the model's class does not come from the module that the reader is named after."""
    found = type(model).__module__
    if found.split(".")[0] != name.split(".")[0]:
        raise SystemExit(f"{type(model).__name__} comes from {found}, and {name} was to be tried")


REMOTE, PACKAGE, NATIVE = "transformers_modules", "nomic_bert", "transformers.models"


def open_reader(reader: str, directory: str) -> tuple[Embed, list[str]]:
    """The reader's function from probes to embeddings, and the packages that it is made of."""
    library, _, source = reader.partition("/")
    if library == "onnxruntime":
        return with_prefixes(open_graph(directory, open_onnx(f"{directory}/onnx/{source}"))), [library, "tokenizers"]
    if library == "openvino":
        graph = open_graph(directory, open_openvino(f"{directory}/openvino/{source}"))
        return with_prefixes(graph), [library, "tokenizers"]
    module = {"remote": REMOTE, "package": PACKAGE, "native": NATIVE}[source]
    if source == "package":
        importlib.import_module("nomic_bert")
    if library == "transformers":
        import torch

        # unset, not False: what a user gets who has not heard of remote code
        options: dict[str, Any] = {"trust_remote_code": True} if source == "remote" else {}
        return with_prefixes(open_transformers(directory, module, dtype=torch.float32, **options)), [library]
    return open_sentence_transformers(directory, module, source == "remote"), [library, "transformers"]


def main(job_file: str) -> None:
    """Read the job; with each reader embed its probes one by one and then together; write embeddings and versions."""
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    probes, versions = job["probes"], []
    for number, reader in enumerate(job["readers"]):
        embed, packages = open_reader(reader, job["directory"])
        rows = [embed([probe])[0] for probe in probes]
        rows += list(embed([probes[place] for place in job["together"]])) if job["together"] else []
        np.save(f"{job['output']}/{number}.npy", np.stack(rows).astype(np.float32))
        versions.append({package: version(package) for package in packages})
        with_package = reader.endswith("/package")
        if ("nomic_bert" in sys.modules) != with_package:
            raise SystemExit(f"{reader}: the package nomic_bert was {'not ' if with_package else ''}imported")
    with open(f"{job['output']}/versions.json", "w", encoding="utf-8") as file:
        json.dump(versions, file)


if __name__ == "__main__":
    main(sys.argv[1])
