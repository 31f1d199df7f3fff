"""Attention that stays inside each sequence, on every device: over a packed row, or over a padded batch."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_nomic_bert import NomicBertConfig
from .unpadding_nomic_bert import Run, Sequences

try:  # transformers >= 4.48; older ones have eager attention and SDPA, which are written out below
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
except ImportError:
    ALL_ATTENTION_FUNCTIONS = {}  # type: ignore[assignment]
try:  # torch >= 2.10; older ones take the padded path on a GPU
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]
_VARLEN_TEXTS = 65_535  # CUDA's limit for that side of a grid of blocks


def can_pack(config: NomicBertConfig) -> bool:
    """Whether a model computes on packed tokens: its attention is SDPA or FlashAttention. Eager is the reference."""
    implementation = config._attn_implementation
    return implementation == "sdpa" or _is_flash(implementation)


def _is_flash(implementation: str) -> bool:
    """FlashAttention of a package, or a kernel of the hub by its "org/name", which takes packed rows alike."""
    return implementation.startswith("flash_attention") or "/" in implementation


def _varlen_serves(query: Tensor, dropout: float, texts: int) -> bool:
    """Whether torch's varlen kernel has this device, precision, head size and number of texts."""
    head_dim = query.shape[-1]
    if varlen_attn is None or dropout or head_dim % 8 or head_dim > 256 or texts > _VARLEN_TEXTS:
        return False
    return query.dtype in (torch.float16, torch.bfloat16) and _capability(query.device) >= (8, 0)


def _capability(device: torch.device) -> tuple[int, int]:
    """CUDA's compute capability; (0, 0) where there is none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@torch.compiler.disable  # a compiled layer would guard on the lengths: one compilation for every batch
def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, dropout: float
) -> Tensor:
    """Bidirectional attention inside each sequence of a packed row.

    Args:
        module: the attention module; its `config` names the implementation.
        query: (1, total, heads, head_dim), as `key` and `value`.
        key: as `query`.
        value: as `query`.
        sequences: where the sequences lie.
        dropout: probability, 0 outside training.

    Returns:
        (1, total, heads, head_dim).
    """
    implementation = module.config._attn_implementation
    offsets, longest = sequences.cu_seq_lens, sequences.max_length
    if _is_flash(implementation):
        return ALL_ATTENTION_FUNCTIONS[implementation](
            module,
            *(states.transpose(1, 2) for states in (query, key, value)),
            attention_mask=None,
            dropout=dropout,
            is_causal=False,
            cu_seq_lens_q=offsets,
            cu_seq_lens_k=offsets,
            max_length_q=longest,
            max_length_k=longest,
        )[0]
    if _varlen_serves(query, dropout, len(sequences.lengths)):
        attended = varlen_attn(query[0], key[0], value[0], offsets, offsets, longest, longest)
        return cast(Tensor, attended)[None]
    with torch.autocast("cpu", enabled=False):  # it would round what training left in float32
        return _sdpa_by_runs(query[0], key[0], value[0], sequences, dropout)[None]


def _sdpa_by_runs(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, dropout: float) -> Tensor:
    """One SDPA call for each run of about equally long neighbours; (total, heads, head_dim) in and out."""
    sizes = [run.tokens for run in sequences.runs]
    outputs = []
    for run, *states in zip(sequences.runs, query.split(sizes), key.split(sizes), value.split(sizes), strict=True):
        q, k, v = (_as_batch(x, run).transpose(1, 2) for x in states)
        attended = F.scaled_dot_product_attention(q, k, v, run.mask, dropout).transpose(1, 2)
        flat = attended.reshape(run.rows * run.width, *query.shape[1:])
        outputs.append(flat if run.places is None else flat.index_select(0, run.places))
    return torch.cat(outputs) if outputs else query


def _as_batch(tokens: Tensor, run: Run) -> Tensor:
    """(tokens, heads, head_dim) of a run -> (rows, width, heads, head_dim), 0 at padding."""
    if run.places is not None:
        empty = tokens.new_zeros(run.rows * run.width, *tokens.shape[1:])
        tokens = empty.index_copy(0, run.places, tokens)
    return tokens.view(run.rows, run.width, *tokens.shape[1:])


def padded_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    keep_probabilities: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Bidirectional attention over a padded batch: the reference (eager), and the export path.

    Args:
        module: the attention module; its `config` names the implementation.
        query: (batch, tokens, heads, head_dim), as `key` and `value`.
        key: as `query`.
        value: as `query`.
        mask: bool (batch, 1, 1, tokens), true at tokens to attend to; None: all.
        dropout: probability, 0 outside training.
        keep_probabilities: compute eagerly, which alone has probabilities, whatever the implementation.

    Returns:
        The output (batch, tokens, heads, head_dim), and with eager attention its probabilities
        (batch, heads, tokens, tokens).
    """
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    implementation = module.config._attn_implementation
    if keep_probabilities or implementation == "eager":
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        dropped = F.dropout(probabilities, dropout, training=dropout > 0)
        return (dropped @ value).transpose(1, 2), probabilities
    if implementation == "sdpa" or _is_flash(implementation):  # flash takes no mask in an export
        return F.scaled_dot_product_attention(query, key, value, mask, dropout).transpose(1, 2), None
    return ALL_ATTENTION_FUNCTIONS[implementation](module, query, key, value, mask, dropout=dropout, is_causal=False)
