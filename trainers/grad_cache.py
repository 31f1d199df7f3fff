"""GradCache: the gradient of a loss over many texts, in the memory of a few (Gao et al., 2021; paper §4.2).

Queries and documents form one list of texts. It is cut into chunks by a budget of real tokens, and each chunk is
encoded as a packed row, so nothing is spent on padding. One list means one all-reduce of gradients a step.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nomic_bert.transfers import to_device

from .losses import mean_pool

# On a CPU a row of 4,096 tokens is as fast as any; buffers of longer ones are given back to the system and taken, and
# cleared, again for every layer.
_CPU_ROW_TOKENS = 4096

# (texts, dim) mean-pooled vectors, in the order of the texts -> loss and accuracy, both scalars
LossFunction = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PackedTexts:
    """Tokenized texts, one after the other; best on the host, where rows are put together without waiting for a GPU.

    Attributes:
        input_ids: (total_tokens,).
        lengths: (texts,) tokens of each text, at least 1.
        device: where the model is; None: that of `input_ids`.
    """

    input_ids: Tensor
    lengths: Tensor
    device: torch.device | None = None

    @property
    def target(self) -> torch.device:
        """The device that rows are encoded on."""
        return self.input_ids.device if self.device is None else self.device

    @cached_property
    def sizes(self) -> list[int]:
        """`lengths` as numbers of the host."""
        return self.lengths.tolist()

    @cached_property
    def pieces(self) -> tuple[Tensor, ...]:
        """The token ids (tokens,) of each text."""
        return self.input_ids.split(self.sizes)

    def chunks(self, chunk_tokens: int) -> list[list[int]]:
        """Cut the texts, longest first, into as few chunks of at most `chunk_tokens` tokens as can be.

        The last chunk is as full as the budget allows, the others are nearly equal. GradCache encodes the last once
        and the others twice, so a full last chunk saves the most. Equal ones keep a GPU busier than full ones with a
        remainder, and need less memory.

        Args:
            chunk_tokens: tokens in a chunk; a longer text is a chunk by itself.

        Returns:
            The numbers of the texts in each chunk.
        """
        order = self._longest_first(range(len(self.sizes)))
        sizes = [self.sizes[text] for text in order]
        rest = len(sizes) - _fill(sizes[::-1], chunk_tokens)[0]  # the shortest fill the last chunk best
        if not rest:
            return [order]
        fewest, least, most = len(_fill(sizes[:rest], chunk_tokens)), 1, chunk_tokens
        while least < most:  # the smallest budget that needs no more chunks
            middle = (least + most) // 2
            if len(_fill(sizes[:rest], middle)) > fewest:
                least = middle + 1
            else:
                most = middle
        return [*_cut(order[:rest], _fill(sizes[:rest], least)), order[rest:]]

    def rows(self, chunk: Sequence[int], row_tokens: int) -> list[list[int]]:
        """Cut the texts of a chunk, longest first, into rows of at most `row_tokens` tokens, or of one longer text."""
        order = self._longest_first(chunk)
        return _cut(order, _fill([self.sizes[text] for text in order], row_tokens))

    def _longest_first(self, texts: Sequence[int]) -> list[int]:
        return sorted(texts, key=lambda text: -self.sizes[text])


def _fill(sizes: list[int], most: int) -> list[int]:
    """How far each chunk reaches, where every one takes neighbours while they fit, and at least one."""
    ends = np.cumsum(sizes)
    reached: list[int] = []
    start = tokens = 0
    while start < len(sizes):
        start = max(int(np.searchsorted(ends, tokens + most, side="right")), start + 1)
        tokens = int(ends[start - 1])
        reached.append(start)
    return reached


def _cut(texts: list[int], ends: list[int]) -> list[list[int]]:
    return [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def encode(model: nn.Module, texts: PackedTexts, chunk_tokens: int) -> Tensor:
    """Mean-pooled vectors (texts, dim) in float32, not normalized, chunk by chunk, in the order of the texts."""
    chunks = texts.chunks(chunk_tokens)
    pooled = torch.cat([_encode_chunk(model, texts, chunk) for chunk in chunks])
    return pooled[_order_of_texts(chunks, pooled.device)]


def backward_through_chunks(
    model: nn.Module,
    texts: PackedTexts,
    loss_function: LossFunction,
    chunk_tokens: int,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of `loss_function(mean-pooled vectors of all texts)` to the model's parameters.

    Where all texts fit in one chunk, this is one plain pass. Otherwise every chunk but the last is encoded twice:
    without gradient for the loss and its gradient by the vectors, then with gradient to carry that on to the
    parameters. The second pass sees the random state of the first, so dropout falls on the same places. The last chunk
    is encoded once, and its graph kept until the loss is known. On a GPU nothing here waits for the device.

    Args:
        model: encoder, possibly wrapped for data-parallel training; called with packed input.
        texts: this rank's texts.
        loss_function: may gather over ranks; called once.
        chunk_tokens: real tokens encoded with gradient at a time, on this device.
        backward: for example `accelerator.backward`, which scales the loss under fp16.
        no_sync: context that holds back the all-reduce of gradients; entered for all backward passes but the last.

    Returns:
        Loss and accuracy, detached.
    """
    chunks = texts.chunks(chunk_tokens)
    if len(chunks) == 1:
        loss, accuracy = loss_function(encode(model, texts, chunk_tokens))
        backward(loss)
        return loss.detach(), accuracy
    device = texts.target
    *cached, last = chunks
    pieces, states = [], []
    with torch.no_grad():
        for chunk in cached:
            states.append(_random_state(device))
            pieces.append(_encode_chunk(model, texts, chunk))
    with no_sync():
        kept = _encode_chunk(model, texts, last)
        pooled = torch.cat([*pieces, kept.detach()]).requires_grad_()
        loss, accuracy = loss_function(pooled[_order_of_texts(chunks, device)])
        loss.backward()
        assert pooled.grad is not None
        *gradients, of_last = pooled.grad.split([len(chunk) for chunk in chunks])
        backward((kept * of_last).sum())
    del kept
    after = _random_state(device)
    for number, (chunk, state, gradient) in enumerate(zip(cached, states, gradients, strict=True), 1):
        with nullcontext() if number == len(cached) else no_sync():
            _set_random_state(state, device)
            backward((_encode_chunk(model, texts, chunk) * gradient).sum())
    _set_random_state(after, device)
    return loss.detach(), accuracy


def _encode_chunk(model: nn.Module, texts: PackedTexts, chunk: list[int]) -> Tensor:
    """Mean-pooled vectors (len(chunk), dim), in the order of the chunk, which has the longest texts first."""
    rows = texts.rows(chunk, _CPU_ROW_TOKENS) if texts.target.type == "cpu" else [chunk]
    return torch.cat([_encode_row(model, texts, row) for row in rows])


def _encode_row(model: nn.Module, texts: PackedTexts, row: list[int]) -> Tensor:
    lengths = torch.tensor([texts.sizes[text] for text in row])
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    output = model(
        input_ids=to_device(torch.cat([texts.pieces[text] for text in row])[None], texts.target),
        cu_seq_lens_q=offsets,  # on the host, where the model reads them without waiting for the device
        max_length_q=int(lengths.max()),
    )
    return mean_pool(output.last_hidden_state[0], to_device(lengths, texts.target))


def _order_of_texts(chunks: list[list[int]], device: torch.device) -> Tensor:
    """Where each text's vector is among those of the chunks, (texts,)."""
    order = torch.tensor([text for chunk in chunks for text in chunk])
    return to_device(order.argsort(), device)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
    return torch.get_rng_state(), on_device


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1])
