"""Padded batches <-> one row of real tokens.

Compute follows the packed row: a padding token costs nothing and cannot change a result. `Sequences` says where the
sequences lie, which attention reads.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Padding that attention by SDPA may add to sequences of unlike lengths, as a share of their tokens: on a GPU every call
# is a kernel launch, and on a CPU it costs nothing to speak of.
_SLACK, _SLACK_ON_CPU = 0.25, 0.0


class Run(NamedTuple):
    """Neighbouring sequences that share one call of SDPA.

    Attributes:
        rows: number of the sequences.
        width: tokens of the longest.
        tokens: of all.
        places: (tokens,) of the real tokens in the flattened batch (rows, width); None: nothing is padding.
        mask: bool (rows, 1, 1, width), false at padding; None likewise.
    """

    rows: int
    width: int
    tokens: int
    places: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Sequences:
    """Where the sequences of a batch lie in the packed row.

    Attributes:
        lengths: tokens per sequence, in order; 0 for a text without tokens.
        cu_seq_lens: int32 (sequences + 1,) offsets of the sequences in the packed row, on the model's device.
        batch_size, width: shape of the padded batch; (1, total) where the input came packed.
        indices: (total,) places of the real tokens in the flattened padded batch; None where nothing is padding.
    """

    lengths: tuple[int, ...]
    cu_seq_lens: Tensor
    batch_size: int
    width: int
    indices: Tensor | None = None

    @classmethod
    def from_mask(cls, attention_mask: Tensor) -> "Sequences":
        """Read a padding mask (batch, width); real tokens, left or right padded, are where it is not 0.

        A GPU is waited for once, for the lengths.
        """
        real = attention_mask != 0
        lengths = real.sum(dim=1)
        counts = tuple(lengths.tolist())
        batch_size, width = attention_mask.shape
        indices = None if sum(counts) == batch_size * width else _places(real.flatten(), sum(counts))
        return cls(counts, _offsets(lengths), batch_size, width, indices)

    @classmethod
    def dense(cls, batch_size: int, width: int, device: torch.device) -> "Sequences":
        """A batch (batch_size, width) without padding."""
        lengths = torch.full((batch_size,), width, device=device)
        return cls((width,) * batch_size, _offsets(lengths), batch_size, width)

    @classmethod
    def from_offsets(cls, cu_seq_lens: Tensor, total: int, device: torch.device) -> "Sequences":
        """Read packed input (1, total) with the offsets of its sequences; on the host they are read without a sync.

        Raises:
            ValueError: the offsets do not start at 0, decrease, or do not end at `total`.
        """
        offsets = cu_seq_lens.tolist()
        lengths = tuple(end - start for start, end in zip(offsets, offsets[1:], strict=False))
        if not offsets or offsets[0] != 0 or offsets[-1] != total or min(lengths, default=0) < 0:
            raise ValueError(
                f"cu_seq_lens_q must rise from 0 to the {total} tokens of the packed row; "
                f"got {offsets[:4]} to {offsets[-1:]}."
            )
        return cls(lengths, cu_seq_lens.to(device, torch.int32, non_blocking=True), 1, total)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths, default=0)

    @property
    def total(self) -> int:
        """Tokens of the packed row."""
        return sum(self.lengths)

    @cached_property
    def token_sequence(self) -> Tensor:
        """For each packed token the number of its sequence, (total,)."""
        counts = self.cu_seq_lens.diff().long()
        numbers = torch.arange(len(self.lengths), device=counts.device)
        return numbers.repeat_interleave(counts, output_size=self.total)

    @cached_property
    def positions(self) -> Tensor:
        """For each packed token its position in its sequence, (total,)."""
        place = torch.arange(self.total, device=self.cu_seq_lens.device)
        return place - self.cu_seq_lens.long()[self.token_sequence]

    @cached_property
    def runs(self) -> list[Run]:
        """Neighbours of about equal length."""
        device = self.cu_seq_lens.device
        slack = _SLACK_ON_CPU if device.type == "cpu" else _SLACK
        return [_run(lengths, device) for lengths in _alike(self.lengths, slack)]

    def split(self, tokens: int) -> list["Sequences"]:
        """Parts of a packed row on the CPU: neighbouring sequences of at most so many tokens, or a longer one."""
        parts: list[list[int]] = [[]]
        total = 0
        for length in self.lengths:
            if parts[-1] and total + length > tokens:
                parts.append([])
                total = 0
            parts[-1].append(length)
            total += length
        offsets = [_offsets(torch.tensor(part, dtype=torch.long)) for part in parts]
        return [Sequences(tuple(part), each, 1, sum(part)) for part, each in zip(parts, offsets, strict=True)]

    def pack(self, padded: Tensor) -> Tensor:
        """(batch, width, ...) -> (1, total, ...)."""
        flat = padded.flatten(0, 1)
        return (flat if self.indices is None else flat[self.indices])[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, total, ...) -> (batch, width, ...), zero where the batch has padding."""
        flat = packed[0]
        if self.indices is not None:
            empty = flat.new_zeros(self.batch_size * self.width, *flat.shape[1:])
            flat = empty.index_copy(0, self.indices, flat)
        return flat.view(self.batch_size, self.width, *flat.shape[1:])


