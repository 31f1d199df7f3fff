"""Whether ONNX and its 8-bit form pay on a CPU: size, quality, and speed beside our packed encode in torch.

python benchmarks/onnx_int8.py DIR --name small --sts stsb_dev.tsv.gz --output outputs/benchmarks
python benchmarks/onnx_int8.py DIR --name base --sts stsb_dev.tsv.gz --speed_only --texts 32 --output outputs/benchmarks

All sides are one embedder (tokenizer, batches, pooling, prompt), in which only the encoder differs: torch in float32,
which computes on packed tokens; ONNX Runtime in float32; and ONNX Runtime with 8-bit weights. The last two compute on
padded batches. For speed each side is a new process, and they take turns. Texts are the file's sentences, alone and
joined to longer texts. The onnx folder of DIR is used where it is there, else the files are made for the run. On a
machine that others use too, compare processor time, with one thread.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.measure import (
    alternate,
    in_fresh_process,
    in_whole_rounds,
    markdown_table,
    spread,
    write_results,
)
from evaluation.rows import read_rows, text_of
from nomic_bert.embedder import load_embedder
from nomic_bert.prompts import prefix_text
from publishing.onnx_export import ONNX_FILE, QUANTIZED_FILE, export_onnx, quantize_onnx

_PROMPT = prefix_text("classification")  # of STS
_NAMES = {"torch": "torch float32, packed", "onnx": "ONNX float32, padded", "int8": "ONNX int8, padded"}
_ALONE = 200  # texts that are embedded without batch neighbours too


@dataclass(frozen=True)
class Job:
    """What all sides are given.

    Attributes:
        directory: the model.
        files: side -> what holds its weights.
        workloads: sentences in a text -> texts.
        batch_size: texts.
        threads: of either runtime.
    """

    directory: Path
    files: Mapping[str, Path]
    workloads: Mapping[int, list[str]]
    batch_size: int
    threads: int


class OnnxEncoder(nn.Module):
    """An exported encoder in the place of the torch one."""

    def __init__(self, file: Path, config: Any, threads: int) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.config = config
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        """(batch, length) twice -> states (batch, length, hidden); sentence-transformers may send what is not used."""
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return BaseModelOutput(last_hidden_state=torch.from_numpy(self.session.run(None, inputs)[0]))


def open_side(side: str, job: Job) -> SentenceTransformer:
    """The embedder of one side."""
    torch.set_num_threads(job.threads)
    embedder = load_embedder(job.directory, device="cpu", dtype=torch.float32)
    if side != "torch":
        embedder[0].model = OnnxEncoder(job.files[side], AutoConfig.from_pretrained(job.directory), job.threads)
    return embedder


def measure_speed(side: str, job: Job) -> dict[int, tuple[float, float]]:
    """Seconds by the clock and of the processor for the texts of each workload, after a first batch of each."""
    embedder = open_side(side, job)
    seconds = {}
    for joined, texts in job.workloads.items():
        embedder.encode(texts[: job.batch_size], batch_size=job.batch_size, prompt=_PROMPT)
        start, start_of_processor = time.perf_counter(), time.process_time()
        embedder.encode(texts, batch_size=job.batch_size, prompt=_PROMPT)
        seconds[joined] = time.perf_counter() - start, time.process_time() - start_of_processor
    return seconds


def embed(side: str, job: Job, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of texts in batches (texts, dim), and of the first of them without neighbours."""
    embedder = open_side(side, job)
    batched = embedder.encode(list(texts), batch_size=job.batch_size, prompt=_PROMPT)
    return batched, embedder.encode(list(texts[:_ALONE]), batch_size=1, prompt=_PROMPT)


