"""What encode.py embeds, and with what: real texts cut to fixed lengths, and a model with random weights."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist

from transformers import PreTrainedTokenizerBase, set_seed

from benchmarks.encode_sides import Workload
from benchmarks.workloads import SIZES, load_tokenizer
from nomic_bert import NomicBertConfig, NomicBertModel
from nomic_bert.embedder import embedder_around, save_embedder
from nomic_bert.flops import forward_flops
from nomic_bert.prompts import PROMPTS

GROWTH_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
_SPREADS = (0.0, 0.4, 0.8, 1.2)  # standard deviations of the lengths' logarithm; more would be cut at the limits
_BATCH_LENGTH, _SPREAD_MEAN, _SPREAD_LIMITS = 128, 256, (16, 2048)
_MIXED_MEDIAN, _MIXED_LIMITS = 110, (20, 2000)  # as of pairs and manuals: half are short, few are long
_TRIES = 20


def workload_lengths(name: str, scale: int) -> list[int]:
    """Tokens of each text of a workload, the same on every machine and for every text.

    Args:
        name: `query`, one of 16; `queries`, 64 of 10 to 24; `mixed`, 128 of 20 to 2,000, half of them to 110, one of
            2,000; `long`, 8 of 2,048; `longest`, one of 8,192.
        scale: how many times as many texts, except of `query`, which measures latency.
    """
    if name == "mixed":
        deepest = NormalDist().inv_cdf(1 - 0.5 / (128 * scale))
        deviation = math.log(_MIXED_LIMITS[1] / _MIXED_MEDIAN) / deepest
        lengths = spread_lengths(128 * scale, deviation, _MIXED_LIMITS, median=_MIXED_MEDIAN)
    else:
        once = {"query": [16], "queries": [10 + number % 15 for number in range(64)], "long": [2048] * 8}
        lengths = once.get(name, [8192]) * (1 if name == "query" else scale)
    random.Random(0).shuffle(lengths)  # callers do not sort
    return lengths


def spread_lengths(count: int, deviation: float, limits: tuple[int, int], median: float) -> list[int]:
    """Quantiles of a log-normal distribution, rounded, none outside the limits; rising."""
    places = [NormalDist().inv_cdf((number + 0.5) / count) for number in range(count)]
    return [round(min(max(median * math.exp(deviation * place), limits[0]), limits[1])) for place in places]


def growth_lengths(tokens: int) -> dict[str, list[int]]:
    """Name of a point -> tokens of each text: by length, by texts at once and by spread of the lengths.

    Args:
        tokens: of each point of the first and the last, and of the largest of the second; approximately, since
            texts are whole.
    """
    points = {f"length {length}": [length] * max(tokens // length, 1) for length in GROWTH_LENGTHS}
    most = max(tokens // _BATCH_LENGTH, 1)
    for texts in (2**power for power in range(most.bit_length())):
        points[f"batch {texts}"] = [_BATCH_LENGTH] * texts
    for deviation in _SPREADS:
        median = _SPREAD_MEAN * math.exp(-(deviation**2) / 2)  # so that the mean stays
        points[f"spread {deviation:g}"] = spread_lengths(
            max(tokens // _SPREAD_MEAN, 1), deviation, _SPREAD_LIMITS, median
        )
    return points


class TextCutter:
    """Makes texts of known lengths from real ones, which are joined in turn and cut.

    Args:
        texts: used in this order, and from the start again where they run out.
        tokenizer: a fast one.
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._texts: Iterator[str] = itertools.cycle(texts)

    def workload(self, name: str, prompt_name: str, lengths: Sequence[int]) -> Workload:
        """Texts of so many tokens each, the prompt and special tokens counted.

        Raises:
            ValueError: a length is too short for the prompt, or the tokenizer does not cut text into such lengths.
        """
        prompt = PROMPTS[prompt_name]
        texts = tuple(self._cut(prompt, length) for length in lengths)
        return Workload(name, prompt, texts, tuple(lengths))

    def _cut(self, prompt: str, length: int) -> str:
        needed = length - len(self.tokenizer(prompt)["input_ids"])
        if needed < 1:
            raise ValueError(f"{length} tokens are too few for {prompt!r}: give another --tokenizer.")
        for _ in range(_TRIES):
            joined = self._join(needed)
            ends = self.tokenizer(joined, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            text = joined[: ends["offset_mapping"][needed - 1][1]]
            if len(self.tokenizer(prompt + text, verbose=False)["input_ids"]) == length:
                return text
        raise ValueError(f"{_TRIES} texts cut to {length} tokens are of other lengths: give another --tokenizer.")

    def _join(self, tokens: int) -> str:
        """Real texts, one after another, of at least so many tokens, special ones not counted."""
        parts: list[str] = []
        held = 0
        while held < tokens:
            parts.append(next(self._texts))
            held += len(self.tokenizer(parts[-1], add_special_tokens=False, verbose=False)["input_ids"])
        return "\n\n".join(parts)


def prepare_tokenizer(given: str | None, texts: Sequence[str], directory: Path) -> PreTrainedTokenizerBase:
    """As `load_tokenizer`, and without the truncation and padding that the files may ask for."""
    tokenizer = load_tokenizer(given, texts, directory)
    tokenizer.model_max_length = NomicBertConfig().n_positions
    return tokenizer


def save_model(size: str, tokenizer: PreTrainedTokenizerBase, directory: Path) -> NomicBertConfig:
    """Write an embedder of random weights, large enough that attention and positions decide about embeddings."""
    set_seed(0)
    vocab_size = 64 * -(-len(tokenizer) // 64)  # paper §4.1.2
    config = NomicBertConfig(**SIZES[size], vocab_size=vocab_size, initializer_range=0.03)
    save_embedder(embedder_around(NomicBertModel(config), tokenizer), directory)
    return config


def forward_cost(config: NomicBertConfig, workload: Workload) -> dict[str, float]:
    """`flops` that the real tokens must cost, and `attention_share`, the part that grows with the lengths' square."""
    flops = forward_flops(config, workload.tokens, workload.attended)
    body = forward_flops(config, workload.tokens, attended=0)
    return {"flops": flops, "attention_share": 1 - body / flops}