def _places(real: Tensor, total: int) -> Tensor:
    """Where `real` (n,) is true, (total,): `nonzero`, whose result has a known length, so that nothing waits for it."""
    rank = torch.where(real, real.cumsum(0) - 1, total)  # all others write to a last place, which is dropped
    numbers = torch.arange(len(real), device=real.device)
    return numbers.new_empty(total + 1).scatter_(0, rank, numbers)[:total]


def _offsets(lengths: Tensor) -> Tensor:
    return F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _alike(lengths: tuple[int, ...], slack: float) -> list[list[int]]:
    """Neighbouring lengths, where padding to the longest adds at most the share `slack`; those of 0 are left out."""
    groups: list[list[int]] = []
    longest = total = 0
    for length in lengths:
        if not length:
            continue
        longest, total = max(longest, length), total + length
        if groups and (len(groups[-1]) + 1) * longest <= (1 + slack) * total:
            groups[-1].append(length)
        else:
            groups.append([length])
            longest = total = length
    return groups


def _run(lengths: list[int], device: torch.device) -> Run:
    count, width, total = len(lengths), max(lengths), sum(lengths)
    if count * width == total:
        return Run(count, width, total)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    places, mask = real.flatten().nonzero()[:, 0], real[:, None, None]
    return Run(count, width, total, places.to(device, non_blocking=True), mask.to(device, non_blocking=True))