def measure_quality(job: Job, pairs: Sequence[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """Side -> Spearman's correlation x 100, and how far embeddings are from torch's and from themselves alone."""
    texts = [text for one, other, _ in pairs for text in (one, other)]
    quality, reference = {}, None
    for side in _NAMES:
        found, alone = in_fresh_process(embed, side, job, texts)
        reference = found if reference is None else reference
        cosines = (found[::2] * found[1::2]).sum(1)
        quality[side] = {
            "spearman": 100 * float(spearmanr(cosines, [score for *_, score in pairs])[0]),
            "largest_difference": float(np.abs(found - reference).max()),
            "least_cosine": float((found * reference).sum(1).min()),
            "neighbours_change": float(np.abs(found[: len(alone)] - alone).max()),
        }
    return quality


def read_pairs(file: Path) -> list[tuple[str, str, float]]:
    """Sentence, sentence, score.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row has no two sentences and a number; names it.
    """
    pairs = []
    for where, row in read_rows(file, ("sentence1", "sentence2", "score")):
        try:
            score = float(row["score"])
        except ValueError as error:
            raise ValueError(f"{where}, column 'score': {row['score']!r} is no number.") from error
        pairs.append((text_of(row, "sentence1", where), text_of(row, "sentence2", where), score))
    return pairs


def make_workloads(sentences: Sequence[str], joined: Sequence[int], most: int) -> dict[int, list[str]]:
    """Texts of so many sentences each, at most so many texts, by no more than the sentences there are."""
    return {
        count: [" ".join(sentences[start : start + count]) for start in range(0, len(sentences), count)][:most]
        for count in joined
    }


def with_exports(directory: Path, scratch: Path) -> dict[str, Path]:
    """Side -> the file that holds its weights, made in the scratch directory where the model has none."""
    found = {
        "torch": directory / "model.safetensors",
        "onnx": directory / ONNX_FILE,
        "int8": directory / QUANTIZED_FILE,
    }
    if not found["onnx"].is_file():
        found["onnx"] = scratch / Path(ONNX_FILE).name
        export_onnx(directory, found["onnx"])
    if not found["int8"].is_file():
        found["int8"] = scratch / Path(QUANTIZED_FILE).name
        quantize_onnx(found["onnx"], found["int8"])
    return found


def count_tokens(job: Job) -> dict[int, int]:
    """Real tokens of each workload, prompt and special tokens included."""
    embedder = load_embedder(job.directory, device="cpu")
    cut = {"truncation": True, "max_length": embedder.max_seq_length}
    return {
        joined: sum(len(ids) for ids in embedder.tokenizer([_PROMPT + text for text in texts], **cut)["input_ids"])
        for joined, texts in job.workloads.items()
    }


def summarize(
    job: Job, tokens: Mapping[int, int], seconds: Mapping[str, list[dict[int, tuple[float, float]]]]
) -> dict[str, Any]:
    """Sentences in a text -> tokens a text, and for each side its speed by the clock and by processor time."""
    speeds: dict[str, Any] = {}
    for joined, texts in job.workloads.items():
        taken = {side: list(zip(*(each[joined] for each in rounds), strict=True)) for side, rounds in seconds.items()}
        of_torch = [statistics.median(values) for values in taken["torch"]]
        speeds[str(joined)] = {
            "texts": len(texts),
            "tokens_a_text": tokens[joined] / len(texts),
            **{
                side: {
                    "texts_a_second": spread([len(texts) / second for second in by_clock]),
                    "tokens_a_second": spread([tokens[joined] / second for second in by_clock]),
                    "times_torch": of_torch[0] / statistics.median(by_clock),
                    "processor_ms_a_text": spread([1_000 * second / len(texts) for second in of_processor]),
                    "times_torch_by_processor": of_torch[1] / statistics.median(of_processor),
                }
                for side, (by_clock, of_processor) in taken.items()
            },
        }
    return speeds


def show(sizes: Mapping[str, int], quality: Mapping[str, Mapping[str, float]], speeds: Mapping[str, Any]) -> str:
    """Both tables."""
    rows = []
    for side, name in _NAMES.items():
        cells = [name, f"{sizes[side] / 1e6:,.1f}", f"{sizes[side] / sizes['torch']:.0%}"]
        if found := quality.get(side):
            cells += [f"{found['spearman']:.2f}", f"{found['largest_difference']:.1e}"]
            cells += [f"{found['least_cosine']:.5f}", f"{found['neighbours_change']:.1e}"]
        rows.append(cells)
    header = ["side", "MB", "of torch's"]
    if quality:
        header += ["STS, Spearman x 100", "largest difference from torch", "least cosine to torch"]
        header += ["largest change by batch neighbours"]
    timed = [
        [f"{speed['tokens_a_text']:.0f}", name, f"{speed[side]['texts_a_second']['median']:,.1f}",
         "{min:,.1f} to {max:,.1f}".format_map(speed[side]["texts_a_second"]),
         f"{speed[side]['tokens_a_second']['median']:,.0f}", f"{speed[side]['times_torch']:.2f}",
         "{median:,.1f} ({min:,.1f} to {max:,.1f})".format_map(speed[side]["processor_ms_a_text"]),
         f"{speed[side]['times_torch_by_processor']:.2f}"]
        for speed in speeds.values() for side, name in _NAMES.items()
    ]  # fmt: skip
    columns = ["tokens a text", "side", "texts/s, median", "least to most", "tokens/s, median", "times torch"]
    columns += ["processor ms a text (least to most)", "times torch by processor time"]
    return f"{markdown_table(header, rows)}\n\n{markdown_table(columns, timed)}"


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    try:
        pairs = read_pairs(args.sts)
        sentences = [text for one, other, _ in pairs for text in (one, other)]
        with tempfile.TemporaryDirectory() as scratch:
            files = with_exports(args.directory, Path(scratch))
            workloads = make_workloads(sentences, args.joined, args.texts)
            job = Job(args.directory, files, workloads, args.batch_size, args.threads)
            measure(args, job, pairs)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def measure(args: argparse.Namespace, job: Job, pairs: Sequence[tuple[str, str, float]]) -> None:
    """Quality once, speed in rounds; results are written after each round."""
    sizes = {side: file.stat().st_size for side, file in job.files.items()}
    quality = {} if args.speed_only else measure_quality(job, pairs)
    tokens, load = count_tokens(job), [os.getloadavg()[0]]

    def keep(seconds: dict[str, list[dict[int, tuple[float, float]]]]) -> None:
        if not in_whole_rounds(seconds):
            return
        load.append(os.getloadavg()[0])
        speeds = summarize(job, tokens, seconds)
        rounds = len(seconds["torch"])
        note = (
            f"{args.directory.name}: {args.batch_size} texts a batch, {args.threads} threads, {rounds} rounds; load of "
            f"the machine {min(load):.1f} to {max(load):.1f} on {os.cpu_count()} cores."
        )
        result = {"bytes": sizes, "quality": quality, "speed": speeds, "rounds": rounds, "load": load}
        result |= {"batch_size": args.batch_size, "threads": args.threads, "onnxruntime": onnxruntime.__version__}
        table = f"{show(sizes, quality, speeds)}\n\n{note}"
        print(write_results(f"onnx_int8-{args.name}", result, table, args.output).read_text(), flush=True)

    alternate({side: partial(in_fresh_process, measure_speed, side, job) for side in _NAMES}, args.repeats, keep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a model's directory")
    parser.add_argument("--sts", type=Path, required=True, metavar="FILE", help="sentence1, sentence2, score")
    parser.add_argument("--speed_only", action="store_true", help="no quality: the weights are random")
    parser.add_argument("--joined", type=int, nargs="+", default=[1, 16], help="sentences in a text (default 1 and 16)")
    parser.add_argument("--texts", type=int, default=1_000, help="at most so many of each kind are timed")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", required=True, help="of the model, in the name of the results")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory for the dated results")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
