"""The sides of encode.py: ours and what people use instead, on one model's directory and the same texts.

A side is a function that opens the model, and an entry in `SIDES`. Nothing of this project's model is imported with
this file, because native's process must not have our classes.
"""

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compare import Outcome, peak_memory
from benchmarks.profiles import counts_on_gpu, profiler_of, seconds_by_kind
from textfiles.arrays import write_array

ONNX_FILE, ONNX_INT8_FILE = "model.onnx", "model_int8.onnx"  # beside the model's directory
OPENVINO_FILE = "openvino/openvino_model.xml"
_BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (32, 64, 128, 256, 512)}  # texts
_TRIED_TOKENS = {"cpu": 4_096, "cuda": 131_072}  # of the texts that a batch size is tried on
_PROFILED_TEXTS = 256  # at most: reading the profile of thousands would take longer than all calls
_WARMUP_WORDS = 64
_WARMUP_SECONDS = 2.0  # on a CPU: what a library starts beside its first calls, openvino a report of use, ends by then
_TIMED_SECONDS, _MOST_CALLS = 1.0, 100  # a short call is repeated for so long, or so often

Encode = Callable[[Sequence[str], int | None], np.ndarray]  # texts, batch size (None: its own) -> (n, dim)
Encoder = Callable[[str, Sequence[str], int | None], np.ndarray]  # the same, after a prompt


@dataclass(frozen=True)
class Workload:
    """Texts to embed.

    Attributes:
        name: of the workload.
        prompt: before every text.
        texts: without the prompt.
        lengths: tokens of each, prompt and special tokens included.
    """

    name: str
    prompt: str
    texts: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(self.lengths)

    @property
    def attended(self) -> int:
        """Sum of the squared lengths."""
        return sum(length**2 for length in self.lengths)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a process measures.

    Attributes:
        model: directory that every side reads; ONNX and OpenVINO files lie beside it.
        workloads: one after another, in this order.
        device: "cpu" or "cuda".
        precision: "fp32", "bf16" or "int8", of weights and products.
        threads: on the CPU.
        trained_length: of the model, in tokens.
        embeddings: directory that embeddings are written to.
        profiled: whether one more call of each workload, or of a part of it, runs under torch's profiler.
    """

    model: Path
    workloads: tuple[Workload, ...]
    device: str
    precision: str
    threads: int
    trained_length: int
    embeddings: Path
    profiled: bool = False

    def embeddings_file(self, workload: Workload, side: str) -> Path:
        """Where a side's embeddings of a workload are."""
        return self.embeddings / f"{workload.name}-{side}.npy"


@dataclass(frozen=True)
class Side:
    """One way to embed.

    Attributes:
        about: what it is, as the results say.
        open: loads the model of a job, in the process that measures.
        to_trained_length: whether it computes another model beyond the trained length, where it is not compared.
        tuned: whether batch sizes are tried before the clock starts.
        in_torch: whether its work shows in torch's profiler.
        prepare: writes what it reads beside the model's directory, once, in a process of its own.
        packages: that it needs besides sentence-transformers.
        devices: that it runs on.
        precisions: that it has.
    """

    about: str
    open: Callable[[Job], Encoder]
    to_trained_length: bool = False
    tuned: bool = False
    in_torch: bool = True
    prepare: Callable[[Path], None] | None = None
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[str, ...] = ("fp32", "bf16")


def missing_for(name: str, device: str, precision: str) -> str | None:
    """Why a side cannot be measured here, or None."""
    side = SIDES[name]
    if missing := [package for package in side.packages if importlib.util.find_spec(package) is None]:
        return f"{name} needs {' and '.join(missing)}"
    if device not in side.devices:
        return f"{name} is measured with --device {' or '.join(side.devices)} only"
    if precision not in side.precisions:
        return f"{name} is measured with --precision {' or '.join(side.precisions)} only"
    return None