@dataclass(frozen=True)
class Layout:
    """How one forward pass computes: on one packed row, or on a padded batch.

    Attributes:
        packed: the sequences of the packed row; None: the pass is padded.
        real: bool (batch, tokens) of a padded pass, false at padding; None: no padding.
        lengths: (sequences,) real tokens of each.
        positions: (rows, tokens), as computed.
        moves: the sequences that translate between the caller's layout and this one; None: they are the same.
    """

    packed: Sequences | None
    real: Tensor | None
    lengths: Tensor
    positions: Tensor
    moves: Sequences | None

    def enter(self, tokens: Tensor) -> Tensor:
        """From the caller's layout to the pass's; (batch, tokens, ...) in and out."""
        if self.moves is None:
            return tokens
        return self.moves.pack(tokens) if self.packed else self.moves.unpack(tokens)

    def leave(self, tokens: Tensor) -> Tensor:
        """From the pass's layout back to the caller's, with zeros at padding."""
        if self.moves is not None:
            return self.moves.unpack(tokens) if self.packed else self.moves.pack(tokens)
        return tokens if self.real is None else tokens * self.real[..., None]

    @cached_property
    def mask(self) -> Tensor | None:
        """What padded attention may attend to, bool (batch, 1, 1, tokens).

        A text without tokens sees its padding, because a softmax over nothing is NaN.
        """
        return None if self.real is None else (self.real | (self.lengths == 0)[:, None])[:, None, None]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; where the pass is padded, reading it waits for the device."""
        return self.packed.max_length if self.packed else int(self.lengths.max())

    def per_token(self, per_sequence: Tensor) -> Tensor:
        """(sequences, n) -> (rows, tokens or 1, n): each token's own sequence's row."""
        return per_sequence[self.packed.token_sequence][None] if self.packed else per_sequence[:, None]


def plan_layout(
    tokens: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seq_lens: Tensor | None,
    pack: bool,
) -> Layout:
    """Choose how to compute a batch, from what the caller gave.

    Args:
        tokens: (batch, tokens, hidden), the embedded input.
        attention_mask: (batch, tokens) or None.
        position_ids: (batch, tokens), (1, tokens) or None.
        cu_seq_lens: (sequences + 1,) offsets in one packed row (1, tokens), or None.
        pack: compute on packed tokens (else on a padded batch).

    Raises:
        ValueError: shapes that contradict each other.
    """
    batch_size, width = tokens.shape[:2]
    if attention_mask is not None and attention_mask.shape != (batch_size, width):
        raise ValueError(
            f"attention_mask must have the input's shape {(batch_size, width)}, 0 at padding; got "
            f"{tuple(attention_mask.shape)}. Block masks are written as packed input: cu_seq_lens_q."
        )
    if position_ids is not None:
        position_ids = position_ids.expand(batch_size, width)
    if cu_seq_lens is None and not exports():
        cu_seq_lens = offsets_of_positions(attention_mask, position_ids)
    if cu_seq_lens is not None:
        if batch_size > 1 or attention_mask is not None:
            raise ValueError("cu_seq_lens_q describes one packed row: input of shape (1, tokens), no attention_mask.")
        sequences = Sequences.from_offsets(torch.as_tensor(cu_seq_lens), width, tokens.device)
        return _from_packed(sequences, position_ids, pack)
    if not pack or exports():
        return _padded(tokens, attention_mask, position_ids)
    if attention_mask is None:
        sequences = Sequences.dense(batch_size, width, tokens.device)
    else:
        sequences = Sequences.from_mask(attention_mask)
    positions = sequences.positions[None] if position_ids is None else sequences.pack(position_ids)
    return Layout(sequences, None, sequences.cu_seq_lens.diff(), positions, moves=sequences)


def offsets_of_positions(attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor | None:
    """Offsets (sequences + 1,) of a row whose positions return to 0, as transformers' flattening collator writes it.

    Args:
        attention_mask: None in a packed row.
        position_ids: (batch, tokens) or None.

    Returns:
        None where the input is not a packed row of several sequences.
    """
    if attention_mask is not None or position_ids is None or len(position_ids) != 1:
        return None
    starts = (position_ids[0] == 0).nonzero().flatten()
    if len(starts) < 2 or starts[0] != 0:
        return None
    return F.pad(starts, (0, 1), value=position_ids.shape[1])


def _from_packed(sequences: Sequences, position_ids: Tensor | None, pack: bool) -> Layout:
    lengths = sequences.cu_seq_lens.diff()
    positions = sequences.positions[None] if position_ids is None else position_ids
    if pack:
        return Layout(sequences, None, lengths, positions, moves=None)
    count, width = len(sequences.lengths), sequences.max_length
    indices = sequences.token_sequence * width + sequences.positions
    padded = Sequences(sequences.lengths, sequences.cu_seq_lens, count, width, indices)
    real = torch.arange(width, device=lengths.device) < lengths[:, None]
    return Layout(None, real, lengths, padded.unpack(positions), moves=padded)


def _padded(tokens: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Layout:
    batch_size, width = tokens.shape[:2]
    if attention_mask is None:
        lengths = torch.full((batch_size,), width, device=tokens.device)
        positions = torch.arange(width, device=tokens.device)[None] if position_ids is None else position_ids
        return Layout(None, None, lengths, positions, moves=None)
    real = attention_mask != 0
    counted = (real.cumsum(1) - 1).clamp(min=0)
    return Layout(None, real, real.sum(1), counted if position_ids is None else position_ids, moves=None)


def exports() -> bool:
    """Whether the pass is being traced: then shapes must stay symbolic and nothing may be read back to the host."""
    is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch >= 2.7; older ones export by tracing
    return is_exporting() or torch.jit.is_tracing()
