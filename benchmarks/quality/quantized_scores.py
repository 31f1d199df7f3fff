"""Similarity and search with embeddings that are cut and quantized, as sentence-transformers does both."""

from typing import Literal

import numpy as np
from sentence_transformers.util import quantize_embeddings

from benchmarks.quality.retrieval_scores import CUTOFF

Codes = Literal["float32", "int8", "binary"]
CODES: tuple[Codes, ...] = ("float32", "int8", "binary")
CANDIDATES = 4 * CUTOFF  # documents found by codes, for each query, that are then rescored
# The codes that are searched, and those that float queries then meet, which may be others that are kept beside them.
_SEARCHES: dict[str, tuple[Codes, Codes | None]] = {
    "float32": ("float32", None),
    "int8": ("int8", None),
    "int8, rescored": ("int8", "int8"),
    "binary": ("binary", None),
    "binary, rescored": ("binary", "binary"),
    "binary, int8 rescored": ("binary", "int8"),
}
PRECISIONS = tuple(_SEARCHES)


def cut(embeddings: np.ndarray, dimension: int) -> np.ndarray:
    """The first dimensions at unit length: what `encode(truncate_dim=dimension, normalize_embeddings=True)` gives.

    Args:
        embeddings: (n, dim) in float32.
        dimension: to keep, at most dim.
    """
    first = embeddings[:, :dimension]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)


def layer_normed(embeddings: np.ndarray) -> np.ndarray:
    """Each embedding (n, dim) after a layer norm without parameters, at unit length.

    Of a layer norm, unit length leaves only that the mean over dimensions is subtracted.
    """
    return cut(embeddings - embeddings.mean(axis=1, keepdims=True), embeddings.shape[1])


def codes_of(embeddings: np.ndarray, codes: Codes, ranges: np.ndarray | None = None) -> np.ndarray:
    """What `encode(precision=codes)` gives: (n, dim) in float32 or int8, or (n, dim / 8) in int8 for binary.

    Args:
        embeddings: (n, dim) in float32.
        codes: which.
        ranges: least and most value of each dimension, (2, dim), that int8 divides into 255 steps; None: those found
            in `embeddings`.
    """
    return np.asarray(quantize_embeddings(embeddings, precision=codes, ranges=ranges))


def bits_of(codes: np.ndarray, dimension: int) -> np.ndarray:
    """The bits (n, dimension), 0 or 1, of binary codes (n, dim / 8), which are bytes less 128."""
    return np.unpackbits(codes.view(np.uint8) ^ np.uint8(128), axis=1)[:, :dimension]


def bytes_per_vector(precision: str, dimension: int) -> int:
    """What one document takes, with all the codes that a search needs of it."""
    sizes = {"float32": 4 * dimension, "int8": dimension, "binary": -(-dimension // 8)}
    return sum(sizes[codes] for codes in set(_SEARCHES[precision]) if codes)


def pair_similarities(first: np.ndarray, second: np.ndarray, codes: Codes) -> np.ndarray:
    """Cosines of pairs of codes, (n,); of bits, how many agree less how many do not.

    Args:
        first: (n, dim) at unit length.
        second: (n, dim) likewise.
        codes: which; int8 takes its ranges from both sides.
    """
    ranges = _ranges(np.concatenate([first, second]))
    return (_compared(first, codes, ranges) * _compared(second, codes, ranges)).sum(axis=1)


def found_documents(queries: np.ndarray, documents: np.ndarray, precision: str) -> np.ndarray:
    """The best documents of each query, as rows of `documents`, the best first: (n, 10), fewer if there are fewer.

    Documents of equal score, of which few bits give many, stand in a random order that is the same for every query.

    Args:
        queries: (n, dim) at unit length.
        documents: (m, dim) likewise; int8 takes its ranges from them.
        precision: one of `PRECISIONS`.
    """
    order = np.random.default_rng(0).permutation(len(documents))
    documents, ranges = documents[order], _ranges(documents)
    codes, meets = _SEARCHES[precision]
    scores = _compared(queries, codes, ranges) @ _compared(documents, codes, ranges).T
    if meets is None:
        return order[_best(scores, CUTOFF)]
    candidates = _best(scores, CANDIDATES)
    scores = np.einsum("qd,qcd->qc", queries, _decoded(documents, meets, ranges)[candidates])
    return order[np.take_along_axis(candidates, _best(scores, CUTOFF), axis=1)]


def _ranges(embeddings: np.ndarray) -> np.ndarray:
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])


def _compared(embeddings: np.ndarray, codes: Codes, ranges: np.ndarray) -> np.ndarray:
    """Codes as float32 whose products compare them: cosines, or whole numbers of bits, so that ties are ties."""
    if codes == "int8":
        return cut(codes_of(embeddings, codes, ranges).astype(np.float32), embeddings.shape[1])
    return embeddings if codes == "float32" else _decoded(embeddings, codes, ranges)


def _decoded(embeddings: np.ndarray, codes: Codes, ranges: np.ndarray) -> np.ndarray:
    """What int8 or binary codes of (n, dim) say of the values: a multiple of the step, or the sign."""
    found = codes_of(embeddings, codes, ranges)
    if codes == "int8":
        return ranges[0] + (found.astype(np.float32) + 128) * (ranges[1] - ranges[0]) / 255
    return 2 * bits_of(found, embeddings.shape[1]).astype(np.float32) - 1


def _best(scores: np.ndarray, number: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :number]
