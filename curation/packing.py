"""Packing documents into blocks of one length for masked-language-model training (paper §4.1.1).

The documents are dealt out to shards in an order that depends on the seed alone, and each shard is packed by itself.
So the blocks do not depend on how many processes or machines packed them, and a shard that is there need not be
packed again.
"""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from curation.documents import Documents
from curation.tokenizer import plain_tokenizer, tokenizer_hash, vocabulary_hash
from textfiles.atomic import read_json, write_json
from textfiles.commands import end_at_sigterm, end_with_parent
from textfiles.settings import require_at_least
from textfiles.shards import ShardFiles, read_receipt, write_receipt
from textfiles.writing import write_arrow

MANIFEST = "manifest.json"
_COUNTS = b"counts"  # key of a shard's metadata
_DOCUMENTS_AT_ONCE = 100
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "document_lengths": pa.list_(pa.int32())})


@dataclasses.dataclass(frozen=True)
class PackingPlan:
    """What a packed data set is made of; the same plan gives the same files.

    Attributes:
        tokenizer: the tokenizer in the JSON form of `tokenizers`, without truncation and padding.
        num_documents: documents in all.
        block_size: tokens in a block.
        documents_per_shard: documents that are packed into one shard; the last shard may have fewer.
        seed: of the order of the documents; None keeps the order of the sources.

    Raises:
        ValueError: there are no documents, or a size is less than 1.
    """

    tokenizer: str
    num_documents: int
    block_size: int
    documents_per_shard: int
    seed: int | None

    def __post_init__(self) -> None:
        if self.num_documents < 1:
            raise ValueError("there are no documents to pack; check the paths and filters of the corpus.")
        require_at_least(1, self, "block_size", "documents_per_shard")

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return math.ceil(self.num_documents / self.documents_per_shard)

    def files(self, directory: Path) -> ShardFiles:
        """The files of all shards."""
        return ShardFiles(directory, "blocks", self.num_shards, ".arrow")

    def order(self) -> np.ndarray:
        """Numbers of the documents (num_documents,) in the order in which they are dealt out."""
        if self.seed is None:
            return np.arange(self.num_documents)
        return np.random.default_rng(self.seed).permutation(self.num_documents)


def pack_shards(
    documents: Documents, plan: PackingPlan, directory: Path, shards: Sequence[int], num_processes: int = 1
) -> int:
    """Pack those of some shards that are not finished yet.

    Args:
        documents: all documents.
        plan: what to make of them.
        directory: where shards are written, each under its name only once it is complete.
        shards: numbers of the shards, counted from 0: all, or this machine's share of them.
        num_processes: processes that pack; one shard at a time each.

    Returns:
        Tokens that were packed now, those dropped at the ends of shards among them.
    """
    order, files = plan.order(), plan.files(directory)
    missing = [shard for shard in shards if not files.is_finished(shard)]
    size = plan.documents_per_shard
    jobs = [(documents, plan, directory, shard, order[shard * size : (shard + 1) * size]) for shard in missing]
    expected, done, tokens = sum(len(job[-1]) for job in jobs), 0, 0
    with tqdm(desc="Packing", unit="token", unit_scale=True, disable=not jobs) as progress:
        for counts in on_processes(_pack_shard, jobs, min(num_processes, len(jobs))):
            done, tokens = done + counts["documents"] + counts["blank_documents"], tokens + counts["tokens"]
            progress.total = round(tokens / done * expected)  # an estimate, so that there is a time left
            progress.update(counts["tokens"])
    return tokens


def on_processes(work: Callable[[Any], Any], jobs: list, num_processes: int) -> Iterator[Any]:
    """Results of a module's function for each job, in any order; with one process, in this one."""
    if num_processes < 2:
        yield from map(work, jobs)
        return
    end_at_sigterm()  # and the workers with this process, not by a traceback each when they find it gone
    # the tokenizer's own threads on top of the processes would only be in each other's way
    with multiprocessing.Pool(num_processes, _begin_worker) as pool:
        yield from pool.imap_unordered(work, jobs)


def _begin_worker() -> None:
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _pack_shard(job: tuple[Documents, PackingPlan, Path, int, np.ndarray]) -> dict[str, int]:
    documents, plan, directory, shard, numbers = job
    batches = np.split(numbers, range(_DOCUMENTS_AT_ONCE, len(numbers), _DOCUMENTS_AT_ONCE))
    texts = itertools.chain.from_iterable(documents.texts(batch.tolist()) for batch in batches)
    table, counts = pack_documents(texts, Tokenizer.from_str(plan.tokenizer), plan.block_size)
    table = table.replace_schema_metadata({_COUNTS: json.dumps(counts).encode()})
    files = plan.files(directory)
    write_arrow([table], table.schema, files.path(shard))
    write_receipt(files.receipt(shard), [files.path(shard)], counts)
    return counts