def measure(job: Job, name: str) -> dict[str, Outcome]:
    """Embed the texts of every workload with one side, in this process, and keep the embeddings.

    Returns:
        Name of each workload -> `seconds` of a whole call with tokenizing (the median of `calls`), `peak_memory` in
        bytes, `batch_size` in texts (None: the side's own choice), and what `profile_call` finds where that is asked.

    Raises:
        RuntimeError: the side's model is not of the class that its name promises.
    """
    torch.set_num_threads(job.threads)
    side = SIDES[name]
    encode_with_prompt = side.open(job)
    outcomes = {}
    for workload in job.workloads:
        encode = partial(encode_with_prompt, workload.prompt)
        warm_up(encode, workload, job.device)
        batch_size = None
        if side.tuned:
            tried = sample_of(workload, _TRIED_TOKENS[job.device])
            batch_size = fastest_batch_size(encode, tried, _BATCH_SIZES[job.device], job.device)
        _reset_peak_memory(job.device)
        seconds: list[float] = []
        while not seconds or (sum(seconds) < _TIMED_SECONDS and len(seconds) < _MOST_CALLS):
            taken, embeddings = _timed(encode, workload.texts, batch_size, job.device)
            seconds.append(taken)
        outcome = {"seconds": statistics.median(seconds), "calls": len(seconds), "batch_size": batch_size}
        outcomes[workload.name] = {**outcome, "peak_memory": peak_memory(torch.device(job.device))}
        write_array(job.embeddings_file(workload, name), embeddings)
        if job.profiled and side.in_torch:
            texts = _every(-(-len(workload.texts) // _PROFILED_TEXTS), workload)
            outcomes[workload.name] |= profile_call(encode, texts, batch_size, job.device)
    return outcomes


def warm_up(encode: Encode, workload: Workload, device: str) -> None:
    """Let libraries start: on a GPU with all texts, for kernels are chosen by shape, on a CPU with a few words."""
    if device == "cuda":
        encode(workload.texts, None)
        return
    few = [" ".join(workload.texts[0].split()[:_WARMUP_WORDS])]
    start = time.perf_counter()
    encode(few, None)
    while time.perf_counter() - start < _WARMUP_SECONDS:
        encode(few, None)


def sample_of(workload: Workload, tokens: int) -> list[str]:
    """Texts evenly over the order of length, in all about so many tokens: they mix lengths as the workload does.

    A sample of like lengths would choose large batches, which padding makes slow where lengths differ.
    """
    return _every(max(-(-workload.tokens // tokens), 1), workload)


def _every(step: int, workload: Workload) -> list[str]:
    """Texts at equal steps over the order of length, at least one."""
    order = np.argsort(workload.lengths, kind="stable")
    return [workload.texts[number] for number in order[step // 2 :: step]] or [workload.texts[order[-1]]]


def fastest_batch_size(encode: Encode, texts: Sequence[str], sizes: Sequence[int], device: str) -> int:
    """The batch size that embeds these texts in the least time; sizes that no batch would fill are not tried."""
    tried = [size for size in sizes if size < 2 * len(texts)] or [sizes[0]]
    if len(tried) == 1:
        return tried[0]
    seconds = {}
    for size in tried:
        with contextlib.suppress(torch.OutOfMemoryError):  # then it is not the fastest
            if device == "cuda":
                encode(texts, size)  # kernels are chosen by shape
            seconds[size] = _timed(encode, texts, size, device)[0]
    return min(seconds, key=lambda size: seconds[size]) if seconds else tried[0]


def _timed(encode: Encode, texts: Sequence[str], batch_size: int | None, device: str) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    embeddings = encode(texts, batch_size)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, embeddings


def profile_call(encode: Encode, texts: Sequence[str], batch_size: int | None, device: str) -> dict[str, Any]:
    """Embed the texts once more as they are timed, and once under torch's profiler.

    The profiler slows the host. So on a GPU the rest is what its kernels leave of the time without the profiler; on a
    CPU the profiled call's own time stands beside its operators'.

    Returns:
        `profile`, kind of work -> seconds of the call, and `counts`, on a GPU what `counts_on_gpu` finds.
    """
    plain, _ = _timed(encode, texts, batch_size, device)
    with profiler_of(torch.device(device)) as profiler:
        profiled, _ = _timed(encode, texts, batch_size, device)
    events = profiler.key_averages()
    if device == "cuda":
        kinds = seconds_by_kind(events, torch.device(device), 1, plain)
        return {"profile": kinds, "counts": counts_on_gpu(events)}
    return {"profile": seconds_by_kind(events, torch.device(device), 1, profiled), "counts": {}}


def _reset_peak_memory(device: str) -> None:
    """Reset the peak, so that neither loading nor the trial of batch sizes counts; on a CPU only Linux can."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _load(job: Job, native: bool = False, attention: str = "sdpa") -> Any:
    """A SentenceTransformer around our model, or around transformers' own.

    Raises:
        RuntimeError: the model is of another class.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading
    if not native:
        import nomic_bert  # noqa: F401  (registers our classes)
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    options = {"dtype": dtype, "attn_implementation": attention}
    embedder = SentenceTransformer(str(job.model), device=job.device, model_kwargs=options)
    found = type(embedder[0].auto_model)
    if found.__module__.startswith("transformers.models.") != native:
        raise RuntimeError(f"the model is a {found.__module__}.{found.__name__}; nothing was timed.")
    return embedder


def _open_by_tokens(job: Job) -> Encoder:
    embedder = _load(job)
    from nomic_bert.encoding import encode_by_tokens

    return lambda prompt, texts, _: encode_by_tokens(embedder, texts, prompt=prompt)


def _open_embedder(job: Job, native: bool = False, attention: str = "sdpa") -> Encoder:
    embedder = _load(job, native, attention)

    def encode(prompt: str, texts: Sequence[str], batch_size: int | None) -> np.ndarray:
        sizes = {} if batch_size is None else {"batch_size": batch_size}
        return embedder.encode(list(texts), prompt=prompt, show_progress_bar=False, **sizes)

    return encode


def _open_by_tokens_in_openvino(job: Job) -> Encoder:
    from nomic_bert.embedder import load_embedder
    from nomic_bert.encoding import encode_by_tokens

    precisions: dict[str, Any] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": "int8"}
    embedder = load_embedder(job.model, backend="openvino", dtype=precisions[job.precision])
    return lambda prompt, texts, _: encode_by_tokens(embedder, texts, prompt=prompt)


def _open_onnx(job: Job) -> Encoder:
    """ONNX Runtime on the exported graph; its int8 file has products of 8 bits with the ranges of each batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    file = str(job.model.parent / (ONNX_INT8_FILE if job.precision == "int8" else ONNX_FILE))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return _around_states(job, lambda inputs: session.run(None, inputs)[0])


def _open_openvino(job: Job) -> Encoder:
    """OpenVINO on the exported graph, as sentence-transformers' backend="openvino" runs it."""
    import openvino

    hint = {"fp32": "f32", "bf16": "bf16"}[job.precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(job.model.parent / OPENVINO_FILE), "CPU", settings)
    return _around_states(job, lambda inputs: compiled(inputs)[0])


def _around_states(job: Job, run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Encoder:
    """The tokenizer, pooling and normalizing around what computes last hidden states."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model, trust_remote_code=False)

    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        inputs = {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        states = run(inputs)
        mask = inputs["attention_mask"][..., None].astype(np.float32)
        means = (states * mask).sum(axis=1) / mask.sum(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def encode(prompt: str, texts: Sequence[str], batch_size: int | None) -> np.ndarray:
        size = batch_size or 32  # as sentence-transformers
        order = np.argsort([-len(text) for text in texts], kind="stable")
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        sorted_embeddings = np.concatenate([embed([prompt + texts[number] for number in batch]) for batch in batches])
        embeddings = np.empty_like(sorted_embeddings)
        embeddings[order] = sorted_embeddings
        return embeddings

    return encode


def _export_onnx(model: Path) -> None:
    from publishing.onnx_export import export_onnx, quantize_onnx

    exported, quantized = model.parent / ONNX_FILE, model.parent / ONNX_INT8_FILE
    if not exported.is_file():  # two sides need it
        export_onnx(model, exported)
    if not quantized.is_file():
        quantize_onnx(exported, quantized)


def _export_openvino(model: Path) -> None:
    from publishing.openvino_export import export_openvino

    _export_onnx(model)
    export_openvino(model.parent / ONNX_FILE, model.parent / OPENVINO_FILE)


_NATIVE = partial(_open_embedder, native=True)
SIDES = {
    "ours_openvino": Side(
        '`encode_by_tokens` on `load_embedder(..., backend="openvino")`',
        _open_by_tokens_in_openvino,
        in_torch=False,
        packages=("openvino",),
        devices=("cpu",),
        precisions=("fp32", "bf16", "int8"),
    ),
    "ours_tokens": Side("`encode_by_tokens`", _open_by_tokens),
    "ours_encode": Side("`SentenceTransformer.encode` on our model as it comes", _open_embedder),
    "native_default": Side(
        "the same on transformers' own NomicBertModel, without our package", _NATIVE, to_trained_length=True
    ),
    "native_sorted": Side(
        "native, with the batch size that is fastest here", _NATIVE, to_trained_length=True, tuned=True
    ),
    "native_flash": Side(
        "native_sorted with flash_attention_2, which computes on no padding",
        partial(_NATIVE, attention="flash_attention_2"),
        to_trained_length=True,
        tuned=True,
        packages=("flash_attn",),
        devices=("cuda",),
    ),
    "onnx": Side(
        "ONNX Runtime on our exported encoder, padded batches of texts of like length, the batch size likewise",
        _open_onnx,
        tuned=True,
        in_torch=False,
        prepare=_export_onnx,
        packages=("onnx", "onnxruntime", "onnxscript"),
        devices=("cpu",),
        precisions=("fp32", "int8"),
    ),
    "openvino": Side(
        "OpenVINO on the same, likewise",
        _open_openvino,
        tuned=True,
        in_torch=False,
        prepare=_export_openvino,
        packages=("onnx", "onnxscript", "openvino"),
        devices=("cpu",),
    ),
}
