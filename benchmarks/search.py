"""How fast exact search is beside FAISS, sentence-transformers and the bare matrix product, on the same embeddings.

python benchmarks/search.py --rows 10000 30000 100000 --queries 10000
python benchmarks/search.py --device cuda --rows 100000 500000 --queries 100000 --dim 768

Five sides take turns: `top_k` and `ranks` of curation/search.py; FAISS' IndexFlatIP (CPU only; `pip install faiss-cpu`)
with the copy of the documents that it makes; `semantic_search` of sentence-transformers; and the matrix products alone,
over the blocks that `top_k` uses. All sides must find the same documents.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import dot_score, semantic_search
from torch import Tensor

from benchmarks import compare
from curation.search import default_block_size, ranks, top_k
from textfiles.paths import existing_file

FAISS_IS_INSTALLED = importlib.util.find_spec("faiss") is not None

Found = tuple[Tensor, Tensor]  # scores and indices (q, k)

_NOISE = 1e-5  # of float32 scores of unit vectors, with room
_TOP_K, _RANKS, _FAISS = "`top_k`", "`ranks`", "FAISS `IndexFlatIP`"
_SEMANTIC_SEARCH, _PRODUCTS = "`semantic_search`", "matrix products alone"


def load_embeddings(files: Sequence[Path], rows: int, dim: int) -> Tensor:
    """Unit vectors (rows, dim): the first rows of the .npy files, or random ones by a fixed seed if there are none.

    Raises:
        ValueError: the files hold fewer rows, or one is not of this kind.
    """
    if files:
        parts = [_opened(file) for file in files]
        if sum(map(len, parts)) < rows:
            raise ValueError(f"{files[0]} ...: {sum(map(len, parts))} rows in all; ask for no more by --rows.")
        read = np.concatenate([part[:rows] for part in parts])[:rows]
        embeddings = torch.from_numpy(read.astype(np.float32))
    else:
        embeddings = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(embeddings, dim=1)


def _opened(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a .npy file of numbers; write it with numpy.save.") from error


def multiply(queries: Tensor, documents: Tensor) -> None:
    """Compute every block of scores and discard it."""
    size = default_block_size(queries.device)
    memory = queries.new_empty(size)
    for start in range(0, len(queries), size.queries):
        rows = queries[start : start + size.queries]
        for first in range(0, len(documents), size.documents):
            columns = documents[first : first + size.documents]
            torch.mm(rows, columns.T, out=memory[: len(rows), : len(columns)])


def search_with_faiss(queries: Tensor, documents: Tensor, k: int) -> Found:
    """Search with an index that is built for it."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(documents.shape[1])
    index.add(documents.numpy())
    scores, indices = index.search(queries.numpy(), k)
    return torch.from_numpy(scores), torch.from_numpy(indices)


def search_with_sentence_transformers(queries: Tensor, documents: Tensor, k: int) -> Found:
    """Search as sentence-transformers does; its lists are turned back into tensors."""
    hits = semantic_search(queries, documents, top_k=k, score_function=dot_score)
    scores = torch.tensor([[hit["score"] for hit in row] for row in hits])
    return scores, torch.tensor([[hit["corpus_id"] for hit in row] for row in hits])


def same_documents(ours: Found, theirs: Found) -> bool:
    """Whether two sides found the same documents, except where scores are too close to tell which comes first.

    Args:
        ours: with one document more than theirs, so that a close call for the last place shows.
        theirs: scores and indices (q, k).
    """
    scores, indices = ours[0][:, :-1], ours[1][:, :-1]
    close = ours[0][:, :-1] - ours[0][:, 1:] <= 2 * _NOISE  # to the next
    close[:, 1:] |= close[:, :-1].clone()  # to the next or the one before
    agree = (scores - theirs[0]).abs() <= _NOISE
    return bool((agree & ((indices == theirs[1]) | close)).all())


def sides(queries: Tensor, documents: Tensor, k: int) -> dict[str, Callable[[], Any]]:
    """Name -> one search of every side that runs here."""
    own = torch.arange(len(queries))
    found: dict[str, Callable[[], Any]] = {
        _TOP_K: lambda: top_k(queries, documents, k),
        _RANKS: lambda: ranks(queries, documents, own),
        _FAISS: lambda: search_with_faiss(queries, documents, k),
        _SEMANTIC_SEARCH: lambda: search_with_sentence_transformers(queries, documents, k),
        _PRODUCTS: lambda: multiply(queries, documents),
    }
    if not FAISS_IS_INSTALLED or queries.device.type != "cpu":
        del found[_FAISS]
    return found


def check(queries: Tensor, documents: Tensor, k: int) -> None:
    """Run every side once, which also warms it up, and compare what they find.

    Raises:
        ValueError: a side finds other documents, or another rank than the first for a query that is its own document.
    """
    ours = top_k(queries, documents, k + 1)
    for name, search in sides(queries, documents, k).items():
        outcome = search()
        all_first = name == _RANKS and bool((outcome[0] == 1).all())
        if not (name == _PRODUCTS or all_first or (name != _RANKS and same_documents(ours, outcome))):
            raise ValueError(f"{name} does not find what `top_k` finds.")


def timed(search: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one search, until the device is done."""
    start = time.perf_counter()
    search()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cpu" and not FAISS_IS_INSTALLED:
        print("FAISS is not installed, so its side is left out: pip install faiss-cpu", flush=True)
    rows: list[compare.Row] = []
    measurements: list[compare.Measurement] = []
    with compare.session(args):
        embeddings = load_embeddings(args.embeddings, max(args.rows), args.dim).to(device)
        for count in args.rows:
            documents = embeddings[:count]
            queries = documents[: args.queries]
            check(queries[: args.checked], documents, args.k)
            workload = f"{count:,} documents"
            for name, search in sides(queries, documents, args.k).items():
                rows.append(
                    compare.Row(
                        side=name,
                        workload=workload,
                        reference=_TOP_K,
                        ours=name in (_TOP_K, _RANKS),
                        flops=2 * len(queries) * count * documents.shape[1],
                        matmul=_PRODUCTS,
                    )
                )
                measure = partial(_measure, workload, search, device)
                measurements.append(compare.Measurement(side=name, workloads=(workload,), measure=measure))
        what = "embeddings given by --embeddings" if args.embeddings else "random unit vectors"
        queried = f"the first {args.queries:,} of them" if args.queries else "all of them"
        dim = embeddings.shape[1]
        compare.run(
            f"search-{args.device}",
            rows,
            measurements,
            args,
            {"dim": dim, "k": args.k, "embeddings": what, "queries": args.queries},
            f"{what[0].upper()}{what[1:]} of {dim} dimensions in float32, k = {args.k}; queries are {queried}. "
            "Operations: 2 for every query, document and dimension; their share is of the rate of the matrix products.",
        )


def _measure(workload: str, search: Callable[[], Any], device: torch.device) -> dict[str, compare.Outcome]:
    return {workload: {"seconds": timed(search, device)}}


def _parser() -> argparse.ArgumentParser:
    parser = compare.new_parser(__doc__, precisions=())
    parser.add_argument("--embeddings", nargs="+", type=existing_file, default=[], help=".npy files (rows, dim)")
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 30_000, 100_000], help="documents")
    parser.add_argument("--queries", type=int, help="at most so many of the documents are queries; default: all")
    parser.add_argument("--checked", type=int, default=1000, help="queries for which all sides are compared")
    parser.add_argument("--dim", type=int, default=384, help="of random embeddings")
    parser.add_argument("--k", type=int, default=20)
    return parser


if __name__ == "__main__":
    compare.start(main)
