"""How each GLUE run is trained, and which runs there are (paper §5.1)."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from evaluation.glue.tasks import GLUE
from textfiles.settings import did_you_mean

BATCH_SIZES = (16, 32)  # paper §5.1
LEARNING_RATES = (1e-5, 2e-5, 3e-5)  # paper §5.1
SEEDS = (42, 19, 17, 717, 10536)  # paper §5.1: five; these are from contrastors@564ee7a glue_sweep.sh
_SMALL = ("cola", "mrpc", "stsb", "rte")  # ours: the four without a large training file


@dataclass(frozen=True)
class Protocol:
    """Settings of every run, as arguments of `TrainingArguments` and of the tokenizer.

    Attributes:
        epochs: after which the model is scored.
        max_seq_length: tokens to which texts are truncated.
        weight_decay: of AdamW, on all but norms and biases.
        warmup_share: of the steps; the learning rate then falls linearly to 0.
        adam_beta2: of AdamW.
        adam_epsilon: of AdamW.
        max_grad_norm: 0: gradients are not clipped.
    """

    epochs: int = 10  # paper §5.1
    max_seq_length: int = 128  # contrastors@564ee7a glue.yaml, as the next ones but the warmup
    weight_decay: float = 1e-6
    warmup_share: float = 0.06  # paper §5.1
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-6
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.max_seq_length < 8 or not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"epochs ({self.epochs}) must be at least 1, max_seq_length ({self.max_seq_length}) at least 8, "
                f"weight_decay ({self.weight_decay:g}) not negative."
            )


@dataclass(frozen=True)
class RunSettings:
    """What distinguishes the runs of a model.

    Attributes:
        task: a GLUE task.
        batch_size: rows of a step.
        learning_rate: at the end of the warmup.
        seed: of the new head and of the order of the rows.
    """

    task: str
    batch_size: int
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Stem of the run's files."""
        return f"{self.task}-batch{self.batch_size}-rate{self.learning_rate:g}-seed{self.seed}"

    @property
    def from_mnli(self) -> bool:
        """Whether the run starts from an MNLI checkpoint, where there is one."""
        return GLUE[self.task].from_mnli


@dataclass(frozen=True)
class Grid:
    """Which runs there are: every batch size with every rate, each with every seed, for every task.

    Raises:
        ValueError: a task is unknown, a list is empty or repeats a value, or a value is invalid.
    """

    tasks: tuple[str, ...] = tuple(GLUE)
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    learning_rates: tuple[float, ...] = LEARNING_RATES
    seeds: tuple[int, ...] = SEEDS

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"--{name}: give at least one value, and each once; got {list(values)}.")
        if unknown := [task for task in self.tasks if task not in GLUE]:
            raise ValueError(f"--tasks: unknown task {unknown[0]!r}; {did_you_mean(unknown[0], GLUE, 'tasks')}")
        rates_mean_something = all(0 < rate < math.inf for rate in self.learning_rates)
        if min(self.batch_sizes) < 1 or not rates_mean_something or min(self.seeds) < 0:
            raise ValueError("--batch_sizes and --learning_rates must be positive, --seeds not negative.")

    def runs(self, task: str) -> list[RunSettings]:
        """The runs of one task."""
        grid = itertools.product(self.batch_sizes, self.learning_rates, self.seeds)
        return [RunSettings(task, *values) for values in grid]

    def all_runs(self) -> list[RunSettings]:
        """Tasks with the most rows first, so that processes end together; those that start from MNLI come last."""
        ordered = sorted(self.tasks, key=lambda task: (GLUE[task].from_mnli, -GLUE[task].train_rows))
        return [run for task in ordered for run in self.runs(task)]

    def steps(self, epochs: int) -> int:
        """Optimizer steps of all runs on the data as published."""
        steps = {
            batch: sum(math.ceil(GLUE[task].train_rows / batch) for task in self.tasks)
            for batch in set(self.batch_sizes)
        }
        return epochs * len(self.learning_rates) * len(self.seeds) * sum(steps.values())


TIERS = {
    "full": Grid(),
    "small": Grid(tasks=_SMALL),
    "quick": Grid(tasks=_SMALL, batch_sizes=(16,), learning_rates=(3e-5,), seeds=(42,)),
}


def choose_grid(
    tier: str,
    tasks: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
) -> Grid:
    """The runs of a tier, with the given values in place of the tier's."""
    grid = TIERS[tier]
    return Grid(
        tuple(tasks or grid.tasks),
        tuple(batch_sizes or grid.batch_sizes),
        tuple(learning_rates or grid.learning_rates),
        tuple(seeds or grid.seeds),
    )


def costs() -> str:
    """Runs and steps of each tier, for `--help`."""
    epochs = Protocol().epochs
    lines = [
        f"  {name:6}{len(grid.all_runs()):>4} runs,{grid.steps(epochs):>11,} steps: {', '.join(grid.tasks)}"
        for name, grid in TIERS.items()
    ]
    return "\n".join(lines)
