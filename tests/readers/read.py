"""Embed the texts of a job with one program, as its users do. Runs in that program's environment.

python -I tests/readers/read.py JOB_DIRECTORY PROGRAM OUTPUT

Without the project: all code comes from the published directory and from the program. The job is `job.json` with
`texts` (prefix included), `groups` (lists of text numbers that are embedded as one batch), `longest` in tokens,
`layer_norm` (whether one follows the mean) and `model`, the published directory. OUTPUT gets {"alone": embeddings of
the texts, "groups": [embeddings of each group], "precision": in which the program says that it computes, or null}.
"""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before anything imports huggingface_hub: no network, and no copy of remote code that an earlier run left.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp(prefix="readers-"), "VLLM_NO_USAGE_STATS": "1"}

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "publishing"))
shared = importlib.import_module("read_embeddings")  # which imports nothing of the project either
del sys.path[0]

Embed = Callable[[list[str]], np.ndarray]
MODULES = {"remote": shared.REMOTE, "native": shared.NATIVE}
precision: list[str] = []  # what a program says of itself


def open_sentence_transformers(model_directory: str, source: str) -> Embed:
    from sentence_transformers import SentenceTransformer

    options = {} if source == "native" else {"trust_remote_code": True}
    if source in ("onnx", "openvino"):
        precision = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
        options |= {"backend": source, "model_kwargs": {} if source == "onnx" else precision}
    embedder = SentenceTransformer(model_directory, device="cpu", **options)
    if source in MODULES:
        shared.require_module(embedder[0].auto_model, MODULES[source])
    return lambda texts: embedder.encode(texts, batch_size=len(texts))


def open_openvino(job: dict, **settings: str) -> Embed:
    import openvino

    model = openvino.Core().compile_model(f"{job['model']}/openvino/openvino_model.xml", "CPU", settings)
    precision.append(str(model.get_property("INFERENCE_PRECISION_HINT").to_string()))
    return shared.open_graph(job["model"], lambda inputs: model(inputs)["last_hidden_state"])


def open_fastembed(model_directory: str) -> Embed:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    dim = json.loads(Path(model_directory, "config.json").read_text())["hidden_size"]
    TextEmbedding.add_custom_model(
        model="me/model", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="me/model"), dim=dim,
        model_file="onnx/model.onnx",
    )  # fmt: skip
    embedder = TextEmbedding("me/model", specific_model_path=model_directory)
    return lambda texts: np.stack(list(embedder.embed(texts, batch_size=len(texts))))


def open_infinity(model_directory: str) -> Embed:
    import asyncio

    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    arguments = EngineArgs(
        model_name_or_path=model_directory, engine="torch", device="cpu", trust_remote_code=True, model_warmup=False,
        bettertransformer=False, compile=False, dtype="float32", batch_size=8,
    )  # fmt: skip

    async def ask(texts: list[str]) -> np.ndarray:
        engine = AsyncEmbeddingEngine.from_args(arguments)
        async with engine:
            embeddings, _ = await engine.embed(sentences=texts)
            return np.stack(embeddings)

    return lambda texts: asyncio.run(ask(texts))


def open_vllm(job: dict, dtype: str) -> Embed:
    from vllm import LLM

    # on a CPU the utilization is a share of the machine's memory, of which others use some
    model = LLM(
        model=job["model"], runner="pooling", dtype=dtype, max_model_len=job["longest"], gpu_memory_utilization=0.3,
        enforce_eager=True,
    )  # fmt: skip
    precision.append(str(model.llm_engine.model_config.dtype).removeprefix("torch."))
    return lambda texts: np.array([output.outputs.embedding for output in model.embed(texts, use_tqdm=False)])


def open_authors(job: dict) -> Embed:
    """The authors' classes. Their rotary cache depends on earlier texts, so each call has a fresh model."""
    import torch
    from transformers import AutoTokenizer

    model_directory, checkout = job["model"], job["authors"]
    sys.path.insert(0, str(Path(checkout).parent))
    package = __import__(f"{Path(checkout).name}.modeling_hf_nomic_bert", fromlist=["NomicBertModel"])
    configuration = __import__(f"{Path(checkout).name}.configuration_hf_nomic_bert", fromlist=["NomicBertConfig"])
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    layer_norm = shared.has_layer_norm(model_directory)

    def embed(texts: list[str]) -> np.ndarray:
        config = configuration.NomicBertConfig.from_pretrained(model_directory)
        model = package.NomicBertModel.from_pretrained(model_directory, config=config, add_pooling_layer=False).eval()
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return shared.mean_at_unit_length(states.numpy(), batch["attention_mask"].numpy(), layer_norm)

    return embed


def open_program(program: str, job: dict) -> Embed:
    library, _, source = program.partition("/")
    directory = job["model"]
    options = {"trust_remote_code": True} if source == "remote" else {}
    return {
        "transformers": lambda: shared.open_transformers(directory, MODULES[source], **options),
        "sentence-transformers": lambda: open_sentence_transformers(directory, source),
        "onnxruntime": lambda: shared.open_graph(directory, shared.open_onnx(f"{directory}/onnx/model.onnx")),
        "openvino": lambda: open_openvino(job, INFERENCE_PRECISION_HINT="f32"),
        "openvino-default": lambda: open_openvino(job),
        "fastembed": lambda: open_fastembed(directory),
        "infinity": lambda: open_infinity(directory),
        "vllm": lambda: open_vllm(job, "float32"),
        "vllm-default": lambda: open_vllm(job, "auto"),
        "authors": lambda: open_authors(job),
    }[library]()


def main(job_directory: str, program: str, output: str) -> None:
    job = json.loads(Path(job_directory, "job.json").read_text(encoding="utf-8"))
    embed = open_program(program, job)
    found = {
        "alone": [np.asarray(embed([text]), np.float64)[0].tolist() for text in job["texts"]],
        "groups": [np.asarray(embed([job["texts"][n] for n in group]), np.float64).tolist() for group in job["groups"]],
        "precision": precision[0] if precision else None,
    }
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":  # vLLM starts this file again
    main(*sys.argv[1:])
