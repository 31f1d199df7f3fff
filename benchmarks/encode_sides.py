"""The sides of encode.py: one model's directory and the same texts, for our encode and for what people use instead.

Nothing of ours is imported with this file, because native's process must not have our classes.
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

from benchmarks.measure import peak_memory
from benchmarks.profiles import counts_on_gpu, profiler_of, seconds_by_kind

# Name -> what it is, as the results say.
SIDES = {
    "ours_tokens": "`encode_by_tokens`",
    "ours_encode": "`SentenceTransformer.encode` on our model as it comes",
    "native_default": "the same on transformers' own NomicBertModel, without our package",
    "native_sorted": "native, with the batch size that is fastest here",
    "native_flash": "native_sorted with flash_attention_2, which computes on no padding",
    "onnx": "ONNX Runtime on our exported encoder, padded batches of texts of like length, the batch size likewise",
}
ONNX_FILE = "model.onnx"  # beside the model's directory
TUNED = ("native_sorted", "native_flash", "onnx")  # sides whose batch size is tried
_BATCH_SIZES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (32, 64, 128, 256, 512)}  # texts
_TRIED_TOKENS = {"cpu": 4_096, "cuda": 131_072}  # of the texts that a batch size is tried on
PROFILED_TEXTS = 256  # at most: reading the profile of thousands would take longer than all calls
_WARMUP_WORDS = 64
_TIMED_SECONDS, _MOST_CALLS = 1.0, 100  # a short call is repeated for so long, or so often

Encode = Callable[[Sequence[str], int | None], np.ndarray]  # texts, batch size (None: its own) -> (n, dim)


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
        model: directory that every side reads; the ONNX file lies beside it.
        workloads: one after another, in this order.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16", of weights and computation.
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


def missing_for(side: str, device: str) -> str | None:
    """Why a side cannot be measured here, or None."""
    packages = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "native_flash": ("flash_attn",)}.get(side, ())
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        return f"{side} needs {' and '.join(missing)}"
    if side == "onnx" and device != "cpu":
        return "onnx is measured on a CPU only"
    if side == "native_flash" and device != "cuda":
        return "native_flash needs --device cuda"
    return None


def measure(job: Job, side: str) -> dict[str, dict[str, Any]]:
    """Embed the texts of every workload with one side, in this process, and keep the embeddings.

    Returns:
        Name of each workload -> `seconds` of a whole call with tokenizing (the median of `calls`), `peak_memory` in
        bytes, `batch_size` in texts (None: the side's own choice), and what `profile_call` finds where that is asked.

    Raises:
        RuntimeError: the side's model is not of the class that its name promises.
    """
    torch.set_num_threads(job.threads)
    encode_with_prompt = _open_onnx(job) if side == "onnx" else _open_embedder(job, side)
    outcomes = {}
    for workload in job.workloads:
        encode = partial(encode_with_prompt, workload.prompt)
        warm_up(encode, workload, job.device)
        batch_size = None
        if side in TUNED:
            tried = sample_of(workload, _TRIED_TOKENS[job.device])
            batch_size = fastest_batch_size(encode, tried, _BATCH_SIZES[job.device], job.device)
        _reset_peak_memory(job.device)
        seconds: list[float] = []
        while not seconds or (sum(seconds) < _TIMED_SECONDS and len(seconds) < _MOST_CALLS):
            taken, embeddings = _timed(encode, workload.texts, batch_size, job.device)
            seconds.append(taken)
        outcome = {"seconds": statistics.median(seconds), "calls": len(seconds), "batch_size": batch_size}
        outcomes[workload.name] = {**outcome, "peak_memory": peak_memory(torch.device(job.device))}
        np.save(job.embeddings_file(workload, side), embeddings)
        if job.profiled and side != "onnx":  # ONNX Runtime's work does not show in torch's profiler
            texts = _every(-(-len(workload.texts) // PROFILED_TEXTS), workload)
            outcomes[workload.name] |= profile_call(encode, texts, batch_size, job.device)
    return outcomes


def warm_up(encode: Encode, workload: Workload, device: str) -> None:
    """Let libraries start: on a GPU with all texts, for kernels are chosen by shape, on a CPU with a few words."""
    few = [" ".join(workload.texts[0].split()[:_WARMUP_WORDS])]
    encode(few if device == "cpu" else workload.texts, None)


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
    """Begin anew, so that neither loading nor the trial of batch sizes counts; only Linux can, on a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _open_embedder(job: Job, side: str) -> Callable[[str, Sequence[str], int | None], np.ndarray]:
    """The sides that are a SentenceTransformer; prompt, texts and batch size -> embeddings."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading
    native = side.startswith("native")
    if not native:
        from nomic_bert.encoding import encode_by_tokens
    embedder = SentenceTransformer(
        str(job.model),
        device=job.device,
        model_kwargs={
            "dtype": torch.bfloat16 if job.precision == "bf16" else torch.float32,
            "attn_implementation": "flash_attention_2" if side == "native_flash" else "sdpa",
        },
    )
    found = type(embedder[0].auto_model)
    if found.__module__.startswith("transformers.models.") != native:
        raise RuntimeError(f"{side}: the model is a {found.__module__}.{found.__name__}; nothing was timed.")
    if side == "ours_tokens":
        return lambda prompt, texts, _: encode_by_tokens(embedder, texts, prompt=prompt)

    def encode(prompt: str, texts: Sequence[str], batch_size: int | None) -> np.ndarray:
        if batch_size is None:
            return embedder.encode(list(texts), prompt=prompt, show_progress_bar=False)
        return embedder.encode(list(texts), prompt=prompt, show_progress_bar=False, batch_size=batch_size)

    return encode


def _open_onnx(job: Job) -> Callable[[str, Sequence[str], int | None], np.ndarray]:
    """ONNX Runtime with the tokenizer, pooling and normalizing around it; prompt, texts, batch size -> embeddings."""
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    file = str(job.model.parent / ONNX_FILE)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(job.model)

    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        inputs = {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        states = session.run(None, inputs)[0]
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
