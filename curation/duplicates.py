"""Exact and near duplicates between texts, so that what is held out for evaluation is not trained on."""

import re
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from tqdm.auto import tqdm

_TEXTS_AT_ONCE = 2_000


def normalize_text(text: str) -> str:
    """The text without case, punctuation and layout: two texts that differ in these alone become equal.

    A text without any letter or digit keeps its punctuation, so that "+" and "-" stay apart.
    """
    folded = text.casefold()
    return " ".join(re.sub(r"[\W_]+", " ", folded).split()) or " ".join(folded.split())


def overlapping_rows(
    texts: Sequence[str], held_out_texts: Sequence[str], *, threshold: float = 0.5, shingle_words: int = 5
) -> np.ndarray:
    """Find the texts that repeat a held-out text, in full or in part.

    A shingle is a run of `shingle_words` words of the normalized text; a text with fewer words is one
    shingle, itself. Two texts overlap when the shingles that they share are at least `threshold` of the
    distinct shingles of either one. So a text too short for a shingle overlaps only with a text equal to it
    after normalization.

    Shingles are compared by 64-bit hashes through an inverted index: time grows with the length of the texts
    and the number of shared shingles, not with the number of pairs of texts.

    Args:
        texts: texts to judge, n of them.
        held_out_texts: texts that must not be repeated.
        threshold: least shared part, in (0, 1].
        shingle_words: words in a shingle.

    Returns:
        Boolean array (n,): True where the text overlaps with any held-out text.

    Raises:
        ValueError: `threshold` or `shingle_words` is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}.")
    if shingle_words < 1:
        raise ValueError(f"shingle_words must be at least 1, not {shingle_words}.")
    overlapping = np.zeros(len(texts), dtype=bool)
    if not held_out_texts:
        return overlapping
    held_out_rows, held_out_shingles = _shingles(held_out_texts, shingle_words)
    index = np.unique(held_out_shingles)
    held_out_sizes = np.bincount(held_out_rows)
    texts_by_shingle = _incidence(held_out_rows, held_out_shingles, index, len(held_out_texts)).T.tocsr()
    with tqdm(total=len(texts), desc="Comparing with held-out texts", unit="text") as progress:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = texts[start : start + _TEXTS_AT_ONCE]
            rows, shingles = _shingles(batch, shingle_words)
            sizes = np.bincount(rows)
            # (texts, shingles) x (shingles, held-out texts): entries are counts of shared shingles.
            shared = (_incidence(rows, shingles, index, len(batch)) @ texts_by_shingle).tocoo()
            smaller = np.minimum(sizes[shared.row], held_out_sizes[shared.col])
            overlapping[start + shared.row[shared.data >= threshold * smaller]] = True
            progress.update(len(batch))
    return overlapping


def _shingles(texts: Sequence[str], shingle_words: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, hash) of every distinct shingle of every text; each text has one at least."""
    # A polynomial over the words' hashes: any odd number serves as its base.
    powers = np.cumprod(np.full(shingle_words, 0x9E3779B97F4A7C15, dtype=np.uint64))
    hashes = []
    for text in texts:
        normalized = normalize_text(text)
        words = normalized.split()
        if len(words) < shingle_words:
            hashes.append(np.array([hash((normalized,))], dtype=np.int64).view(np.uint64))
        else:
            codes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
            hashes.append(np.unique(np.lib.stride_tricks.sliding_window_view(codes, shingle_words) @ powers))
    rows = np.repeat(np.arange(len(texts)), [len(shingles) for shingles in hashes])
    return rows, np.concatenate(hashes)


def _incidence(rows: np.ndarray, shingles: np.ndarray, index: np.ndarray, num_rows: int) -> sparse.csr_matrix:
    """Matrix (num_rows, len(index)) with a 1 where a row has a shingle of the sorted index."""
    columns = np.minimum(np.searchsorted(index, shingles), len(index) - 1)
    known = index[columns] == shingles
    ones = np.ones(int(known.sum()), dtype=np.int32)
    return sparse.csr_matrix((ones, (rows[known], columns[known])), shape=(num_rows, len(index)))
