"""Which rows a step trains on: a pure function of (seed, epoch, step).

Permutations are computed from a key, not stored: memory does not grow with the rows, every rank and worker knows the
order without talking to the others, and a resumed run starts at any step at once.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler
from transformers import TrainingArguments

_ROUNDS = 8
_MINIMUM_HALF_BITS = 3  # a network over fewer bits reaches too few permutations
_BATCHES, _ROWS, _EVALUATION = range(3)  # what a key is for

RowIndices = np.ndarray  # (rows,) int64 row numbers within one source


def permute(positions: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Where a keyed pseudorandom permutation of range(size) sends some positions.

    A Feistel network permutes the next range of 2^(2k) numbers; walking on from a number outside range(size) until one
    lies inside (cycle walking) makes that a permutation of range(size).

    Args:
        positions: int array of any shape, within range(size).
        size: the length of the permuted range.
        key: non-negative integers; another key is another permutation.

    Returns:
        int64, of the shape of `positions`.
    """
    half_bits = max(_MINIMUM_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    values = _feistel(np.atleast_1d(positions).astype(np.uint64), half_bits, key)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, key)
    return values.astype(np.int64).reshape(np.shape(positions))


def _feistel(values: np.ndarray, half_bits: int, key: tuple[int, ...]) -> np.ndarray:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for round_key in _round_keys(key):
        left, right = right, left ^ (_mix(right + round_key) & mask)
    return left << shift | right


