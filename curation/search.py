"""Exact nearest neighbours and ranks by inner product, over blocks of scores.

A block of scores is made by one matrix product and read once. All that is kept of it are the few scores that are
above the k-th place so far, or how many are above a query's own score, so that nearly all time is the product's.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

Embeddings = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
Device = str | torch.device


class BlockSize(NamedTuple):
    """Queries (rows) and documents (columns) of one block of scores."""

    queries: int
    documents: int


# A block of 16 MB: it stays in the caches until it has been read, and the first touch of new memory is not free either.
# Blocks of 8 to 64 MB were slower by up to a tenth.
_CPU_BLOCK = BlockSize(1024, 4096)
# A block of 1 GB: milliseconds of work for each of the few waits of host and device in it. More queries than documents,
# because documents that do not fit on the device travel there once for every block of queries.
_GPU_BLOCK = BlockSize(32_768, 8192)
_RESIDENT_SHARE = 0.25  # of a GPU's free memory, for documents that stay there
_GROUP = 32  # neighbouring scores of which only the largest is compared at first; measured: 16 and 64 are slower
_GROUPS_AT_ONCE = 2**17  # of which all scores are looked at: 16 MB of scores
_COUNTED_AT_ONCE = 1024  # comparisons added up in the eight bytes of a word, 128 in each
_LARGEST = 1e15  # of an embedding's values: a score of these is far from float32's largest, 3e38
_LOW_BITS = 2**32 - 1


def top_k(
    queries: Embeddings,
    documents: Embeddings,
    k: int,
    *,
    device: Device | Sequence[Device] | None = None,
    block_size: BlockSize | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k documents with the largest inner product for every query, exactly.

    Scores are computed in float32, a block at a time. Beside the inputs and the result, memory is that of a few
    blocks, and on a GPU that of the documents too where they take a quarter of what is free, or less.

    Args:
        queries: query embeddings (q, dim), float32 or float16. A sequence of tensors or arrays, such as the
            memory-mapped files of shards, is read as one table.
        documents: document embeddings (d, dim), likewise.
        k: documents per query.
        device: where to compute; None: where `queries` is. Blocks of queries are shared out among several.
        block_size: queries and documents of a block of scores; None: what suits the kind of device.

    Returns:
        Scores (q, k) float32, largest first, and document indices (q, k) int64, both on the CPU. Documents with equal
        scores are in the order of their indices, also where the k-th place is shared.

    Raises:
        ValueError: k is not in 1 ... d, the shapes do not fit, or an embedding is not finite or exceeds 1e15.
    """
    query_table, document_table = _open_tables(queries, documents)
    if not 1 <= k <= len(document_table):
        raise ValueError(f"k must be from 1 to the number of documents, {len(document_table)}, not {k}.")
    scores = torch.empty(len(query_table), k)
    indices = torch.empty(len(query_table), k, dtype=torch.long)

    def search(blocks: "_ScoreBlocks") -> None:
        for start, block in blocks.query_blocks():
            keys = _best_keys(blocks, block, k)
            end = start + len(block)
            scores[start:end], indices[start:end] = _split_keys(keys.sort(dim=1, descending=True).values.cpu())

    _on_devices(search, query_table, document_table, device, block_size)
    return scores, indices


def ranks(
    queries: Embeddings,
    documents: Embeddings,
    own: Tensor | np.ndarray,
    *,
    tolerance: float = 1e-6,
    device: Device | Sequence[Device] | None = None,
    block_size: BlockSize | None = None,
) -> tuple[Tensor, Tensor]:
    """Find at which place every query's own document stands among all documents by inner product, exactly.

    Documents that equal the own one, or come as near to it as float32 can tell, cost it no place. Memory is as in
    `top_k`.

    Args:
        queries: query embeddings (q, dim), as in `top_k`.
        documents: document embeddings (d, dim), likewise.
        own: index of every query's own document (q,).
        tolerance: how much larger than the own score another must be to count. The default is above the noise of
            float32 for embeddings of unit length; for longer ones it must be larger.
        device: where to compute, as in `top_k`.
        block_size: queries and documents of a block of scores, as in `top_k`.

    Returns:
        Ranks (q,) int64, counted from 1, and scores of the own documents (q,) float32, both on the CPU.

    Raises:
        ValueError: `own` is not q document indices, the shapes do not fit, or an embedding is not finite or exceeds
            1e15.
    """
    query_table, document_table = _open_tables(queries, documents)
    own = torch.as_tensor(own)
    if own.shape != (len(query_table),) or own.dtype.is_floating_point or own.dtype == torch.bool:
        raise ValueError(
            f"own must be the index of a document for each of the {len(query_table)} queries, not {own.dtype} of "
            f"shape {tuple(own.shape)}."
        )
    own = own.long().cpu()
    if outside := own[(own < 0) | (own >= len(document_table))].tolist():
        raise ValueError(f"own: there is no document {outside[0]}; there are {len(document_table)}, counted from 0.")
    places = torch.empty(len(query_table), dtype=torch.long)
    own_scores = torch.empty(len(query_table))

    def search(blocks: "_ScoreBlocks") -> None:
        for start, block in blocks.query_blocks():
            rows = slice(start, start + len(block))
            own_scores[rows] = (block * document_table.rows(own[rows]).to(block.device)).sum(dim=1).cpu()
            thresholds = own_scores[rows].to(block.device) + tolerance
            places[rows] = 1 + _count_above(blocks, block, thresholds, own[rows].to(block.device)).cpu()

    _on_devices(search, query_table, document_table, device, block_size)
    return places, own_scores


