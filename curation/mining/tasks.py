"""What is mined: the pairs of a source, the documents that may become negatives, and which belong to which query.

Texts are told apart by 64-bit keys, and what is known of them is kept in arrays of numbers on the disk, so that ten
million documents take a few hundred megabytes while they are numbered and next to nothing afterwards.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from tqdm.auto import tqdm

from curation.duplicates import normalize_text
from curation.embedding import text_key
from curation.mining.corpora import CORPUS, PAIRS, copy_beir, copy_corpus
from curation.sources import Source, is_hub_id, open_pairs
from textfiles.arrays import write_array
from textfiles.beir import corpus_file, find_beir
from textfiles.rows import ROW_SUFFIXES, ROWS_AT_ONCE, file_stats, find_files
from textfiles.settings import require_filled
from textfiles.shards import read_receipt, write_receipt
from textfiles.writing import is_whole_arrow

_NUMBERED = "numbering.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiningSource(Source):
    """A source of pairs, and where their negatives come from.

    A directory with a corpus.jsonl(.gz) is read in the BEIR layout: every judgement above 0 is a pair, the corpus is
    its own, and `split` names qrels/SPLIT.tsv.

    Attributes:
        corpus: a local file, directory or glob pattern, of the same kinds of files as `path`, with the documents that
            may become negatives, and no others; null: the source's own documents.
        corpus_text: name of the column with the text of such a document.
        corpus_title: name of the column with its title, put before the text with a space between; null: none.
        draw: "nearest": the documents nearest to the query; "random": any, for sources that are not for retrieval.

    Raises:
        ValueError: a field has a value it cannot have; the message names the field.
    """

    corpus: str | None = None
    corpus_text: str = "text"
    corpus_title: str | None = None
    draw: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draw not in ("nearest", "random"):
            raise ValueError(f"draw must be nearest or random, not {self.draw!r}.")
        require_filled(self, "corpus_text")
        require_filled(self, "corpus", "corpus_title", or_null=True)
        if self.beir is not None and (self.corpus, self.negatives) != (None, None):
            raise ValueError(
                f"{self.path} is in the BEIR layout: it has a corpus and no negatives; leave the keys out."
            )

    @property
    def beir(self) -> Path | None:
        """The directory, if it is in the BEIR layout."""
        directory = Path(self.path).expanduser()
        return directory if corpus_file(directory) else None

    @property
    def negatives_column(self) -> str:
        """The column that the negatives are written to."""
        return self.negatives or "negatives"

    def identity(self) -> dict[str, Any]:
        """As `Source.identity`, with the files of the corpus."""
        more = find_beir(self.beir, self.split).all() if self.beir else self.corpus_files()
        files = file_stats(more)
        return {**(dataclasses.asdict(self) if self.beir else super().identity()), "corpus_files": files}

    def corpus_files(self) -> list[Path]:
        """The files of `corpus`; of a directory in the BEIR layout its corpus alone.

        Raises:
            FileNotFoundError: the path stands for no file.
        """
        if self.corpus is None:
            return []
        file = corpus_file(Path(self.corpus).expanduser())
        return [file] if file else find_files(self.corpus, ROW_SUFFIXES)


class Numbering(NamedTuple):
    """Numbers of distinct documents and queries; texts count as one when `normalize_text` makes them equal.

    Attributes:
        firsts: for each distinct document the place of the first text that it stands for (distinct,), counted over
            the corpus and then the pairs' documents.
        documents: for each pair the number of its document (pairs,).
        queries: for each pair the number of its query (pairs,).
        starts: where each query's documents begin in `positives` (queries + 1,).
        positives: documents of each query, in rising order.
        num_candidates: documents that may become negatives: the first ones.
    """

    firsts: np.ndarray
    documents: np.ndarray
    queries: np.ndarray
    starts: np.ndarray
    positives: np.ndarray
    num_candidates: int

    def positives_of(self, query: int) -> np.ndarray:
        """The documents that stand with a query anywhere, in rising order."""
        return self.positives[self.starts[query] : self.starts[query + 1]]


class MiningTask:
    """The pairs of a source and its numbered documents, open for random access; nothing of it is in memory.

    Args:
        source: the source.
        rows: its pairs, with the columns `query`, `document`, perhaps `negatives`, and `others`.
        pairs: the same pairs with their texts alone.
        corpus: documents of a corpus of its own, if there is one.
        numbering: of them all.
    """

    def __init__(
        self,
        source: MiningSource,
        rows: datasets.Dataset,
        pairs: datasets.Dataset,
        corpus: datasets.Dataset | None,
        numbering: Numbering,
    ) -> None:
        self.source, self.rows, self.numbering = source, rows, numbering
        self._pairs, self._corpus = pairs, corpus
        # Judgements beyond the limit are not mined for, but what they say of a query counts.
        self.num_rows = min(len(rows), source.limit or len(rows))

    @property
    def num_documents(self) -> int:
        """Distinct documents, those that cannot become negatives among them."""
        return len(self.numbering.firsts)

    def refuse_negatives(self, others: Mapping[str, Any]) -> None:
        """Raise a ValueError if a row has negatives in a column that the source does not name."""
        if self.source.negatives_column in others:
            raise ValueError(
                f"source {self.source.name!r}: the rows have a column 'negatives' already. Name it with the source's "
                "key `negatives`; rows with negatives are then left alone, or mined again with replace_negatives: true."
            )

    def document_texts(self, numbers: np.ndarray) -> list[str]:
        """The texts of some documents, in the order given, any of them more than once."""
        distinct, inverse = np.unique(numbers, return_inverse=True)
        places = self.numbering.firsts[distinct]
        in_corpus = 0 if self._corpus is None else len(self._corpus)
        texts: list[str] = []
        if self._corpus is not None and (found := places[places < in_corpus]).size:
            texts += self._corpus[found.tolist()]["text"]
        if (found := places[places >= in_corpus] - in_corpus).size:
            texts += self._pairs[found.tolist()]["document"]
        return [texts[place] for place in inverse.tolist()]


def open_task(source: MiningSource, work: Path) -> MiningTask:
    """Open a source to be mined. The first time, local texts are copied to `work` and numbered; let one process do it.

    Args:
        source: the source.
        work: directory for what is made of it.

    Raises:
        FileNotFoundError: a file or data set is missing.
        ValueError: as `curation.sources.open_pairs`; or the rows have negatives that the source does not name, or a
            document of the corpus is blank or lacks the column. The message names file and row.
    """
    corpus: datasets.Dataset | None = None
    if source.beir or source.corpus:
        if not all(is_whole_arrow(work / name) for name in ([CORPUS, PAIRS] if source.beir else [CORPUS])):
            _copy(source, work)
        corpus = datasets.Dataset.from_file(str(work / CORPUS))
    if source.beir:
        rows = pairs = datasets.Dataset.from_file(str(work / PAIRS))
    else:
        rows = open_pairs(source, work, others=True)
        # of a hub data set the other columns are made up when they are read
        pairs = open_pairs(source) if is_hub_id(source.path) else rows.select_columns(["query", "document"])
    if (facts := read_receipt(work / _NUMBERED)) is None:
        facts = _save(_number(corpus, pairs), work)
    arrays = [np.load(path, mmap_mode="r") for path in _array_files(work)]
    task = MiningTask(source, rows, pairs, corpus, Numbering(*arrays, **facts))
    task.refuse_negatives(json.loads(rows[0]["others"]))  # before any work is done; the others when they are written
    return task


def _copy(source: MiningSource, work: Path) -> None:
    if source.beir:
        copy_beir(source.beir, source.split, work)
    else:
        copy_corpus(source.corpus_files(), source.corpus_text, source.corpus_title, work / CORPUS)


def _number(corpus: datasets.Dataset | None, pairs: datasets.Dataset) -> Numbering:
    corpus_keys = np.empty((0, 1), np.int64) if corpus is None else _keys(corpus, "text")
    pair_keys = _keys(pairs, "document", "query")
    documents, firsts = _distinct(np.concatenate([corpus_keys[:, 0], pair_keys[:, 0]]))
    # Numbers are given in the order of first texts, so those that stand in the corpus come first.
    num_candidates = len(firsts) if corpus is None else int(np.searchsorted(firsts, len(corpus)))
    documents = documents[len(corpus_keys) :]
    queries, _ = _distinct(pair_keys[:, 1])
    order = np.lexsort((documents, queries))
    sorted_queries, sorted_documents = queries[order], documents[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(sorted_queries) != 0) | (np.diff(sorted_documents) != 0)
    starts = np.searchsorted(sorted_queries[new], np.arange(queries.max() + 2))
    return Numbering(firsts, documents, queries, starts, sorted_documents[new], num_candidates)


def _keys(texts: datasets.Dataset, *columns: str) -> np.ndarray:
    """The keys (rows, columns) of the normalized texts."""
    keys = np.empty((len(texts), len(columns)), dtype=np.int64)
    with tqdm(total=keys.size, desc="Numbering texts", unit="text", unit_scale=True) as progress:
        for start, batch in _batches(texts):
            for number, column in enumerate(columns):
                found = [text_key(normalize_text(text)) for text in batch[column]]
                keys[start : start + len(found), number] = found
                progress.update(len(found))
    return keys


def _batches(texts: datasets.Dataset) -> Iterator[tuple[int, dict[str, list]]]:
    for start in range(0, len(texts), ROWS_AT_ONCE):
        yield start, texts[start : start + ROWS_AT_ONCE]


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each key's value (n,), in the order of first occurrence, and these occurrences (distinct,)."""
    _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(len(order))
    return numbers[inverse], firsts[order]


def _save(numbering: Numbering, work: Path) -> dict[str, int]:
    for path, array in zip(_array_files(work), numbering[:-1], strict=True):
        write_array(path, array)
    facts = {"num_candidates": numbering.num_candidates}
    write_receipt(work / _NUMBERED, _array_files(work), facts)
    return facts


def _array_files(work: Path) -> list[Path]:
    return [work / f"{name}.npy" for name in Numbering._fields[:-1]]
