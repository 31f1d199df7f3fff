"""What stage 1 would train on, for `--dry_run`: blocks, steps, tokens, and what takes memory."""

import math
from typing import NamedTuple

from nomic_bert import NomicBertForMaskedLM
from trainers import MLMConfig
from trainers.sampling import BatchPlan

_STATE_BYTES = 16  # of a parameter: weight, gradient and AdamW's two moments, in float32


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
    total = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    micro_batch = share * blocks.tokens
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    return "\n".join(
        [
            f"{blocks.train:,} blocks of {blocks.tokens:,} tokens, {blocks.train * blocks.tokens:,} tokens an epoch; "
            f"{blocks.evaluation:,} blocks are kept for evaluation",
            f"a step: {plan.batch_size:,} blocks, {plan.batch_size * blocks.tokens:,} tokens = {ranks} ranks x {parts} "
            f"accumulated x {share:,} blocks",
            f"{total:,} steps, {steps:,} an epoch; {args.get_warmup_steps(total):,} warm up to a learning rate of "
            f"{args.learning_rate:g}",
            f"memory of a device: {parameters * _STATE_BYTES / 2**30:.2f} GiB for {parameters:,} parameters with "
            f"gradients and AdamW; activations of {micro_batch:,} tokens in {precision}, of which about "
            f"{micro_batch * args.mlm_probability:,.0f} are predicted",
        ]
    )