def default_block_size(device: torch.device) -> BlockSize:
    """Queries and documents of a block of scores on a device of this kind."""
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


class _Table:
    """Embeddings in one or more parts, read as one table (rows, dim).

    Raises:
        ValueError: they are no such table.
    """

    def __init__(self, name: str, embeddings: Embeddings) -> None:
        given = [embeddings] if isinstance(embeddings, Tensor | np.ndarray) else list(embeddings)
        with warnings.catch_warnings():
            # Files that are mapped to be read make arrays that cannot be written. Nothing here writes to them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.parts = [torch.as_tensor(part) for part in given]
        shapes = [tuple(part.shape) for part in self.parts]
        if not shapes or any(len(shape) != 2 or shape[1] != shapes[0][-1] for shape in shapes):
            raise ValueError(f"{name} do not fit: they must be of shape (rows, dim), not {shapes}.")
        self.dim = shapes[0][1]
        self.ends = np.cumsum([len(part) for part in self.parts]).tolist()
        self.name = name

    def check(self, block: Tensor) -> None:
        """Raise a ValueError if a value of a block of rows is NaN, infinite or too large."""
        low, high = block.aminmax()
        if not (low >= -_LARGEST and high <= _LARGEST):  # neither holds for NaN
            raise ValueError(f"{self.name}: an embedding is NaN, infinite or has a value above {_LARGEST:g}.")

    def __len__(self) -> int:
        return self.ends[-1]

    def to(self, device: torch.device) -> "_Table":
        """The table with all its parts on a device."""
        moved = object.__new__(_Table)
        moved.parts, moved.dim, moved.ends = [part.to(device) for part in self.parts], self.dim, self.ends
        moved.name = self.name
        return moved

    def block(self, start: int, stop: int, device: torch.device | None = None) -> Tensor:
        """Rows from `start` to before `stop`, or to the end, in float32."""
        pieces = []
        for part, end in zip(self.parts, self.ends, strict=True):
            begin = end - len(part)
            if begin < stop and start < end:
                # halves travel as they are and are widened where they arrive
                pieces.append(part[max(start - begin, 0) : stop - begin].to(device or part.device).float())
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def rows(self, indices: Tensor) -> Tensor:
        """Some rows, in float32, on the CPU."""
        found = torch.empty(len(indices), self.dim)
        for part, end in zip(self.parts, self.ends, strict=True):
            inside = (indices >= end - len(part)) & (indices < end)
            found[inside] = part[(indices[inside] - (end - len(part))).to(part.device)].float().cpu()
        return found


def _open_tables(queries: Embeddings, documents: Embeddings) -> tuple[_Table, _Table]:
    tables = _Table("queries", queries), _Table("documents", documents)
    if tables[0].dim != tables[1].dim:
        shapes = " and ".join(str((len(table), table.dim)) for table in tables)
        raise ValueError(f"queries (q, dim) and documents (d, dim) do not fit: {shapes}.")
    return tables


