"""What sources of pairs hold: lengths, repeated texts, and texts that sources share.

Texts are compared after `curation.duplicates.normalize_text`, by 64-bit keys: 8 bytes for each query, document and
pair, on the disk. One source's keys of one side are sorted in memory, at most 35 bytes a row (2.3 GB for the largest
source of the paper, 65 million rows); all sources together are merged in passes of bounded size.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy import sparse
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from curation.duplicates import normalize_text
from curation.embedding import text_key
from textfiles.arrays import write_array
from textfiles.shards import ShardFiles, write_receipt

SIDES = ("query", "document", "pair")
LIMITS = (512, 2048, 8192)  # tokens: BERT's limit; what stages 1 and 2 train (paper §4.1.1, §4.2.2); the usable length
BLANK = text_key("")
_PERCENTILES = (50, 90, 99)
_ROWS_AT_ONCE = 10_000
_TEXTS_AT_ONCE = 1_000
_KEYS_AT_ONCE = 50_000_000  # ours: a pass over all sources takes about 1.6 GB
_SEPARATOR = "\n"  # no normalized text holds one, so that two pairs are equal only if both their sides are


@dataclasses.dataclass(frozen=True)
class SourceKeys:
    """The keys of one source: files of arrays (3, rows) in int64, one for each shard of rows, in the order of `SIDES`.

    Attributes:
        directory: where the files are.
        source: number of the source.
        rows: rows of the source.
        rows_per_shard: rows of a file, but for the last.
    """

    directory: Path
    source: int
    rows: int
    rows_per_shard: int

    @property
    def files(self) -> ShardFiles:
        """The files of all shards."""
        count = -(-self.rows // self.rows_per_shard)
        return ShardFiles(self.directory, f"keys-{self.source:03}", count, ".npy")

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        return range(self.rows)[shard * self.rows_per_shard : (shard + 1) * self.rows_per_shard]

    def make(self, pairs: datasets.Dataset, shard: int, progress: tqdm) -> None:
        """Write the keys of a shard, unless the file is there; `progress` counts rows."""
        rows, path = self.rows_of(shard), self.files.path(shard)
        if not self.files.is_finished(shard):
            keys = np.empty((len(SIDES), len(rows)), dtype=np.int64)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                keys[:, start : start + len(part)] = pair_keys(pairs[part.start : part.stop])
                progress.update(len(part))
            write_array(path, keys)
            write_receipt(self.files.receipt(shard), [path])
        else:
            progress.update(len(rows))

    def load(self, shard: int) -> np.ndarray:
        """The keys of a shard (3, rows), memory-mapped."""
        return np.load(self.files.path(shard), mmap_mode="r")

    def side(self, side: str) -> np.ndarray:
        """All keys of one side (rows,), in memory."""
        place = SIDES.index(side)
        return np.concatenate([self.load(shard)[place] for shard in range(self.files.count)])

    def first_row(self, side: str, key: int) -> int:
        """The first row with a key, counted from 0."""
        place = SIDES.index(side)
        for shard in range(self.files.count):
            if len(found := np.flatnonzero(self.load(shard)[place] == key)):
                return self.rows_of(shard)[int(found[0])]
        raise KeyError(f"no {side} of source {self.source} has the key {key}.")


def pair_keys(rows: dict[str, list[str | None]]) -> np.ndarray:
    """Keys of some rows' queries, documents and pairs (3, rows); a missing text counts as a blank one."""
    texts = [[normalize_text(text or "") for text in rows[side]] for side in ("query", "document")]
    texts.append([_SEPARATOR.join(pair) for pair in zip(*texts, strict=True)])
    return np.array([[text_key(text) for text in side] for side in texts], dtype=np.int64)


