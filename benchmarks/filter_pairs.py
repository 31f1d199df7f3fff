"""What consistency filtering costs besides the model, as the sample grows, and what that means for 470 million pairs.

python benchmarks/filter_pairs.py [--rows 10000 30000 100000] [--dim 384]

The rows are made up, of as many words as the paper's pairs have; the model is a table of random embeddings, so that
the rest is what is timed: the copy of the files, then reading, keys, writing and counting, and the search. A matrix
product of the search's size, in blocks, is the machine's matmul rate. The projection adds the model by arithmetic: a
GPU's rates are arguments, not measurements of this machine.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.measure import alternate, markdown_table, spread, write_results
from curation.embedding import PairEmbedder, Side
from curation.files import write_jsonl
from curation.filtering.consistency import EmbeddedPairs, KeepRule, Samples, SourceFilter, embed_pairs
from curation.sources import Source, open_pairs

_WORDS = 40  # of a text: about 52 tokens, the mean of the paper's pairs
_BLOCK = 2_048  # rows and columns of a block of the bare product
_GPU_SAMPLE = 1_000_000  # rows, paper §4.2.1
_PAPER_PAIRS = 470_000_000  # paper §4.2.1


class TableEmbedder:
    """Stands for a model that takes no time: texts get the rows of a table, one after the other."""

    texts_at_once = 1_024

    def __init__(self, rows: int, dim: int) -> None:
        self.table = torch.nn.functional.normalize(torch.randn(rows, dim), dim=1)
        self.device = torch.device("cpu")
        self.used = 0

    @property
    def model(self) -> "TableEmbedder":
        """Has the device, as a model has."""
        return self

    def encode(self, side: Side, texts: list[str], prompt: str | None = None) -> torch.Tensor:
        """The next rows of the table, from the start again when it ends."""
        if self.used + len(texts) > len(self.table):
            self.used = 0
        self.used += len(texts)
        return self.table[self.used - len(texts) : self.used]


def made_up_rows(count: int) -> Iterator[dict[str, Any]]:
    """Pairs of random words with an id."""
    random = np.random.default_rng(0)
    vocabulary = [f"word{number}" for number in range(20_000)]
    for number in range(count):
        words = [vocabulary[place] for place in random.integers(len(vocabulary), size=2 * _WORDS)]
        yield {"id": number, "query": " ".join(words[:_WORDS]), "document": " ".join(words[_WORDS:])}


def measure(rows: int, dim: int, repeats: int) -> dict[str, Any]:
    """Seconds of each part for one sample of some rows, and of the bare product."""
    with tempfile.TemporaryDirectory() as place:
        write_jsonl(made_up_rows(rows), Path(place, "pairs.jsonl.gz"))
        source = Source(name="made_up", path=str(Path(place, "pairs.jsonl.gz")), query_prefix="", document_prefix="")
        start = time.perf_counter()
        pairs = open_pairs(source, Path(place, "cache"), others=True)
        copy = time.perf_counter() - start
        embedder = cast(PairEmbedder, TableEmbedder(2 * rows, dim))
        embedded = embed_pairs(pairs, np.arange(rows), embedder, tqdm(disable=True))

        def filtering() -> dict[str, float]:
            job = SourceFilter(
                source=source, pairs=pairs, directory=Path(place, "filtered"), samples=Samples(rows, rows, 0),
                rule=KeepRule(), rows_to_read=50, write_dropped=True, keep_embeddings=False,
            )  # fmt: skip
            with _timed_search() as search:
                whole = _seconds(lambda: job.run(0, np.arange(rows), embedder, tqdm(disable=True)))
            return {"search": sum(search), "rest": whole - sum(search)}

        sides = {"filtering": filtering, "product": lambda: {"product": _product(embedded)}}
        outcomes = alternate(sides, repeats, lambda _: None)
    seconds = {key: spread([one[key] for one in each]) for each in outcomes.values() for key in each[0]}
    return {"rows": rows, "copy": copy, **seconds}


@contextmanager
def _timed_search() -> Iterator[list[float]]:
    """A list of the seconds of every search inside."""
    seconds: list[float] = []
    judge = EmbeddedPairs.judge

    def timed(self: EmbeddedPairs, device: Any = None) -> Any:
        start = time.perf_counter()
        found = judge(self, device)
        seconds.append(time.perf_counter() - start)
        return found

    with patch.object(EmbeddedPairs, "judge", timed):
        yield seconds


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _product(embedded: EmbeddedPairs) -> float:
    """Seconds of the search's products alone."""
    scores = torch.empty(_BLOCK * _BLOCK)
    start = time.perf_counter()
    for queries in embedded.queries.split(_BLOCK):
        for documents in embedded.documents.split(_BLOCK):
            size = len(queries), len(documents)
            torch.mm(queries, documents.T, out=scores[: size[0] * size[1]].view(size))
    return time.perf_counter() - start