class _ScoreBlocks:
    """One device's share of the work: takes blocks of queries that wait and scores them against all documents."""

    def __init__(
        self,
        queries: _Table,
        documents: _Table,
        device: torch.device,
        size: BlockSize,
        waiting: deque[int],
        progress: tqdm,
    ) -> None:
        self.queries, self.documents, self.device, self.size = queries, documents, device, size
        self.waiting, self.progress = waiting, progress
        self._documents_checked = False
        if device.type == "cuda":
            size_there = sum(part.nbytes for part in documents.parts if part.device != device)
            if size_there <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
                self.documents = documents.to(device)
        # One piece of memory for all blocks: fresh memory costs a visible share of the time.
        self._memory = torch.empty(min(size.queries, len(queries)), _round_up(self._width), device=device)

    @property
    def groups(self) -> Tensor:
        """All the memory of scores (n, 32), row after row of a block. Rows of it are read fastest from this form."""
        return self._memory.view(-1, _GROUP)

    @property
    def _width(self) -> int:
        return min(self.size.documents, len(self.documents))

    def query_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and embeddings (rows, dim) of blocks of queries, until none waits."""
        while True:
            try:
                start = self.waiting.popleft()
            except IndexError:
                return
            block = self.queries.block(start, start + self.size.queries, self.device)
            self.queries.check(block)
            yield start, block
            self._documents_checked = True

    def score(self, queries: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """First document, number of documents and scores (rows, columns) of block after block.

        There may be more columns than documents, so that their number is a multiple of 1,024; the scores there are
        -inf. The next block takes the memory of the one before.
        """
        total = len(self.documents)
        for start in range(0, total, self._width):
            block = self.documents.block(start, start + self._width, self.device)
            if not self._documents_checked:  # with the first queries, while the block is here anyway
                self.documents.check(block)
            stop = start + len(block)
            scores = self._memory[: len(queries), : _round_up(len(block))]
            torch.mm(queries, block.T, out=scores[:, : len(block)])
            scores[:, len(block) :] = -torch.inf
            yield start, len(block), scores
            with self.progress.get_lock():
                self.progress.update(len(queries) * stop // total - len(queries) * start // total)


def _round_up(columns: int) -> int:
    return -(-columns // _COUNTED_AT_ONCE) * _COUNTED_AT_ONCE


def _on_devices(
    search: Callable[[_ScoreBlocks], None],
    queries: _Table,
    documents: _Table,
    device: Device | Sequence[Device] | None,
    size: BlockSize | None,
) -> None:
    """Call `search` for every device, in threads if there are several, until all queries are done."""
    if device is None:
        device = queries.parts[0].device
    devices = [torch.device(name) for name in ([device] if isinstance(device, str | torch.device) else device)]
    size = size or default_block_size(devices[0])
    waiting = deque(range(0, len(queries), size.queries))

    def work(share: tuple) -> None:
        search(_ScoreBlocks(*share))

    with tqdm(total=len(queries), desc="Searching", unit="query", leave=False, delay=1) as progress:
        shares = [(queries, documents, each, size, waiting, progress) for each in devices]
        if len(devices) == 1:
            work(shares[0])
            return
        with ThreadPoolExecutor(len(devices)) as pool:
            try:
                for future in as_completed([pool.submit(work, share) for share in shares]):
                    future.result()
            finally:
                waiting.clear()  # after an error or Ctrl-C the other threads stop soon


def _best_keys(blocks: _ScoreBlocks, queries: Tensor, k: int) -> Tensor:
    """Keys (rows, k) of the k best documents of every query, in no order."""
    best = _join_keys(queries.new_full((len(queries), k), -torch.inf), torch.tensor(_LOW_BITS, device=queries.device))
    for start, _, scores in blocks.score(queries):
        largest = scores.unflatten(1, (-1, _GROUP)).amax(dim=2)
        if start == 0 and largest.shape[1] >= k:
            # k scores of different groups are no less than this, so what is less is not among the k best.
            thresholds, above = largest.topk(k, dim=1, sorted=False).values.amin(dim=1), torch.ge
        else:
            # Equal to the k-th place does not suffice: the index is higher.
            thresholds, above = _split_keys(best.amin(dim=1))[0], torch.gt
        rows, numbers = above(largest, thresholds[:, None]).nonzero(as_tuple=True)
        for row, number in zip(rows.split(_GROUPS_AT_ONCE), numbers.split(_GROUPS_AT_ONCE), strict=True):
            found = blocks.groups.index_select(0, row * (scores.stride(0) // _GROUP) + number)
            item, column = above(found, thresholds[row][:, None]).nonzero(as_tuple=True)
            keys = _join_keys(found[item, column], start + number[item] * _GROUP + column)
            _merge(best, row[item], keys)
    return best


def _merge(best: Tensor, row: Tensor, keys: Tensor) -> None:
    """Put the keys (n,) found for some rows (n,), in the order of the rows, among the best ones (rows, k)."""
    k = best.shape[1]
    rows, inverse, counts = row.unique_consecutive(return_inverse=True, return_counts=True)
    if not len(rows):
        return
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[inverse]
    merged = best.new_full((len(rows), k + int(counts.max())), torch.iinfo(best.dtype).min)
    merged[:, :k] = best[rows]
    merged[inverse, k + place] = keys
    best[rows] = merged.topk(k, dim=1, sorted=False).values


def _join_keys(scores: Tensor, indices: Tensor) -> Tensor:
    """One int64 for a score and an index below 2^32: larger for a larger score, then for a lower index."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0, which it equals
    # The bits of negative floats count downwards.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW_BITS - indices)


def _split_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and indices that `_join_keys` joined."""
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32), _LOW_BITS - (keys & _LOW_BITS)


def _count_above(blocks: _ScoreBlocks, queries: Tensor, thresholds: Tensor, own: Tensor) -> Tensor:
    """For every query, how many documents but its own have a score above its threshold (rows,)."""
    count = torch.zeros_like(own)
    memory = None
    for start, width, scores in blocks.score(queries):
        rows = ((own >= start) & (own < start + width)).nonzero()[:, 0]
        scores[rows, own[rows] - start] = -torch.inf
        if memory is None:
            memory = torch.empty_like(scores, dtype=torch.bool)
        above = torch.gt(scores, thresholds[:, None], out=memory[:, : scores.shape[1]])
        # Adding up words whose bytes are 0 or 1 is several times as fast as adding up those bytes.
        words = above.view(torch.int64).unflatten(1, (-1, _COUNTED_AT_ONCE // 8)).sum(dim=2)
        count += words.view(torch.uint8).sum(dim=1)
    return count