def count_repeated(keys: np.ndarray, most: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Find the distinct keys, and those that occur most often.

    Args:
        keys: (n,), sorted in place.
        most: how many of the most frequent keys to name.

    Returns:
        The distinct keys, sorted, and (key, count) of at most `most` keys that occur more than once, the most frequent
        first, equal counts by key.
    """
    keys.sort()
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    distinct = keys[starts]
    counts = np.diff(starts, append=len(keys))
    repeated = np.flatnonzero(counts > 1)
    if len(repeated) > most:  # those at least as frequent as the last to be named: few to sort
        least = np.partition(counts[repeated], -most)[-most]
        repeated = repeated[counts[repeated] >= least]
    order = repeated[np.lexsort((distinct[repeated], -counts[repeated]))][:most]
    return distinct, [(int(distinct[place]), int(counts[place])) for place in order]


def count_shared(distinct: Sequence[np.ndarray], keys_at_once: int = _KEYS_AT_ONCE) -> np.ndarray:
    """Count the keys that two sources share, for each two.

    Args:
        distinct: for each source its distinct keys, sorted; they may be memory-mapped.
        keys_at_once: keys of all sources that are in memory at once, about. Each takes about 32 bytes.

    Returns:
        Symmetric matrix (sources, sources); on its diagonal the sizes of the sources.
    """
    sizes = np.array([len(keys) for keys in distinct], dtype=np.int64)
    shared = np.zeros((len(distinct), len(distinct)), dtype=np.int64)
    passes = max(1, -(-int(sizes.sum()) // keys_at_once))
    # Keys are hashes, so that ranges of equal width hold about equally many.
    edges = [-(2**63) + 2**64 * part // passes for part in range(1, passes)]
    cuts = [[0, *np.searchsorted(keys, np.array(edges, dtype=np.int64)).tolist(), len(keys)] for keys in distinct]
    for part in tqdm(range(passes), desc="Comparing the sources", unit="pass", disable=passes == 1):
        pieces = [keys[cut[part] : cut[part + 1]] for keys, cut in zip(distinct, cuts, strict=True)]
        shared += _shared_in_pass(pieces)
    np.fill_diagonal(shared, sizes)
    return shared


def _shared_in_pass(pieces: Sequence[np.ndarray]) -> np.ndarray:
    owners = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece) for piece in pieces])
    keys = np.concatenate(pieces)
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]
    same_as_next = keys[1:] == keys[:-1]
    several = np.concatenate([same_as_next, [False]]) | np.concatenate([[False], same_as_next])
    if not len(keys) or not several.any():
        return np.zeros((len(pieces), len(pieces)), dtype=np.int64)
    keys, owners = keys[several], owners[several]
    numbers = np.cumsum(np.concatenate([[0], keys[1:] != keys[:-1]]))
    # A row for each key, a 1 for each source that has it: the product counts the keys of each two sources.
    ones = np.ones(len(keys), dtype=np.int64)
    incidence = sparse.csr_matrix((ones, (numbers, owners)), shape=(int(numbers[-1]) + 1, len(pieces)))
    return (incidence.T @ incidence).toarray()


def choose_rows(rows: int, count: int, seed: int, name: str) -> list[int]:
    """Rows to look at, in order: at most `count`, a random choice that depends on the seed and the source's name."""
    generator = np.random.default_rng([seed, text_key(name) % 2**64])
    return np.sort(generator.choice(rows, min(count, rows), replace=False)).tolist()


def token_lengths(
    pairs: datasets.Dataset, rows: list[int], tokenizer: PreTrainedTokenizerBase, prefixes: dict[str, str]
) -> dict[str, np.ndarray]:
    """Measure texts in tokens, as a model sees them uncut: with their task prefix and the special tokens.

    Args:
        pairs: a source, with the columns query, document and, where there are any, negatives.
        rows: rows to measure.
        tokenizer: of the model.
        prefixes: text put before every query and every document; negatives have that of the documents.

    Returns:
        `query` and `document` (rows,), and `negatives` (negatives of all rows,), in int32, where that column is there.
    """
    lengths: dict[str, list[int]] = {name: [] for name in pairs.column_names}
    for start in range(0, len(rows), _TEXTS_AT_ONCE):
        for name, values in pairs[rows[start : start + _TEXTS_AT_ONCE]].items():
            texts = [text for row in values for text in row or ()] if name == "negatives" else values
            prefix = prefixes["query" if name == "query" else "document"]
            if texts:
                ids = tokenizer([prefix + (text or "") for text in texts], truncation=False, verbose=False)["input_ids"]
                lengths[name] += map(len, ids)
    return {name: np.array(values, dtype=np.int32) for name, values in lengths.items()}


def summarize_lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Mean, percentiles and maximum of lengths in tokens (n,), and how many exceed each of `LIMITS`."""
    if not len(lengths):
        return {"texts": 0}
    percentiles = np.percentile(lengths, _PERCENTILES, method="higher")
    return {
        "texts": len(lengths),
        "mean": round(float(lengths.mean()), 1),
        **{f"p{percent}": int(value) for percent, value in zip(_PERCENTILES, percentiles, strict=True)},
        "max": int(lengths.max()),
        **{f"over_{limit}": int((lengths > limit).sum()) for limit in LIMITS},
    }