def tables(outcomes: Sequence[dict[str, Any]], args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The measured parts and the projection, in Markdown, and the projection's figures."""
    rows = []
    for one in outcomes:
        count, search, product = one["rows"], one["search"]["median"], one["product"]["median"]
        rest = one["rest"]["median"]
        gflops = 2 * count**2 * args.dim / search / 1e9
        rows.append([
            f"{count:,}", f"{one['copy'] / count * 1e6:.0f}", f"{rest / count * 1e6:.0f}", f"{search:.2f}",
            f"{search / count**2 * 1e10:.2f}", f"{gflops:.0f}", f"{product / search:.0%}",
        ])  # fmt: skip
    header = ["rows", "copy, µs a row", "rest, µs a row", "search, s", "s per 10^10 pairs", "GFLOP/s", "of matmul rate"]
    largest = outcomes[-1]
    cpu = (largest["copy"] + largest["rest"]["median"]) / largest["rows"]
    share = largest["product"]["median"] / largest["search"]["median"]
    model = 2 * args.project_rows * args.tokens_a_text * args.flop_a_token / (args.gpus * args.gpu_model_tflops * 1e12)
    samples = args.project_rows / _GPU_SAMPLE
    search = samples * 2 * _GPU_SAMPLE**2 * args.gpu_dim / (args.gpus * args.gpu_fp32_tflops * 1e12 * share)
    hours = {"model": model / 3600, "search": search / 3600, "text": args.project_rows * cpu / args.gpus / 3600}
    projection = markdown_table(["part", "hours"], [[name, f"{value:.1f}"] for name, value in hours.items()])
    text = "\n\n".join(
        [
            f"Embeddings of {args.dim} dimensions, {args.repeats} rounds, medians. `rest` is reading, keys of texts, "
            "writing both shards with gzip, and counting.",
            markdown_table(header, rows),
            f"{args.project_rows:,} pairs on {args.gpus} GPUs, one process each. Text: the measured copy and rest, "
            f"{cpu * 1e6:.0f} µs a row on one such core for each GPU. Search: samples of {_GPU_SAMPLE:,} rows at "
            f"{args.gpu_dim} dimensions, at the measured share of a matmul rate of {args.gpu_fp32_tflops:g} TFLOP/s "
            f"in fp32. Model: {args.tokens_a_text} tokens a text, {args.flop_a_token / 1e6:.0f} MFLOP a token, "
            f"{args.gpu_model_tflops:g} TFLOP/s in half precision. Both GPU rates are assumed; the parts take turns.",
            projection,
        ]
    )
    return text, hours


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    torch.manual_seed(0)
    outcomes = []
    for rows in args.rows:
        outcomes.append(measure(rows, args.dim, args.repeats))
        print(f"{rows:,} rows: {outcomes[-1]}", flush=True)
    text, hours = tables(outcomes, args)
    result = {"dim": args.dim, "outcomes": outcomes, "projected_hours": hours}
    print(write_results("filter_pairs", result, text, args.results).read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 30_000, 100_000], help="sizes of a sample")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--project_rows", type=int, default=_PAPER_PAIRS)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu_dim", type=int, default=768, help="of gte-base")
    parser.add_argument("--gpu_fp32_tflops", type=float, default=40.0, help="assumed matmul rate of a GPU in fp32")
    parser.add_argument("--gpu_model_tflops", type=float, default=200.0, help="assumed rate of the model on a GPU")
    parser.add_argument("--tokens_a_text", type=int, default=52, help="mean of the paper's pairs")
    parser.add_argument("--flop_a_token", type=float, default=1.7e8, help="of gte-base: 2 x 85 million weights")
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmarks"))
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
