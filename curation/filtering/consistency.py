"""Consistency filtering: a pair is kept if its document is among the nearest to its query (paper §4.2.1).

A source is dealt out, in an order that depends on the seed alone, to samples of at most a million rows. Within a sample
the distinct documents are ranked for each query by cosine. Every row is in exactly one sample and is judged there, so
the result does not depend on how many processes judged the samples.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from curation.embedding import Side, TextEmbedder, embed_distinct
from curation.search import ranks, top_k
from curation.sources import Source, is_hub_id
from textfiles.arrays import read_arrays, write_arrays
from textfiles.settings import require_at_least
from textfiles.shards import ShardFiles, read_receipt, write_receipt
from textfiles.writing import write_jsonl

# Upper ends of the bins in which ranks are counted; the last bin is open.
RANK_BINS = (1, 2, 3, 5, 10, 30, 100, 300, 1_000, 10_000, 100_000)
SIMILARITY_STEP = 0.01  # width of the bins in which similarities, -1 to 1, are counted
_ROWS_AT_ONCE = 10_000  # read from the disk


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepRule:
    """Which rows are kept: those that meet every bound that is set.

    Attributes:
        top_k: worst rank that a row's document may have; null: any.
        min_similarity: least cosine of query and document, the variant that the paper tried and gave up; null: any.

    Raises:
        ValueError: a bound is out of range, or none is set.
    """

    top_k: int | None = 2
    min_similarity: float | None = None

    def __post_init__(self) -> None:
        if self.top_k is None and self.min_similarity is None:
            raise ValueError("top_k and min_similarity are both null, so nothing would be dropped; set one.")
        require_at_least(1, self, "top_k")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ValueError(f"min_similarity must be from -1 to 1, not {self.min_similarity}.")

    def keeps(self, found: Tensor, similarities: Tensor) -> Tensor:
        """Whether each row is kept (n,), by its document's rank (n,) and its similarity (n,)."""
        kept = torch.ones(len(found), dtype=torch.bool)
        if self.top_k is not None:
            kept &= found <= self.top_k
        if self.min_similarity is not None:
            kept &= similarities >= self.min_similarity
        return kept


@dataclasses.dataclass(frozen=True)
class Samples:
    """How the rows of a source are dealt out to samples.

    Attributes:
        num_rows: rows of the source.
        sample_size: most rows of a sample. Samples are of equal size, but for one row: a small rest would be judged
            more kindly, for there is less to be mistaken for.
        seed: of the order.

    Raises:
        ValueError: a number is out of range.
    """

    num_rows: int
    sample_size: int
    seed: int

    def __post_init__(self) -> None:
        require_at_least(2, self, "sample_size")

    @property
    def count(self) -> int:
        """Samples in all."""
        return math.ceil(self.num_rows / self.sample_size)

    def rows(self) -> list[np.ndarray]:
        """For each sample the numbers of its rows, ascending. It holds 4 bytes a row (8 beyond 2 billion rows)."""
        kind = np.int32 if self.num_rows < 2**31 else np.int64
        order = np.random.default_rng(self.seed).permutation(np.arange(self.num_rows, dtype=kind))
        return [np.sort(part) for part in np.array_split(order, self.count)]


