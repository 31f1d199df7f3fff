"""What a training step takes on a GPU, counted without one: weights, AdamW, gradients, buckets, activations, the loss.

The step is the trainers' own, on meta tensors. `torch_compile`, which keeps fewer activations, is not counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch import Tensor, nn

from nomic_bert import NomicBertConfig, NomicBertForMaskedLM, NomicBertModel
from nomic_bert.gpu_count import META, GPUCount, counting_gpu

from .arguments import StepArguments
from .contrastive_config import ContrastiveConfig
from .grad_cache import PackedTexts, backward_through_chunks
from .losses import pooled_loss

if TYPE_CHECKING:
    from .mlm import MLMConfig

CHUNK_TOKENS = 65_536  # what is counted where the chunk is to be found from the free memory
_DOCUMENT_TOKENS = 128  # of a document in a block: attention takes more memory for many short ones
_TEXT_TOKENS = 32  # of a text, where a chunk could hold shorter ones
_CHUNKS = 2  # are counted: one whose vectors wait for the loss, and one whose graph is kept meanwhile


def count_mlm_step(
    config: NomicBertConfig,
    args: "MLMConfig",
    block_size: int,
    ranks: int = 1,
    *,
    mlm_probability: float | None = None,
    capability: tuple[int, int] = (9, 0),
) -> GPUCount:
    """Count the step of one rank in masked language modelling.

    Args:
        config: of the model.
        args: of the trainer. Inside documents, attention is counted for some of 128 tokens.
        block_size: tokens of a block.
        ranks: of the run, whatever `args` says.
        mlm_probability: share of all tokens that are predicted; None: as `args` says of ordinary ones.
        capability: CUDA's compute capability.
    """
    blocks = args.per_device_train_batch_size
    total = blocks * block_size
    masked = round((args.mlm_probability if mlm_probability is None else mlm_probability) * total)
    accumulated = (args.global_batch_size or 0) // (blocks * ranks)
    with META:
        model = NomicBertForMaskedLM(config).train()
        ids = torch.empty((blocks, block_size) if args.attend_across_documents else (1, total), dtype=torch.long)
        masked_places = torch.empty(masked, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids, "labels": torch.empty_like(ids), "masked_places": masked_places}
    held = list(inputs.values())
    if not args.attend_across_documents:
        offsets = [*range(0, total, min(_DOCUMENT_TOKENS, block_size)), total]
        inputs["cu_seq_lens_q"] = torch.tensor(offsets, dtype=torch.int32)
    forward = _as_accelerate_calls(model, half_precision_of(args))
    with _counting(model, held, ranks, capability) as count:
        for _ in range(min(max(accumulated, 1), 2)):  # the second one has gradients from the start
            score = forward(**inputs, score_only=True, num_items_in_batch=torch.empty((), device=META))
            score["loss"].backward()
            del score
            count.tokens += total
    return count


def count_contrastive_step(
    config: NomicBertConfig,
    args: ContrastiveConfig,
    ranks: int = 1,
    *,
    chunk_tokens: int | None = None,
    capability: tuple[int, int] = (9, 0),
) -> GPUCount:
    """Count the step of one rank in contrastive training, where every chunk is full of texts of at least 32 tokens.

    Args:
        config: of the model.
        args: of the trainer.
        ranks: of the run, whatever `args` says.
        chunk_tokens: of a chunk; None: as `args` says, and if it says nothing, 65,536.
        capability: CUDA's compute capability.
    """
    chunk_tokens = chunk_tokens or args.chunk_tokens or CHUNK_TOKENS
    rows = args.global_batch_size // ranks
    texts = rows * (2 + args.num_hard_negatives)
    longest = min(max(args.query_max_length, args.document_max_length), chunk_tokens)
    length = min(max(_CHUNKS * chunk_tokens // texts, _TEXT_TOKENS), longest)
    computed = min(texts, _CHUNKS * (chunk_tokens // length))  # the vectors of the others are held
    packed = PackedTexts(torch.zeros(computed * length, dtype=torch.long), torch.full((computed,), length), META)
    with META:
        model = NomicBertModel(config).train()
        others = torch.empty(texts - computed, config.hidden_size)
        keys = torch.empty(ranks * (texts - rows), dtype=torch.long) if args.mask_duplicate_documents else None

    def loss(pooled: Tensor) -> tuple[Tensor, Tensor]:
        return pooled_loss(
            torch.cat([pooled, others]) if len(others) else pooled,
            rows,
            args.scale,
            args.hard_negative_scope,
            args.matryoshka_dims,
            keys,
            (lambda documents: _Gathered.apply(documents, ranks)) if ranks > 1 else None,
        )

    forward = _as_accelerate_calls(model, half_precision_of(args))
    with _counting(model, [others], ranks, capability) as count:
        backward_through_chunks(forward, packed, loss, chunk_tokens)  # type: ignore[arg-type]
    count.tokens = computed * length
    return count


def describe_memory(trainer: Any, count: Callable[..., GPUCount], remedy: str) -> list[str]:
    """A line on the peak memory of a training that begins on a GPU; none elsewhere, or where it is not counted.

    Args:
        trainer: about to train.
        count: called with the compute capability.
        remedy: what to change if it is too much.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    counted = (
        args.device.type == "cuda"
        and type(model) in (NomicBertForMaskedLM, NomicBertModel)
        and model.dtype == torch.float32
        and model.config._attn_implementation == "sdpa"
        and args.optim.startswith("adamw_torch")
        and not args.gradient_checkpointing
        and not trainer.is_deepspeed_enabled
    )
    if not counted:
        return []
    found = count(capability=torch.cuda.get_device_capability(args.device))
    total = torch.cuda.get_device_properties(args.device).total_memory
    advice = f": {remedy}" if found.peak > total else ""
    return [f"{memory_line(found)}; this one has {total / 2**30:.1f} GiB{advice}"]