def pack_documents(texts: Iterable[str], tokenizer: Tokenizer, block_size: int) -> tuple[pa.Table, dict[str, int]]:
    """Lay the tokens of all documents end to end and cut them into blocks.

    Each document carries its own special tokens ([CLS] ... [SEP]). Short documents share a block; a long one
    runs on into the next, where its continuation has no new [CLS]. Tokens after the last full block are
    dropped. The blocks depend on the order of the documents and on nothing else.

    Args:
        texts: documents, read once. Blank ones are left out, and counted.
        tokenizer: of the model to be trained, without truncation.
        block_size: tokens in a block.

    Returns:
        The blocks, a table with the columns `input_ids` (`block_size` token ids) and `document_lengths` (token
        counts of the pieces of documents in the block, in order; they sum to `block_size`); and the counts
        `documents`, `blank_documents`, `tokens`, `dropped_tokens` and `blocks`.
    """
    pieces: list[np.ndarray] = []
    counts = dict.fromkeys(("documents", "blank_documents", "tokens", "dropped_tokens", "blocks"), 0)
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, _DOCUMENTS_AT_ONCE)):
        present = [text for text in batch if text and not text.isspace()]
        counts["blank_documents"] += len(batch) - len(present)
        # encode_batch_fast leaves out the offsets into the text, a fifth of the work
        pieces += [np.array(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch_fast(present)]
    tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    num_blocks = len(tokens) // block_size
    kept = num_blocks * block_size
    counts |= {
        "documents": len(pieces),
        "tokens": len(tokens),
        "dropped_tokens": len(tokens) - kept,
        "blocks": num_blocks,
    }
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    return _cut_blocks(tokens[:kept], lengths, block_size), counts


def _cut_blocks(tokens: np.ndarray, document_lengths: np.ndarray, block_size: int) -> pa.Table:
    block_ends = np.arange(0, len(tokens) + 1, block_size)
    # Pieces end where a document ends and where a block ends.
    ends = np.union1d(np.cumsum(document_lengths), block_ends[1:])
    ends = ends[ends <= len(tokens)]
    offsets = np.concatenate([[0], np.searchsorted(ends, block_ends[1:], side="right")])
    columns = [
        pa.ListArray.from_arrays(pa.array(block_ends, pa.int32()), pa.array(tokens)),
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.diff(ends, prepend=0), pa.int32())),
    ]
    return pa.table(columns, schema=_SCHEMA)


def finish(plan: PackingPlan, directory: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest that makes the shards of a directory a packed data set; returns it.

    Args:
        plan: what the shards were made by.
        directory: where all shards are.
        about: what else the manifest shall say, in front.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: all documents together do not fill one block.
    """
    totals: dict[str, int] = {}
    shards, files = {}, plan.files(directory)
    for shard in range(plan.num_shards):
        counts = read_receipt(files.receipt(shard))
        if counts is None:
            raise FileNotFoundError(f"{files.path(shard)} is missing or damaged; rerun recipes/pack_corpus.py.")
        shards[files.path(shard).name] = counts["blocks"]
        totals = {key: totals.get(key, 0) + value for key, value in counts.items()}
    if totals["blocks"] == 0:
        raise ValueError(
            f"{totals['documents']} documents of {totals['tokens']} tokens in all fill no block of {plan.block_size} "
            f"in shards of {plan.documents_per_shard} documents; give more text, a smaller block_size, or more "
            "documents_per_shard."
        )
    manifest = {
        **about,
        "tokenizer_sha256": tokenizer_hash(plan.tokenizer),
        "vocabulary_sha256": vocabulary_hash(plan.tokenizer),
        "block_size": plan.block_size,
        "documents_per_shard": plan.documents_per_shard,
        "seed": plan.seed,
        **totals,
        "shards": shards,
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def load_blocks(directory: Path, tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    """Open a packed data set, memory-mapped.

    Args:
        directory: where it was packed.
        tokenizer: of the model to be trained.

    Returns:
        A data set with the columns `input_ids` and `document_lengths`, as `pack_documents` gives them.

    Raises:
        FileNotFoundError: the packing was not finished, or a shard is missing.
        ValueError: the blocks were packed with another vocabulary, or a shard holds another number of blocks than
            the manifest says.
    """
    remedy = f"Remove {directory} and pack the documents again."
    manifest = read_json(_existing(directory / MANIFEST), remedy)
    if not {"vocabulary_sha256", "shards"} <= manifest.keys():
        raise ValueError(f"{directory / MANIFEST} is not the manifest of a packed data set. {remedy}")
    if manifest["vocabulary_sha256"] != vocabulary_hash(plain_tokenizer(tokenizer)):
        raise ValueError(
            f"{directory} was packed with the vocabulary of {manifest['tokenizer']}, which is not that of "
            f"{tokenizer.name_or_path}. Give the same tokenizer, or pack again."
        )
    tables = []
    for name, num_blocks in manifest["shards"].items():
        if num_blocks == 0:
            continue
        if not _is_whole(_existing(directory / name)):
            raise ValueError(f"{directory / name} is damaged or cut short. {remedy}")
        table = datasets.Dataset.from_file(str(directory / name))
        if len(table) != num_blocks:
            raise ValueError(f"{directory / name}: {len(table)} blocks where {MANIFEST} says {num_blocks}; pack again.")
        tables.append(table)
    return datasets.concatenate_datasets(tables)


def _is_whole(path: Path) -> bool:
    """Whether a shard is there, with as many blocks as its head says."""
    if not path.is_file():
        return False
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
            return sum(len(batch) for batch in reader) == json.loads(reader.schema.metadata[_COUNTS])["blocks"]
    except (pa.ArrowException, OSError, TypeError, KeyError, ValueError):  # no metadata of ours, or not JSON
        return False


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, so the packing is incomplete; rerun recipes/pack_corpus.py.")
    return path