@dataclasses.dataclass(frozen=True)
class EmbeddedPairs:
    """The pairs of a sample as numbers.

    Attributes:
        rows: numbers of the rows (n,) in the source.
        query_ids: for each row its query's place in `queries` (n,).
        document_ids: likewise.
        queries: embeddings of the distinct queries (distinct, dim), of unit length.
        documents: embeddings of the distinct documents, likewise.
    """

    rows: np.ndarray
    query_ids: np.ndarray
    document_ids: np.ndarray
    queries: Tensor
    documents: Tensor

    def judge(self, device: str | torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Rank of every row's document among the distinct documents (n,), from 1, and its similarity (n,)."""
        return ranks(self.queries[self.query_ids], self.documents, self.document_ids, device=device)

    def save(self, path: Path) -> None:
        """Write all this as an .npz file, the embeddings in half precision."""
        half = {"queries": self.queries.half().numpy(), "documents": self.documents.half().numpy()}
        numbers = {"rows": self.rows, "query_ids": self.query_ids, "document_ids": self.document_ids}
        write_arrays(path, {**numbers, **half})

    @classmethod
    def load(cls, path: Path) -> "EmbeddedPairs":
        """Read what `save` wrote; the embeddings are of unit length to half precision.

        Raises:
            ValueError: the file is damaged; names it.
        """
        loaded: dict[str, Any] = read_arrays(path, "To write it again, rerun the filter with keep_embeddings.")
        for key in ("queries", "documents"):
            loaded[key] = torch.nn.functional.normalize(torch.from_numpy(loaded[key]).float(), dim=1)
        return cls(**loaded)


def embed_pairs(pairs: datasets.Dataset, rows: np.ndarray, embedder: TextEmbedder, progress: tqdm) -> EmbeddedPairs:
    """Embed the queries and, separately, the documents of some rows; equal texts once.

    Args:
        pairs: with the columns `query` and `document`, no text blank.
        rows: numbers of the rows, ascending.
        embedder: the model.
        progress: counts texts, two for each row.
    """

    def encode(side: Side) -> tuple[np.ndarray, Tensor]:
        starts = range(0, len(rows), _ROWS_AT_ONCE)
        texts = (text for start in starts for text in pairs[rows[start : start + _ROWS_AT_ONCE].tolist()][side])
        ids, embeddings, _ = embed_distinct(texts, partial(embedder.encode, side), embedder.texts_at_once, progress)
        return ids, embeddings

    query_ids, queries = encode("query")
    document_ids, documents = encode("document")
    return EmbeddedPairs(rows, query_ids, document_ids, queries, documents)


@dataclasses.dataclass(frozen=True)
class SourceFilter:
    """The filtering of one source, and where its files are.

    Attributes:
        source: the source.
        pairs: its rows, opened with `others`.
        directory: where everything about it is written: `kept/` and `dropped/` with the rows, `audit/` with the
            counts of each sample, `embeddings/`.
        samples: how its rows are dealt out.
        rule: what is kept.
        rows_to_read: kept rows, and as many dropped ones, that the audit shows, drawn at random.
        write_dropped: also write the rows that are dropped.
        keep_embeddings: also write the embeddings.
    """

    source: Source
    pairs: datasets.Dataset
    directory: Path
    samples: Samples
    rule: KeepRule
    rows_to_read: int
    write_dropped: bool
    keep_embeddings: bool

    def files(self, what: str, suffix: str = ".jsonl.gz") -> ShardFiles:
        """The files of one kind, one for each sample."""
        return ShardFiles(self.directory / what, "sample", self.samples.count, suffix)

    def is_done(self, sample: int) -> bool:
        """Whether all files of a sample are there and whole: its counts are written last."""
        return read_receipt(self.files("audit", ".json").path(sample)) is not None

    def run(self, sample: int, rows: np.ndarray, embedder: TextEmbedder, progress: tqdm) -> None:
        """Judge the rows of a sample and write its files.

        Args:
            sample: number of the sample.
            rows: numbers of its rows.
            embedder: the model that judges.
            progress: counts texts, two for each row.
        """
        present, blank = self._split_blank(rows)
        progress.update(2 * len(blank))
        if len(present) == 0:
            raise ValueError(f"source {self.source.name!r}: every text in sample {sample} is blank; see its columns.")
        embedded = embed_pairs(self.pairs, present, embedder, progress)
        found, similarities = embedded.judge(embedder.model.device)
        kept = self.rule.keeps(found, similarities)
        written = [self.files("kept").path(sample)]
        write_jsonl(self._judged_rows(present, found, similarities, kept), written[0])
        if self.write_dropped:
            written.append(self.files("dropped").path(sample))
            write_jsonl(self._judged_rows(present, found, similarities, ~kept), written[-1])
        if self.keep_embeddings:
            written.append(self.files("embeddings", ".npz").path(sample))
            embedded.save(written[-1])
        counts = {
            "rows": len(rows),
            "kept": int(kept.sum()),
            "blank": len(blank),
            "first_blank_rows": (blank[:20] + 1).tolist(),
            "distinct_queries": len(embedded.queries),
            "distinct_documents": len(embedded.documents),
            "dropped_with_another_document": _with_another_document(embedded, ~kept),
            "ranks": count_ranks(found),
            "similarities_of_kept": count_similarities(similarities[kept]),
            "similarities_of_dropped": count_similarities(similarities[~kept]),
            "kept_rows": self._rows_to_read(sample, embedded, found, similarities, kept),
            "dropped_rows": self._rows_to_read(sample, embedded, found, similarities, ~kept),
        }
        write_receipt(self.files("audit", ".json").path(sample), written, counts)

    def _split_blank(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows with text on both sides, and the others. Local files have no others: opening them refuses blanks."""
        if not is_hub_id(self.source.path):
            return rows, rows[:0]
        present = np.empty(len(rows), dtype=bool)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            batch = self.pairs[rows[start : start + _ROWS_AT_ONCE].tolist()]
            texts = zip(batch["query"], batch["document"], strict=True)
            present[start : start + _ROWS_AT_ONCE] = [all(text and not text.isspace() for text in two) for two in texts]
        return rows[present], rows[~present]

    def _judged_rows(
        self, rows: np.ndarray, found: Tensor, similarities: Tensor, chosen: Tensor
    ) -> Iterator[dict[str, Any]]:
        """The chosen rows as they are in the source, with rank and similarity."""
        places = torch.nonzero(chosen).flatten()
        for part in places.split(_ROWS_AT_ONCE):
            batch = self.pairs[rows[part.numpy()].tolist()]
            judged = zip(found[part].tolist(), similarities[part].tolist(), strict=True)
            for place, (rank, similarity) in enumerate(judged):
                texts = {column: batch[name][place] for name, column in self.source.columns.items()}
                others = json.loads(batch["others"][place])
                yield {**texts, **others, "rank": rank, "similarity": round(similarity, 6)}

    def _rows_to_read(
        self, sample: int, embedded: EmbeddedPairs, found: Tensor, similarities: Tensor, chosen: Tensor
    ) -> list[dict[str, Any]]:
        """Some of the chosen rows at random, each with the document that is nearest to its query."""
        places = torch.nonzero(chosen).flatten().numpy()
        draw = np.random.default_rng([self.samples.seed, sample])
        places = np.sort(draw.permutation(places)[: self.rows_to_read])
        if len(places) == 0:
            return []
        _, nearest = top_k(embedded.queries[embedded.query_ids[places]], embedded.documents, 1)
        firsts = np.unique(embedded.document_ids, return_index=True)[1]  # a row that has each document
        batch = self.pairs[embedded.rows[places].tolist()]
        others = self.pairs[embedded.rows[firsts[nearest.flatten().numpy()]].tolist()]["document"]
        return [
            {
                "row": int(embedded.rows[place]) + 1,
                "rank": int(found[place]),
                "similarity": round(float(similarities[place]), 4),
                "query": batch["query"][number],
                "document": batch["document"][number],
                "nearest_document": others[number],
            }
            for number, place in enumerate(places)
        ]


def count_ranks(found: Tensor) -> list[int]:
    """Number of ranks in each bin of `RANK_BINS`, and beyond the last."""
    bins = np.searchsorted(RANK_BINS, found.numpy())
    return np.bincount(bins, minlength=len(RANK_BINS) + 1).tolist()


def count_similarities(similarities: Tensor) -> list[int]:
    """Number of similarities in each bin of `SIMILARITY_STEP` from -1 to 1."""
    num_bins = round(2 / SIMILARITY_STEP)
    return np.histogram(similarities.clamp(-1, 1).numpy(), num_bins, (-1, 1))[0].tolist()


def _with_another_document(embedded: EmbeddedPairs, chosen: Tensor) -> int:
    """How many of the chosen rows have a query that stands with another document too."""
    both = np.unique(np.stack([embedded.query_ids, embedded.document_ids]), axis=1)
    documents_of_query = np.bincount(both[0], minlength=len(embedded.queries))
    return int((documents_of_query[embedded.query_ids[chosen.numpy()]] > 1).sum())


def merge_counts(files: Sequence[Path]) -> dict[str, Any]:
    """Sum the counts of all samples of a source.

    Args:
        files: the files that `SourceFilter.run` wrote last, one for each sample.

    Returns:
        As in each file: numbers and histograms summed, lists of rows joined.
    """
    merged: dict[str, Any] = {}
    for path in files:
        counts = read_receipt(path)
        if counts is None:
            raise ValueError(f"{path}: the files of this sample are missing or cut short; rerun the filter.")
        for key, value in counts.items():
            if key not in merged:
                merged[key] = value
            elif isinstance(value, list) and key.startswith(("ranks", "similarities")):
                merged[key] = [first + second for first, second in zip(merged[key], value, strict=True)]
            else:
                merged[key] += value
    return merged
