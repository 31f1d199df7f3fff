"""Settings of stages 2 and 3."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .arguments import StepArguments, divide_batch
from .losses import HardNegativeScope

_SIDES = {"query", "document"}


@dataclass
class ContrastiveConfig(StepArguments):
    """Settings of `ContrastiveTrainer`, on top of TrainingArguments.

    `per_device_train_batch_size` follows from `global_batch_size` and the number of ranks; memory is set by
    `chunk_tokens` instead, which changes no gradient.

    Attributes:
        global_batch_size: rows of a step over all ranks: the pool that negatives come from, at evaluation too.
        chunk_tokens: real tokens that a device encodes with gradient at a time; the rest waits (GradCache). None: on a
            GPU as many as its free memory holds, measured before step 1, and 16,384 on a CPU.
        scale: 1 / temperature, fixed.
        query_max_length: tokens, prefix and special tokens included; longer queries are cut.
        document_max_length: likewise for documents and hard negatives.
        num_hard_negatives: for each row, drawn anew each epoch from its column `negatives`.
        hard_negative_scope: "global": the hard negatives of all rows are every query's negatives. "own": a query's
            own only, as Eq. 2 is printed.
        rows_without_negatives: "error": refuse a source with such rows; "skip": leave them out, and say how many.
            A row whose list is only shorter than `num_hard_negatives` is filled with documents of other rows.
        mask_duplicate_documents: whether equal documents in a global batch are no negatives of each other. Their
            number, `duplicate_documents` a step, is logged then.
        matryoshka_dims: the loss is the sum of that over the first so many dimensions of each embedding, after a layer
            norm without parameters, as nomic-embed-text-v1.5 was trained. None: all dimensions, no layer norm.
        prompts: {"query": "search_query: ", "document": "search_document: "} for all sources, or
            {source: {"query": ..., "document": ...}}. Required; "" for none.
        source_weights: source -> passes over its rows in an epoch; 1 where a source is not named.

    Raises:
        ValueError: a setting that would not mean what it says.
    """

    global_batch_size: int = 256  # type: ignore[assignment]
    chunk_tokens: int | None = None
    scale: float = 50.0
    query_max_length: int = 2048
    document_max_length: int = 2048
    num_hard_negatives: int = 0
    hard_negative_scope: HardNegativeScope = "global"
    rows_without_negatives: Literal["error", "skip"] = "error"
    mask_duplicate_documents: bool = False
    matryoshka_dims: list[int] | None = None
    prompts: dict[str, Any] | None = None
    source_weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        for name, wanted in {"DeepSpeed": self.deepspeed, "FSDP": self.fsdp}.items():
            if wanted or os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ("1", "true", "yes"):
                raise ValueError(
                    f"{name} is refused in contrastive training: it would reduce or step on every chunk of GradCache. "
                    "Use plain data parallelism (`accelerate launch --multi_gpu`); chunk_tokens bounds the memory."
                )
        super().__post_init__()
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps is refused in contrastive training: it would shrink the pool of "
                "negatives. Set global_batch_size, and lower chunk_tokens to fit the memory."
            )
        if self.hard_negative_scope not in get_args(HardNegativeScope):
            raise ValueError(f"hard_negative_scope must be 'global' or 'own', not {self.hard_negative_scope!r}.")
        if self.rows_without_negatives not in ("error", "skip"):
            raise ValueError(f"rows_without_negatives must be 'error' or 'skip', not {self.rows_without_negatives!r}.")
        dims = self.matryoshka_dims
        if dims is not None and (not dims or min(dims) < 1 or len(set(dims)) < len(dims)):
            raise ValueError(f"matryoshka_dims must be different positive numbers, not {dims}.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be greater than 0, got {self.scale}.")
        at_least = {"chunk_tokens": 1, "query_max_length": 3, "document_max_length": 3, "num_hard_negatives": 0}
        for name, least in at_least.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        per_device = divide_batch(self, "the number of ranks", self.world_size)
        if self.per_device_train_batch_size not in (8, per_device):  # 8 is the default of TrainingArguments
            raise ValueError(
                f"per_device_train_batch_size {self.per_device_train_batch_size} contradicts global_batch_size "
                f"{self.global_batch_size:,} on {self.world_size} ranks. Leave it out."
            )
        self.per_device_train_batch_size = per_device

    def prompts_by_source(self, sources: list[str], all_used: bool) -> dict[str, dict[str, str]]:
        """The prefixes of each source.

        Args:
            sources: their names.
            all_used: whether prefixes of another source are a mistake; an evaluation set may have fewer sources.

        Raises:
            ValueError: none were given, one is missing, or they name a source that does not exist.
        """
        if self.prompts is None:
            raise ValueError(
                "prompts is not set, and every text needs a prefix (paper §4.2.2). For example prompts={'query': "
                "'search_query: ', 'document': 'search_document: '}, for all sources or by source; '' for none."
            )
        shared = all(isinstance(value, str) for value in self.prompts.values())
        prompts = dict.fromkeys(sources, self.prompts) if shared else self.prompts
        if all_used and (unknown := sorted(set(prompts) - set(sources))):
            raise ValueError(f"prompts names unknown sources {unknown}; there are {sorted(sources)}.")
        for source in sources:
            given = prompts.get(source)
            if not isinstance(given, Mapping) or set(given) != _SIDES:
                raise ValueError(f"prompts of source {source!r} must give 'query' and 'document', got {given!r}.")
        return {source: dict(prompts[source]) for source in sources}