def memory_line(count: GPUCount, chunk_tokens: int | None = None) -> str:
    """What a dry run and the effective numbers say of a count."""
    chunk = "" if chunk_tokens is None else f" for chunks of {chunk_tokens:,} tokens"
    return (
        f"estimated peak memory of a GPU: {count.peak / 2**30:.1f} GiB{chunk}, of which {count.held / 2**30:.1f} GiB "
        "are held from the start (weights, AdamW, buckets)"
    )


def half_precision_of(args: StepArguments) -> torch.dtype | None:
    """The precision that a GPU computes in; None: float32."""
    if args.fp16:
        return torch.float16
    return torch.bfloat16 if args.bf16 or args.half_precision else None


@contextmanager
def _counting(model: nn.Module, held: list[Tensor], ranks: int, capability: tuple[int, int]) -> Iterator[GPUCount]:
    """Count with AdamW's two moments of every weight, and with several ranks DDP's buckets of gradients."""
    copies = 2 + (ranks > 1)
    with META:
        states = [torch.empty_like(weight) for weight in model.parameters() for _ in range(copies)]
    with counting_gpu([*model.parameters(), *states, *held], capability) as count:
        yield count


def _as_accelerate_calls(model: nn.Module, half: torch.dtype | None) -> Callable[..., Any]:
    """Under autocast, with outputs copied to float32, as accelerate prepares a model."""

    def forward(**inputs: Any) -> Any:
        with torch.autocast("meta", half):
            return model(**inputs)

    return model if half is None else convert_outputs_to_fp32(forward)


class _Gathered(torch.autograd.Function):
    """Allocates what `gather_with_gradient` does, without other ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: int) -> Tensor:
        ctx.rows = len(tensor)
        return tensor.new_empty(ranks * len(tensor), *tensor.shape[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].clone()[: ctx.rows], None
