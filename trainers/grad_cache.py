"""GradCache: the gradient of a loss over many texts, in the memory of a few (Gao et al., 2021; paper §4.2).

Queries and documents form one list of texts. It is cut into chunks by a budget of real tokens, and each chunk is
encoded as a packed row, so nothing is spent on padding. One list means one all-reduce of gradients a step.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import mean_pool

# On a CPU a row of 4,096 tokens is as fast as any; buffers of longer ones are given back to the system and taken, and
# cleared, again for every layer.
_CPU_ROW_TOKENS = 4096

# (texts, dim) mean-pooled vectors, in the order of the texts -> loss and accuracy, both scalars
LossFunction = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PackedTexts:
    """Tokenized texts, one after the other.

    Attributes:
        input_ids: (total_tokens,).
        lengths: (texts,) tokens of each text, at least 1.
    """

    input_ids: Tensor
    lengths: Tensor

    @cached_property
    def sizes(self) -> list[int]:
        """`lengths` on the host, read back from the device once."""
        return self.lengths.tolist()

    @cached_property
    def pieces(self) -> tuple[Tensor, ...]:
        """The token ids (tokens,) of each text."""
        return self.input_ids.split(self.sizes)

    def chunks(self, chunk_tokens: int, texts: Sequence[int] | None = None) -> list[list[int]]:
        """Cut texts, longest first, into chunks of at most `chunk_tokens` tokens, at least one text each.

        Args:
            chunk_tokens: tokens in a chunk.
            texts: numbers of the texts to cut; None: all.

        Returns:
            The numbers of the texts in each chunk.
        """
        chunks: list[list[int]] = [[]]
        tokens = 0
        numbers = range(len(self.sizes)) if texts is None else texts
        for text in sorted(numbers, key=lambda text: -self.sizes[text]):
            if chunks[-1] and tokens + self.sizes[text] > chunk_tokens:
                chunks.append([])
                tokens = 0
            chunks[-1].append(text)
            tokens += self.sizes[text]
        return chunks


def encode(model: nn.Module, texts: PackedTexts, chunk_tokens: int) -> Tensor:
    """Mean-pooled vectors (texts, dim) in float32, not normalized, chunk by chunk, in the order of the texts."""
    chunks = texts.chunks(chunk_tokens)
    return _restore_order([_encode_chunk(model, texts, chunk) for chunk in chunks], chunks)


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
    is encoded once, and its graph kept until the loss is known.

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
    device = texts.input_ids.device
    *cached, last = chunks
    pieces, states = [], []
    with torch.no_grad():
        for chunk in cached:
            states.append(_random_state(device))
            pieces.append(_encode_chunk(model, texts, chunk))
    with no_sync():
        kept = _encode_chunk(model, texts, last)
        pooled = _restore_order([*pieces, kept.detach()], chunks).requires_grad_()
        loss, accuracy = loss_function(pooled)
        loss.backward()
        assert pooled.grad is not None
        backward((kept * pooled.grad[last]).sum())
    after = _random_state(device)
    for number, (chunk, state) in enumerate(zip(cached, states, strict=True), 1):
        with nullcontext() if number == len(cached) else no_sync():
            _set_random_state(state, device)
            backward((_encode_chunk(model, texts, chunk) * pooled.grad[chunk]).sum())
    _set_random_state(after, device)
    return loss.detach(), accuracy


def _encode_chunk(model: nn.Module, texts: PackedTexts, chunk: list[int]) -> Tensor:
    """Mean-pooled vectors (len(chunk), dim), in the order of the chunk, which has the longest texts first."""
    on_cpu = texts.input_ids.device.type == "cpu"
    rows = texts.chunks(_CPU_ROW_TOKENS, chunk) if on_cpu else [chunk]
    return torch.cat([_encode_row(model, texts, row) for row in rows])


def _encode_row(model: nn.Module, texts: PackedTexts, row: list[int]) -> Tensor:
    lengths = torch.tensor([texts.sizes[text] for text in row])
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    device = texts.input_ids.device
    output = model(
        input_ids=torch.cat([texts.pieces[text] for text in row])[None],
        cu_seq_lens_q=offsets,  # on the host, where the model reads them without waiting for the device
        max_length_q=int(lengths.max()),
    )
    return mean_pool(output.last_hidden_state[0], lengths.to(device))


def _restore_order(pieces: list[Tensor], chunks: list[list[int]]) -> Tensor:
    order = torch.tensor([text for chunk in chunks for text in chunk])
    return torch.cat(pieces)[order.argsort().to(pieces[0].device)]


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
    return torch.get_rng_state(), on_device


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1])