@lru_cache(maxsize=256)
def _round_keys(key: tuple[int, ...]) -> np.ndarray:
    return np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64; arithmetic wraps at 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class BatchPlan:
    """Global batches of one epoch, each of one source (paper §4.2), in proportion to the sources' rows.

    Every row is used at most once in a pass over its source; rows that do not fill a batch are left out, others in
    every pass. An epoch is one pass; for a source of weight 2 it is two, each in an order of its own, and for one of
    weight 0.5 half a pass, over another half in every epoch.

    Attributes:
        rows: source -> number of rows.
        batch_size: rows in a global batch.
        seed: of the order.
        weights: source -> passes over its rows in an epoch; 1 where a source is not named.

    Raises:
        ValueError: a source does not fill one global batch, or a weight is not positive or of no source.
    """

    rows: Mapping[str, int]
    batch_size: int
    seed: int
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("The training set holds no source.")
        if unknown := sorted(set(self.weights) - set(self.rows)):
            raise ValueError(f"Weights name unknown sources {unknown}; there are {sorted(self.rows)}.")
        for source, count in self.rows.items():
            if not 0 < self.weight(source) < math.inf:
                raise ValueError(f"The weight of source {source!r} must be positive, not {self.weight(source)}.")
            if count < self.batch_size:
                raise ValueError(
                    f"Source {source!r} has {count:,} rows, fewer than one global batch of {self.batch_size:,}, so it "
                    "would never be trained on. Lower global_batch_size, merge the source with a similar one, or "
                    "leave it out."
                )
            if self.batches(source) == 0:
                raise ValueError(
                    f"Source {source!r} with weight {self.weight(source):g} does not fill one global batch of "
                    f"{self.batch_size:,}, so it would never be trained on. Raise its weight or leave it out."
                )

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self.batches(source) for source in self.rows))

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch, of all sources."""
        return self._ends[-1]

    def steps(self, args: TrainingArguments) -> int:
        """Steps of a run: `max_steps` where it is positive, or else those of `num_train_epochs`."""
        return args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * self.steps_per_epoch)

    def weight(self, source: str) -> float:
        """Passes over a source's rows in an epoch."""
        return self.weights.get(source, 1)

    def batches(self, source: str) -> int:
        """Global batches of a source in an epoch."""
        passes, part = divmod(self.weight(source), 1)
        in_pass = self.rows[source] // self.batch_size
        return int(passes) * in_pass + int(part * self.rows[source]) // self.batch_size

    def dropped(self, source: str) -> int:
        """Rows of a source left out of each epoch."""
        return self.rows[source] - min(self.batches(source), self.rows[source] // self.batch_size) * self.batch_size

    def batch(self, epoch: int, step: int) -> tuple[str, RowIndices]:
        """The source of a step and its rows (batch_size,)."""
        number = int(permute(np.array(step), self.steps_per_epoch, (self.seed, _BATCHES, epoch)))
        index = bisect_right(self._ends, number)
        source = list(self.rows)[index]
        batch = number - self._ends[index] + self.batches(source)
        passed, place = divmod(batch, self.rows[source] // self.batch_size)
        order = epoch * math.ceil(self.weight(source)) + passed  # passes are counted on from epoch to epoch
        positions = np.arange(place * self.batch_size, (place + 1) * self.batch_size)
        return source, permute(positions, self.rows[source], (self.seed, _ROWS, order, index))


@dataclass(frozen=True)
class SourceBatch:
    """Rows of one source, as a collator gets them.

    Attributes:
        source: its name.
        dataset: all of the source's rows.
        rows: (batch,) the batch's row numbers within `dataset`.
        epoch: counted from 0; random choices are keyed by (seed, epoch, row).
    """

    source: str
    dataset: Dataset
    rows: RowIndices
    epoch: int

    def columns(self) -> dict[str, list]:
        """Column -> values of the batch's rows."""
        return self.dataset[self.rows.tolist()]


Collator = Callable[[SourceBatch], dict[str, Any]]


@dataclass(frozen=True)
class TrainBatches(TorchDataset):
    """This rank's share of every micro-batch; items are looked up by (epoch, micro-step).

    A global batch is cut into `accumulation` micro-batches of `ranks` contiguous parts, so the rows of an optimizer
    step do not depend on either number.

    Attributes:
        sources: name -> rows.
        plan: the global batches.
        collator: turns this rank's rows into tensors, in the loader's worker.
        rank: of this process.
        ranks: processes in all.
        accumulation: micro-batches in an optimizer step.
    """

    sources: Mapping[str, Dataset]
    plan: BatchPlan
    collator: Collator
    rank: int = 0
    ranks: int = 1
    accumulation: int = 1

    def __len__(self) -> int:
        """Rows of an epoch, over all ranks: what Trainer counts as examples."""
        return self.plan.steps_per_epoch * self.plan.batch_size

    @property
    def micro_steps_per_epoch(self) -> int:
        """Items of an epoch for each rank."""
        return self.plan.steps_per_epoch * self.accumulation

    def part(self, epoch: int, micro_step: int) -> SourceBatch:
        """This rank's rows of a micro-batch."""
        step, micro = divmod(micro_step, self.accumulation)
        source, rows = self.plan.batch(epoch, step)
        size = len(rows) // (self.accumulation * self.ranks)
        start = (micro * self.ranks + self.rank) * size
        return SourceBatch(source, self.sources[source], rows[start : start + size], epoch)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.collator(self.part(*key))


class StepSampler(Sampler):
    """Batch sampler of one key a batch, (epoch, micro-step), for a DataLoader over TrainBatches.

    Skipping to a step costs nothing, for only keys are skipped. The epoch is asked for when an epoch begins, because
    Trainer's `set_epoch` reaches a batch sampler only after `skip_first_batches` has wrapped it.
    """

    def __init__(self, micro_steps_per_epoch: int, current_epoch: Callable[[], int]) -> None:
        self.micro_steps_per_epoch = micro_steps_per_epoch
        self.current_epoch = current_epoch

    def __len__(self) -> int:
        return self.micro_steps_per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.current_epoch()
        return ([(epoch, step)] for step in range(self.micro_steps_per_epoch))


@dataclass(frozen=True)
class EvaluationBatches(TorchDataset):
    """All rows of every source once, in a fixed random order, in batches of one source.

    Batches go to the ranks in turn, whole, so that scores which depend on a batch's other rows do not depend on the
    number of ranks. Item i of a rank is None where the batches ran out.

    Attributes:
        sources: name -> rows, at least one each.
        batch_size: rows in a batch; the last batch of a source may be smaller.
        collator: turns rows into tensors.
        seed: of the order.
        rank: of this process.
        ranks: processes in all.
    """

    sources: Mapping[str, Dataset]
    batch_size: int
    collator: Collator
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        for source, dataset in self.sources.items():
            if len(dataset) == 0:
                raise ValueError(f"Source {source!r} of the evaluation set has no rows.")

    @cached_property
    def _batches(self) -> list[tuple[int, int]]:
        sizes = [len(dataset) for dataset in self.sources.values()]
        return [(index, start) for index, size in enumerate(sizes) for start in range(0, size, self.batch_size)]

    def __len__(self) -> int:
        """Rows of all sources, over all ranks: what Trainer counts as examples."""
        return sum(len(dataset) for dataset in self.sources.values())

    @property
    def items_per_rank(self) -> int:
        """Items of every rank."""
        return -(-len(self._batches) // self.ranks)

    def __getitem__(self, item: int) -> dict[str, Any] | None:
        number = item * self.ranks + self.rank
        if number >= len(self._batches):
            return None
        index, start = self._batches[number]
        source, dataset = list(self.sources.items())[index]
        positions = np.arange(start, min(start + self.batch_size, len(dataset)))
        rows = permute(positions, len(dataset), (self.seed, _EVALUATION, index))
        return self.collator(SourceBatch(source, dataset, rows, epoch=0))
