"""The encoder computed by OpenVINO, for CPUs; docs/results/encoding_speed.md says what that gains."""

import copy
import functools
import importlib.util
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .modeling_nomic_bert import NomicBertModel
from .rotary_nomic_bert import inverse_frequencies, length_limit, warn_if_too_long
from .unpadding_nomic_bert import Sequences, plan_layout

PRECISIONS = ("float32", "bfloat16", "int8")

# Of a call, and of a row that short texts share. Attention costs the square of a row, while a product costs less a
# token the more tokens it has.
_TOKENS, _ROW = 1_024, 128
# Tokens that rows are rounded up to: OpenVINO compiles kernels for every new shape, in the time of a few queries.
_STEP, _SHORT, _SHORT_STEP = 16, 64, 4
_AWAY = -1e9  # added to a score where a token does not attend

_Layout = tuple[np.ndarray, dict[str, np.ndarray]]

logger = logging.get_logger(__name__)


@functools.cache
def _core() -> Any:
    """One for the process and never freed: with the last one its plugin is unloaded, and a later fork calls into it."""
    from .openvino_import import openvino

    return openvino.Core()


class OpenVINOEncoder(nn.Module):
    """Takes the place of a `NomicBertModel` in an embedder; computes the last hidden state and nothing else.

    Short texts share rows and see only their own tokens, each scaled by its own length, so that an embedding depends on
    its text alone. Threads may share an encoder.

    Attributes:
        config: of the model.
        precision: of the matrix products, one of `PRECISIONS`. Everything else is computed in float32 or, with the last
            two, in bfloat16 where the CPU has instructions for it.
    """

    def __init__(
        self, model: NomicBertModel, precision: str | None, input_maxima: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Compile a model.

        Args:
            model: on any device, in any precision. It is not needed afterwards, but must not change: the graph may
                share its memory.
            precision: None: bfloat16 where the CPU has instructions for it, else float32.
            input_maxima: for int8, what `nomic_bert.openvino_int8.measure_input_maxima` found.

        Raises:
            ValueError: openvino is missing, or there is no such precision.
        """
        super().__init__()
        if importlib.util.find_spec("openvino") is None:
            raise ValueError('backend="openvino" needs the package openvino: pip install "nomic-embed-hf[openvino]"')
        from .openvino_graph import build_graph
        from .openvino_int8 import quantize

        core = _core()
        has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision is None:
            precision = "bfloat16" if has_bfloat16 else "float32"
            logger.warning_once(
                f"OpenVINO computes in {precision} on this CPU. Pass dtype to choose another precision."
            )
        if precision not in PRECISIONS:
            raise ValueError(f"OpenVINO computes in {', '.join(PRECISIONS)}, not in {precision}.")
        if precision == "bfloat16" and not has_bfloat16:
            precision = "float32"
            logger.warning_once("This CPU has no instructions for bfloat16; OpenVINO computes in float32.")
        self.config, self.precision = copy.deepcopy(model.config), precision
        weights = {name: value.detach().cpu().float().numpy() for name, value in model.named_parameters()}
        quantized = None
        if precision == "int8":
            assert input_maxima is not None
            weights, quantized = quantize(self.config, weights, input_maxima)
        half = has_bfloat16 and precision != "float32"
        self._compiled = core.compile_model(
            build_graph(self.config, weights, quantized),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,  # else several processes would share one core
            },
        )
        self._unscaled = inverse_frequencies(self.config, torch.ones(1)).numpy()
        self._of_thread = threading.local()
        self._layouts: dict[int, _Layout] = {}

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states, whatever the precision of the products."""
        return torch.float32

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the weights are inside the compiled graph, and an empty dictionary would pass for a model's."""
        raise TypeError('An embedder in OpenVINO has no weights to read. Load it without backend="openvino" for them.')

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse, for the same reason."""
        raise TypeError('An embedder in OpenVINO cannot be saved. Load it without backend="openvino" and save that.')

    def __reduce__(self) -> Any:
        raise TypeError("An embedder in OpenVINO cannot be copied or sent to another process. Load it again there.")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Encode a padded batch, or sequences packed into one row, as `NomicBertModel.forward` does.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 0 at padding; None: no padding.
            token_type_ids: all 0, or None.
            cu_seq_lens_q: int32 (sequences + 1,) offsets of sequences packed into one row (1, tokens).
            return_dict: has no effect.

        Returns:
            `last_hidden_state` (batch, tokens, hidden) in float32, 0 at padding.

        Raises:
            ValueError: inputs that contradict each other, ids outside the vocabulary, or another token type than 0.
        """
        if token_type_ids is not None and bool(token_type_ids.any()):
            raise ValueError("The OpenVINO encoder reads single texts: token_type_ids must be 0.")
        layout = plan_layout(input_ids, attention_mask, None, cu_seq_lens_q, pack=True)
        sequences = cast(Sequences, layout.packed)
        hidden = self._states(layout.enter(input_ids)[0].numpy().astype(np.int64), sequences.lengths)
        return BaseModelOutput(last_hidden_state=layout.leave(torch.from_numpy(hidden)[None]))

    def mean_states(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """The mean of each text's last hidden states, without torch, whose part of a short query would be felt.

        Args:
            texts: the ids of each text's tokens.

        Returns:
            (texts, hidden) in float32; 0 for a text without tokens.

        Raises:
            ValueError: ids outside the vocabulary.
        """
        lengths = tuple(map(len, texts))
        hidden = self._states(np.fromiter(chain.from_iterable(texts), np.int64, sum(lengths)), lengths)
        means = np.zeros((len(texts), hidden.shape[1]), dtype=np.float32)
        for number, end in enumerate(accumulate(lengths)):
            if length := lengths[number]:
                hidden[end - length : end].mean(axis=0, out=means[number])
        return means

    def _states(self, ids: np.ndarray, lengths: tuple[int, ...]) -> np.ndarray:
        """Ids (tokens,) of texts of these lengths, one behind the other -> (tokens, hidden)."""
        if max(lengths, default=0) > length_limit(self.config):
            warn_if_too_long(self.config, max(lengths))
        if outside := ids[(ids < 0) | (ids >= self.config.vocab_size)].tolist():  # a gather would not tell
            raise ValueError(
                f"input_ids has {outside[0]}, which is outside the vocabulary of {self.config.vocab_size:,} tokens. "
                "Use the model's own tokenizer."
            )
        parts = []
        start = 0
        for rows, width in plan_rows(lengths):
            tokens = sum(map(sum, rows))
            parts.append(self._compute(ids[start : start + tokens], rows, width))
            start += tokens
        return np.concatenate(parts) if parts else np.empty((0, self.config.hidden_size), dtype=np.float32)

    def _compute(self, ids: np.ndarray, rows: list[list[int]], width: int) -> np.ndarray:
        """Ids of texts (tokens,), in rows of so many tokens at most -> (tokens, hidden)."""
        real, layout = self._layout(rows, width)
        padded = np.zeros(real.shape, dtype=np.int64)
        padded[real] = ids
        return self._request().infer({"input_ids": padded, **layout}, share_inputs=True, share_outputs=True)[0][real]

    def _layout(self, rows: list[list[int]], width: int) -> _Layout:
        """As `_make_layout`. One of a single short text is kept: making it takes a tenth of a small model's time."""
        if len(rows) > 1 or len(rows[0]) > 1 or width > _SHORT:
            return self._make_layout(rows, width)
        (length,) = rows[0]
        if length not in self._layouts:
            self._layouts[length] = self._make_layout(rows, width)
        return self._layouts[length]

    def _make_layout(self, rows: list[list[int]], width: int) -> _Layout:
        """Which places hold tokens, (rows, width), and the graph's inputs beside them."""
        texts = np.full((len(rows), width), -1)  # the number of each token's text
        positions = np.zeros((len(rows), width), dtype=np.int64)
        first = 0
        for row, lengths in enumerate(rows):
            filled = sum(lengths)
            texts[row, :filled] = np.repeat(np.arange(first, first + len(lengths)), lengths)
            positions[row, :filled] = np.concatenate([np.arange(length) for length in lengths])
            first += len(lengths)
        real = texts >= 0
        every = [length for row in rows for length in row]
        frequencies = self._unscaled  # to the trained length they are the same for all
        if max(every) > self.config.max_trained_positions:
            frequencies = inverse_frequencies(self.config, torch.tensor(every)).numpy()[texts.clip(min=0)]
        # not torch's cosine, whose threads would go on spinning beside OpenVINO's
        angles = (positions[..., None] * frequencies).astype(np.float32)[:, None]
        attends = real[:, None] if max(map(len, rows)) == 1 else texts[:, :, None] == texts[:, None]
        mask = np.where(attends[:, None], np.float32(0), np.float32(_AWAY))
        return real, {"cos": np.cos(angles), "sin": np.sin(angles), "mask": mask}

    def _request(self) -> Any:
        """The calling thread's own: a request computes one call at a time."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request


def plan_rows(lengths: tuple[int, ...]) -> Iterator[tuple[list[list[int]], int]]:
    """Divide texts among calls of one shape each, in their order.

    Args:
        lengths: tokens of each text; those of 0 are left out.

    Yields:
        The lengths of the texts in each row of a call, and the width of its rows in tokens.
    """
    rows: list[list[int]] = []
    width = 0
    for length in filter(None, lengths):
        if rows and sum(rows[-1]) + length <= min(width, _TOKENS):  # the mask of a shared row is its square
            rows[-1].append(length)
        elif rows and length <= width and (len(rows) + 1) * width <= _TOKENS:
            rows.append([length])
        else:
            if rows:
                yield rows, _narrowed(rows)
            rows, width = [[length]], max(_rounded(length), _ROW)
    if rows:
        yield rows, _narrowed(rows)


def _narrowed(rows: list[list[int]]) -> int:
    return _rounded(max(map(sum, rows)))


def _rounded(length: int) -> int:
    step = _SHORT_STEP if length <= _SHORT else _STEP
    return -(-length // step) * step
