"""Mining hard negatives for one source, shard by shard: embeddings of its documents, then its pairs with negatives."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from curation.embedding import TextEmbedder, embed_distinct
from curation.mining.negatives import NegativeLimits, draw_random, nearest_documents
from curation.mining.tasks import MiningTask
from textfiles.arrays import write_array, write_arrays
from textfiles.shards import ShardFiles, write_receipt
from textfiles.writing import write_jsonl

_ROWS_AT_ONCE = 500  # of which the negatives' texts are in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """How a source is mined.

    Attributes:
        limits: which of the nearest documents become negatives.
        documents_per_shard: distinct documents whose embeddings make one file.
        rows_per_shard: pairs that make one file. Every file costs one pass over all documents' embeddings.
        embedding_dtype: float32, or float16 for files of half the size and cosines that are off by up to 0.0005.
        replace_negatives: mine for pairs that have negatives too, in place of these.
        seed: of random negatives.
        query_prompt: text before every query; None: as the embedder's settings say.
        document_prompt: text before every document, likewise.
    """

    limits: NegativeLimits
    documents_per_shard: int
    rows_per_shard: int
    embedding_dtype: str
    replace_negatives: bool
    seed: int
    query_prompt: str | None = None
    document_prompt: str | None = None


@dataclasses.dataclass
class _Mined:
    """Negatives of the pairs of a shard, None for those left alone, and cosines where they are known."""

    negatives: list[np.ndarray | None]
    scores: np.ndarray
    own_scores: np.ndarray


class SourceMiner:
    """The files that are made of one source, each of them alone.

    Args:
        task: the source, opened.
        directory: where the pairs with their negatives are going to be, a directory of the source alone.
        work: directory for what is needed until then.
        settings: how to mine.
    """

    def __init__(self, task: MiningTask, directory: Path, work: Path, settings: MiningSettings) -> None:
        self.task, self.settings = task, settings
        # documents drawn at random need no embedding
        num_embedded = task.num_documents if task.source.draw == "nearest" else 0
        num_pair_shards = -(-task.num_rows // settings.rows_per_shard)
        self.documents = ShardFiles(work, "documents", -(-num_embedded // settings.documents_per_shard), ".npy")
        self.pairs = ShardFiles(directory, "pairs", num_pair_shards, ".jsonl.gz")
        self.scores = ShardFiles(work, "scores", num_pair_shards, ".npz")

    def embed_documents(self, shards: Sequence[int], embedder: TextEmbedder, progress: tqdm) -> None:
        """Write the embeddings of the documents of some shards; those that are there are not made again.

        Args:
            shards: their numbers.
            embedder: the model.
            progress: a bar that counts documents.
        """
        for shard in shards:
            numbers = self._numbers(shard)
            if not self.documents.is_finished(shard):
                blocks = []
                for start in range(0, len(numbers), embedder.texts_at_once):
                    texts = self.task.document_texts(numbers[start : start + embedder.texts_at_once])
                    embeddings = embedder.encode("document", texts, self.settings.document_prompt)
                    blocks.append(embeddings.numpy().astype(self.settings.embedding_dtype))
                    progress.update(len(texts))
                write_array(self.documents.path(shard), np.concatenate(blocks))
                write_receipt(self.documents.receipt(shard), [self.documents.path(shard)])
            else:
                progress.update(len(numbers))

    def mine_pairs(
        self, shards: Sequence[int], embedder: TextEmbedder | None, device: torch.device, progress: tqdm
    ) -> None:
        """Write the pairs of some shards with their negatives; shards that are there are not made again.

        Args:
            shards: their numbers.
            embedder: the model; not needed for random negatives.
            device: where the search computes.
            progress: a bar that counts pairs.

        Raises:
            ValueError: an embedding is not finite.
        """
        for shard in shards:
            start, done = shard * self.settings.rows_per_shard, progress.n
            stop = min(start + self.settings.rows_per_shard, self.task.num_rows)
            if not self.scores.is_finished(shard):
                batch = self.task.rows[start:stop]
                mined = self._mine(start, batch, embedder, device, progress)
                counts = np.array([-1 if found is None else len(found) for found in mined.negatives])
                scores = {"counts": counts, "scores": mined.scores, "own_scores": mined.own_scores}
                write_arrays(self.scores.path(shard), scores)
                write_jsonl(self._rows(batch, mined.negatives), self.pairs.path(shard))
                write_receipt(self.scores.receipt(shard), [self.scores.path(shard), self.pairs.path(shard)])
            progress.update(stop - start - (progress.n - done))  # those for which no query was embedded

    @cached_property
    def _embeddings(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in self.documents.paths()]

    @cached_property
    def _candidates(self) -> list[np.ndarray]:
        """The embeddings of the documents that may become negatives, which come first."""
        count, size = self.task.numbering.num_candidates, self.settings.documents_per_shard
        return [shard[: count - place * size] for place, shard in enumerate(self._embeddings) if place * size < count]

    def _numbers(self, shard: int) -> np.ndarray:
        start = shard * self.settings.documents_per_shard
        return np.arange(start, min(start + self.settings.documents_per_shard, self.task.num_documents))

    def _mine(
        self,
        start: int,
        batch: dict[str, list],
        embedder: TextEmbedder | None,
        device: torch.device,
        progress: tqdm,
    ) -> _Mined:
        todo = list(range(len(batch["query"])))
        if "negatives" in batch and not self.settings.replace_negatives:
            todo = [place for place in todo if not batch["negatives"][place]]
        mined = _Mined([None] * len(batch["query"]), np.empty(0, np.float32), np.empty(0, np.float32))
        if not todo:
            return mined
        rows = start + np.array(todo)
        if self.task.source.draw == "random":
            found = [self._draw(row) for row in rows.tolist()]
        else:
            assert embedder is not None
            queries = [batch["query"][place] for place in todo]
            found, mined.scores, mined.own_scores = self._nearest(rows, queries, embedder, device, progress)
        for place, negatives in zip(todo, found, strict=True):
            mined.negatives[place] = negatives
        return mined

    def _draw(self, row: int) -> np.ndarray:
        numbering, settings = self.task.numbering, self.settings
        excluded = numbering.positives_of(numbering.queries[row])
        key = (settings.seed, row)
        return draw_random(numbering.num_candidates, excluded, settings.limits.num_negatives, key)

    def _nearest(
        self, rows: np.ndarray, queries: list[str], embedder: TextEmbedder, device: torch.device, progress: tqdm
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Negatives of some pairs, the cosines of all of them, and those of the pairs' own documents."""

        def encode(texts: list[str]) -> Tensor:
            return embedder.encode("query", texts, self.settings.query_prompt)

        ids, embeddings, firsts = embed_distinct(queries, encode, embedder.texts_at_once, progress)
        numbering, limits = self.task.numbering, self.settings.limits
        excluded = [numbering.positives_of(query) for query in numbering.queries[rows[firsts]]]
        nearest = nearest_documents(embeddings, self._candidates, excluded, limits.depth, device)
        own = self._gather(numbering.documents[rows])
        own_scores = np.einsum("rd,rd->r", embeddings.numpy()[ids], own)
        negatives, scores = [], []
        for query, own_score in zip(ids.tolist(), own_scores.tolist(), strict=True):
            places = limits.choose(nearest[query].scores, own_score)
            negatives.append(nearest[query].documents[places])
            scores.append(nearest[query].scores[places])
        return negatives, np.concatenate(scores), own_scores

    def _gather(self, numbers: np.ndarray) -> np.ndarray:
        """The embeddings (n, dim) of some documents in float32."""
        size = self.settings.documents_per_shard
        found = np.empty((len(numbers), self._embeddings[0].shape[1]), dtype=np.float32)
        for shard in np.unique(numbers // size).tolist():
            inside = numbers // size == shard
            found[inside] = self._embeddings[shard][numbers[inside] - shard * size]
        return found

    def _rows(self, batch: dict[str, list], negatives: list[np.ndarray | None]) -> Iterator[dict[str, Any]]:
        """The rows under their own column names, each with its negatives at the end, nearest first."""
        source = self.task.source
        for start in range(0, len(negatives), _ROWS_AT_ONCE):
            found = negatives[start : start + _ROWS_AT_ONCE]
            numbers = [each for each in found if each is not None]
            texts = iter(self.task.document_texts(np.concatenate(numbers)) if numbers else [])
            for place, each in enumerate(found, start):
                row = {source.query: batch["query"][place], source.document: batch["document"][place]}
                others = json.loads(batch["others"][place])
                self.task.refuse_negatives(others)
                kept = batch["negatives"][place] if each is None else [next(texts) for _ in each]
                yield {**row, **others, source.negatives_column: kept}
