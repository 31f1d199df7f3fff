"""What stage 1 would train on, for `--dry_run`: blocks, steps, tokens, and what takes memory."""

from typing import NamedTuple

from nomic_bert import NomicBertForMaskedLM
from trainers import MLMConfig
from trainers.memory import count_mlm_step, half_precision_of, memory_line
from trainers.sampling import BatchPlan


class BlockCounts(NamedTuple):
    """The size of a packed data set.

    Attributes:
        train: blocks to train on.
        evaluation: blocks that are kept for evaluation.
        tokens: in a block.
    """

    train: int
    evaluation: int
    tokens: int


def describe_blocks(blocks: BlockCounts, args: MLMConfig, model: NomicBertForMaskedLM) -> str:
    """The blocks, the steps that they make and the memory that training them takes, one line each.

    Args:
        blocks: their numbers.
        args: the stage's settings.
        model: the model to be trained; it may be on the meta device.

    Raises:
        ValueError: the blocks do not fill a global batch.
    """
    ranks, share, parts = args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps
    plan = BatchPlan({"blocks": blocks.train}, ranks * share * parts, args.seed)
    steps = plan.steps_per_epoch
    total = plan.steps(args)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    precision = str(half_precision_of(args) or "float32").removeprefix("torch.")
    return "\n".join(
        [
            f"{blocks.train:,} blocks of {blocks.tokens:,} tokens, {blocks.train * blocks.tokens:,} tokens an epoch; "
            f"{blocks.evaluation:,} blocks are kept for evaluation",
            f"a step: {plan.batch_size:,} blocks, {plan.batch_size * blocks.tokens:,} tokens = {ranks} ranks x {parts} "
            f"accumulated x {share:,} blocks",
            f"{total:,} steps, {steps:,} an epoch; {args.get_warmup_steps(total):,} warm up to a learning rate of "
            f"{args.learning_rate:g}",
            f"{parameters:,} parameters, {share * blocks.tokens:,} tokens at once in {precision}; "
            + memory_line(count_mlm_step(model.config, args, blocks.tokens, ranks)),
        ]
    )
