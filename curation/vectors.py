"""Vectors of a corpus as parquet shards that vector stores read as they are, and the manifest that says what they are.

Which rows a shard holds depends on the settings alone. A shard is finished if its receipt, or the manifest, describes
it as it is.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers.util import quantize_embeddings

from curation.corpus import Corpus, Rows
from curation.embedding import Prompt, TextEmbedder
from nomic_bert.encoding import EncodedBatch
from textfiles.arrays import read_array, write_array
from textfiles.lengths import summarize
from textfiles.parquet import read_facts, write_parquet
from textfiles.settings import require_at_least
from textfiles.shards import ShardFiles, changed_files, read_receipt, write_receipt
from textfiles.vectors import VECTOR

MANIFEST, RANGES = "manifest.json", "int8_ranges.npy"
_CALIBRATION_TEXTS = 10_000  # whose least and greatest values are the ranges of int8
_CHARACTERS_AT_ONCE = 50_000_000  # of texts in memory together, read this many rows at a time:
_ROWS_AT_ONCE = 1_000

_ARROW_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorForm:
    """The form in which an embedding is stored.

    Attributes:
        truncate_dim: dimensions to keep, the first ones; null: all.
        normalize: bring vectors to unit length, after they are truncated, so that the inner product is the cosine.
        dtype: float32, float16, int8 (a byte for each dimension, by ranges of a sample of the texts that are written
            to `int8_ranges.npy`), or binary (a bit for each, in bytes, as sentence-transformers' `ubinary`).

    Raises:
        ValueError: a value is out of range.
    """

    truncate_dim: int | None = None
    normalize: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _ARROW_TYPES:
            raise ValueError(f"dtype must be one of {', '.join(_ARROW_TYPES)}, not {self.dtype!r}.")
        require_at_least(1, self, "truncate_dim")

    def shape(self, embeddings: torch.Tensor) -> np.ndarray:
        """Embeddings (n, dim) in float32, truncated and brought to unit length where the form asks for it.

        Raises:
            ValueError: they have fewer dimensions than are to be kept.
        """
        dim = embeddings.shape[1]
        if self.truncate_dim is not None and self.truncate_dim > dim:
            raise ValueError(f"truncate_dim is {self.truncate_dim}, and the model has {dim} dimensions.")
        embeddings = embeddings[:, : self.truncate_dim]
        return (torch.nn.functional.normalize(embeddings, dim=1) if self.normalize else embeddings).numpy()

    def store(self, vectors: np.ndarray, ranges: np.ndarray | None) -> pa.Array:
        """Vectors (n, dim) of `shape` as fixed-size lists of the type to write.

        Args:
            vectors: of `shape`.
            ranges: least and greatest value of each dimension (2, dim), for int8.
        """
        if self.dtype == "float16":
            values = vectors.astype(np.float16)
        else:
            name: Any = "ubinary" if self.dtype == "binary" else self.dtype
            values = np.asarray(quantize_embeddings(vectors, name, ranges=ranges))
        flat = pa.array(values.reshape(-1), _ARROW_TYPES[self.dtype])
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


@dataclasses.dataclass
class _Counts:
    """What a shard holds."""

    texts: int = 0
    blank: int = 0
    truncated: int | None = 0
    lengths: Counter[int] | None = dataclasses.field(default_factory=Counter)

    def add(self, batch: EncodedBatch) -> None:
        if batch.tokens is None or self.lengths is None or self.truncated is None or batch.truncated is None:
            self.lengths = self.truncated = None
        else:
            self.lengths.update(batch.tokens)
            self.truncated += batch.truncated

    def content(self) -> dict[str, Any]:
        lengths = None if self.lengths is None else sorted(self.lengths.items())
        return {"texts": self.texts, "blank": self.blank, "truncated": self.truncated, "lengths": lengths}


class CorpusVectors:
    """The shards that are made of a corpus, each of them alone.

    Args:
        corpus: the rows.
        directory: where everything goes: `data/` with the shards, the manifest, the ranges of int8.
        work: directory for the receipts, which are needed until the manifest is written.
        form: of the vectors.
        rows_per_shard: of the corpus.
    """

    def __init__(self, corpus: Corpus, directory: Path, work: Path, form: VectorForm, rows_per_shard: int) -> None:
        self.corpus, self.directory, self.form, self.rows_per_shard = corpus, directory, form, rows_per_shard
        count = math.ceil(len(corpus) / rows_per_shard)
        self.files = ShardFiles(directory / "data", "vectors", count, ".parquet")
        self._receipts = ShardFiles(work, "vectors", count, ".json")

    def rows_of(self, shard: int) -> range:
        """The numbers of the rows of a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, len(self.corpus)))

    def is_finished(self, shard: int) -> bool:
        """Whether a shard is there, as it was written."""
        return self._is_unchanged(self.files.path(shard), self._receipts.path(shard))

    def _is_unchanged(self, file: Path, receipt: Path) -> bool:
        if receipt.is_file():
            return read_receipt(receipt) is not None
        manifest = self.directory / MANIFEST  # of a finished run, some of whose files were lost
        return manifest.is_file() and file not in changed_files(manifest, f"Remove {self.directory} to embed again.")

    def calibrate(self, embedder: TextEmbedder, prompt: Prompt) -> None:
        """Write the ranges of int8, of texts taken evenly from the corpus; ranges that are there and whole stay."""
        path = self.directory / RANGES
        receipt = self._receipts.directory / f"{path.stem}.json"
        if self.form.dtype != "int8" or (path.is_file() and self._is_unchanged(path, receipt)):
            return
        count = min(_CALIBRATION_TEXTS, len(self.corpus))
        low, high = [], []
        for rows in self._windows([len(self.corpus) * place // count for place in range(count)]):
            if rows.texts:
                vectors = self.form.shape(embedder.encode_under(prompt, rows.texts))
                low.append(vectors.min(axis=0))
                high.append(vectors.max(axis=0))
        if not low:
            raise self._all_blank()
        write_array(path, np.stack([np.min(low, axis=0), np.max(high, axis=0)]))
        write_receipt(receipt, [path])

    def make(
        self, shard: int, embedder: TextEmbedder, prompt: Prompt, on_batch: Callable[[EncodedBatch, float], None]
    ) -> None:
        """Embed the rows of a shard and write them.

        Args:
            shard: its number.
            embedder: the model.
            prompt: put before the texts.
            on_batch: called for each batch, also with the rows that it stands for, by the share of its characters.
        """
        counts = _Counts()
        ranges = self._ranges() if self.form.dtype == "int8" else None
        dim = len(self.form.shape(embedder.encode_under(prompt, ["a"]))[0])
        schema = self.schema(dim)

        def tables() -> Iterator[pa.Table]:
            for rows in self._windows(self.rows_of(shard)):
                counts.texts, counts.blank = counts.texts + len(rows.texts), counts.blank + rows.blank
                if not rows.texts:
                    continue
                weights = np.array([len(text) for text in rows.texts], dtype=np.float64) + 1
                weights *= (len(rows.texts) + rows.blank) / weights.sum()

                def told(batch: EncodedBatch, weights: np.ndarray = weights) -> None:
                    counts.add(batch)
                    on_batch(batch, float(weights[batch.numbers].sum()))

                vectors = self.form.shape(embedder.encode_under(prompt, rows.texts, told))
                yield rows.table.add_column(1, schema.field(VECTOR), self.form.store(vectors, ranges))

        write_parquet(tables(), schema, self.files.path(shard), counts.content)
        write_receipt(self._receipts.path(shard), [self.files.path(shard)])

    def schema(self, dim: int) -> pa.Schema:
        """Of a shard, for vectors of a dimension."""
        values = -(-dim // 8) if self.form.dtype == "binary" else dim
        return self.corpus.schema.insert(1, pa.field(VECTOR, pa.list_(_ARROW_TYPES[self.form.dtype], values)))

    def finish(self, embedder: TextEmbedder, name: str | None, prompt: Prompt) -> dict[str, Any]:
        """Write the manifest of a corpus whose shards are all made, and return it.

        Args:
            embedder: the model.
            name: of the prompt; None: it has none.
            prompt: the prompt.
        """
        facts = [read_facts(path) for path in self.files.paths()]
        found = [each for each in facts if each is not None]
        if len(found) < len(facts):
            raise ValueError(
                f"{self.files.directory}: {len(facts) - len(found):,} shards are missing; rerun the command."
            )
        if not any(each["texts"] for each in found):
            raise self._all_blank()
        dim = len(self.form.shape(embedder.encode_under(prompt, ["a"]))[0])
        known = [each["lengths"] for each in found if each["lengths"] is not None]
        complete = len(known) == len(found)
        manifest = {
            "model": {
                "name_or_path": embedder.settings.model_name_or_path,
                "weights": embedder.weights_hash(),
                "backend": embedder.settings.backend,
                "precision": embedder.settings.precision,
                "max_seq_length": embedder.model.max_seq_length,
                "similarity": str(embedder.model.similarity_fn_name or "cosine"),
            },
            "prompt": {"name": name, "text": prompt.text},
            "vectors": {"dim": dim, **dataclasses.asdict(self.form)},
            "columns": {field.name: str(field.type) for field in self.schema(dim)},
            "corpus": self.corpus.source.identity(),
            "texts": sum(each["texts"] for each in found),
            "blank": sum(each["blank"] for each in found),
            "tokens": sum(length * count for lengths in known for length, count in lengths) if complete else None,
            "truncated": sum(each["truncated"] for each in found) if complete else None,
            "tokens_of_a_text": summarize(known) if complete and any(known) else None,
        }
        ranges = [self.directory / RANGES] if self.form.dtype == "int8" else []
        write_receipt(self.directory / MANIFEST, [*self.files.paths(), *ranges], manifest)
        return manifest

    def _all_blank(self) -> ValueError:
        return ValueError(
            f"{self.corpus.source.texts}: all texts are blank. Name another text_column, and remove {self.directory}."
        )

    def _ranges(self) -> np.ndarray:
        return read_array(self.directory / RANGES, f"Remove {self.directory}, or choose another.")

    def _windows(self, numbers: Sequence[int]) -> Iterator[Rows]:
        """The rows of some numbers, as many at once as have so many characters."""
        waiting: list[Rows] = []
        characters = 0
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            waiting.append(self.corpus.read(numbers[start : start + _ROWS_AT_ONCE]))
            characters += sum(map(len, waiting[-1].texts))
            if characters >= _CHARACTERS_AT_ONCE:
                yield _joined(waiting)
                waiting, characters = [], 0
        if waiting:
            yield _joined(waiting)


def _joined(parts: list[Rows]) -> Rows:
    texts = [text for part in parts for text in part.texts]
    return Rows(pa.concat_tables([part.table for part in parts]), texts, sum(part.blank for part in parts))
