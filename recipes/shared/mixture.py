"""What a contrastive stage would train on, for `--dry_run`: sources, batches, prefixes, lengths, the paper's counts."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from curation.sources import Preview, Source, preview
from nomic_bert import NomicBertConfig
from textfiles.markdown import aligned
from trainers import ContrastiveConfig
from trainers.memory import CHUNK_TOKENS, count_contrastive_step, memory_line
from trainers.sampling import BatchPlan

_SAMPLE = 200  # rows of a source whose texts are measured
_HEADER = ["source", "rows", "weight", "batches", "rows left out", "prefixes", "query tokens", "document tokens", "cut"]
_NUMBERS = {1, 2, 3, 4, 6, 7, 8, 9, 10}  # columns of the table, the paper's included


def describe_mixture(
    sources: Sequence[Source],
    args: ContrastiveConfig,
    tokenizer: PreTrainedTokenizerBase,
    config: NomicBertConfig | None = None,
) -> str:
    """A table of the sources, and the steps that they make; nothing is downloaded but a few rows of each.

    Token lengths are the median and the 95th percentile over a sample, prefix and special tokens included, and `cut`
    the share of texts beyond the maximum lengths. Where sources carry the paper's row counts, its steps are shown
    beside ours: they differ where the paper rounded down to whole batches in every shard, and not in every source.

    Args:
        sources: of the mixture.
        args: the stage's settings, with the prompts of all sources.
        tokenizer: of the model to be trained.
        config: of the model, for an estimate of a GPU's memory; None: there is none.

    Raises:
        ValueError: a source is smaller than a global batch, or the hub does not tell its rows.
    """
    previews = {source.name: preview(source, _SAMPLE) for source in sources}
    for name, found in previews.items():
        if found.rows is None:
            raise ValueError(f"source {name!r}: the hub does not say how many rows it has; download it first.")
    counts = {name: found.rows or 0 for name, found in previews.items()}
    plan = BatchPlan(counts, args.global_batch_size, args.seed, args.source_weights or {})
    with_paper = any(source.paper_rows for source in sources)
    rows = [_HEADER + (["paper's rows", "paper's batches"] if with_paper else [])]
    for source in sources:
        row = _row(source, previews[source.name], plan, args, tokenizer)
        if with_paper:
            paper = source.paper_rows
            row += [f"{paper:,}", f"{paper // plan.batch_size:,}"] if paper else ["", ""]
        rows.append(row)
    memory = []
    if config is not None:
        count = count_contrastive_step(config, args, args.world_size)
        memory = [memory_line(count, args.chunk_tokens or CHUNK_TOKENS)]
    return "\n".join([aligned(rows, _NUMBERS), "", *memory, *_totals(sources, plan, args)])


def _row(
    source: Source, found: Preview, plan: BatchPlan, args: ContrastiveConfig, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    assert args.prompts is not None
    prompts, name = args.prompts[source.name], source.name
    queries = _lengths([prompts["query"] + row["query"] for row in found.sample], tokenizer)
    texts = [text for row in found.sample for text in (row["document"], *(row.get("negatives") or ()))]
    documents = _lengths([prompts["document"] + text for text in texts], tokenizer)
    beyond = (queries > args.query_max_length).sum() + (documents > args.document_max_length).sum()
    return [
        name,
        f"{plan.rows[name]:,}",
        f"{plan.weight(name):g}",
        f"{plan.batches(name):,}",
        f"{plan.dropped(name):,}",
        f"{source.query_prefix or '-'} / {source.document_prefix or '-'}",
        *(f"{np.median(lengths):.0f}, {np.percentile(lengths, 95):.0f}" for lengths in (queries, documents)),
        f"{beyond / (len(queries) + len(documents)):.1%}",
    ]


def _lengths(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    return np.array([len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]])


def _totals(sources: Sequence[Source], plan: BatchPlan, args: ContrastiveConfig) -> list[str]:
    steps = plan.steps_per_epoch
    total = plan.steps(args)
    rows, used, warmup = sum(plan.rows.values()), steps * plan.batch_size, args.get_warmup_steps(total)
    lines = [
        f"{rows:,} rows, of which an epoch uses {used:,} in {steps:,} steps of {plan.batch_size:,}",
        f"{total:,} steps, of which {warmup:,} warm up to a learning rate of {args.learning_rate:g}",
    ]
    if all(source.paper_rows for source in sources):
        paper = sum(source.paper_rows or 0 for source in sources)
        difference = steps - paper // plan.batch_size
        lines.append(
            f"the paper: {paper:,} rows in {paper // plan.batch_size:,} steps; here {difference:+,} steps, as whole "
            "batches are counted by source here, and by shard there"
        )
    return lines
