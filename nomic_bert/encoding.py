"""Embeddings of many texts: each tokenized once, in batches sized in tokens rather than in texts."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, Transformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from .attention_nomic_bert import can_pack
from .configuration_nomic_bert import NomicBertConfig
from .openvino_encoder import OpenVINOEncoder
from .tokenizing import Batch, length_of, token_batches
from .transfers import fetch, to_device

# Of 512 to 8,192 tokens, a 768 wide model on one core took 6 % less time with 1,024 than with 2,048 and 3 % more with
# 4,096, whose tensors leave the caches; several cores need some tokens each.
_CPU_TOKENS = 2_048
_GPU_TOKENS = 1_024, 65_536  # least and most: 8 documents of 8,192 tokens are work enough for a GPU


class EncodedBatch(NamedTuple):
    """What `encode_by_tokens` has read of some texts.

    Attributes:
        numbers: of the texts, counted from 0.
        tokens: of each, prompt and special tokens included, after truncation; None: they are not known.
        truncated: how many of the texts were longer than the model reads; None: not known.
    """

    numbers: list[int]
    tokens: list[int] | None
    truncated: int | None


def encode_by_tokens(
    embedder: SentenceTransformer,
    texts: str | Sequence[str],
    *,
    prompt: str | None = None,
    tokens_per_batch: int | None = None,
    normalize: bool = False,
    description: str | None = None,
    on_batch: Callable[[EncodedBatch], None] | None = None,
) -> np.ndarray:
    """Embed texts of any lengths as `embedder.encode` does, with little or no padding and no token read twice.

    A NomicBertModel under mean pooling reads packed rows; other models read padded batches of texts of similar length.
    What cannot be tokenized ahead (models without a tokenizer of transformers, prompts that pooling leaves out) goes
    through `embedder.encode`. On a GPU the next texts are tokenized while it computes. Threads may share an embedder,
    also with `encode`.

    For several GPUs: `pool = embedder.start_multi_process_pool()`, `embedder.encode(texts, pool=pool)`,
    `embedder.stop_multi_process_pool(pool)`, under `if __name__ == "__main__":`. For more than some 100,000 texts on a
    GPU, compile the layers first: `nomic_bert.compiling.compile_layers(embedder)`.

    Args:
        embedder: any model of sentence-transformers.
        texts: n texts, or one.
        prompt: put before each; None: nothing, also where the model has a default.
        tokens_per_batch: most tokens of a batch, padding included; a longer text is a batch by itself. None: 2,048 on
            a CPU; on a GPU what its free memory holds, 65,536 at most.
        normalize: whether embeddings are brought to unit length after the model's own modules.
        description: of the progress bar, which counts texts and estimates the time left from characters; None: no bar.
        on_batch: called when the embeddings of a batch are there.

    Returns:
        (n, dim) in float32, in the order of the texts; (dim,) for one text, as `encode` returns it.

    Raises:
        ValueError: `tokens_per_batch` is below 1, `texts` is a table, or a text is not a string or not valid
            Unicode; names its place.
    """
    if isinstance(texts, str):
        return encode_by_tokens(
            embedder,
            [texts],
            prompt=prompt,
            tokens_per_batch=tokens_per_batch,
            normalize=normalize,
            description=description,
            on_batch=on_batch,
        )[0]
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # whose items are the names of its columns
        raise ValueError(f"texts is a {type(texts).__name__}; give one of its columns.")
    prompt = prompt or ""
    if tokens_per_batch is None:
        tokens_per_batch = _batch_for(embedder)
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch must be at least 1, not {tokens_per_batch}.")
    texts = list(texts)
    if not texts:
        return np.empty((0, embedder.get_embedding_dimension() or 0), dtype=np.float32)
    _require_texts(texts)
    packed = _reads_packed_rows(embedder, prompt)
    in_openvino = packed and isinstance(cast(Any, embedder[0]).model, OpenVINOEncoder)
    if not in_openvino:  # whose modules behind the encoder compute alike in training
        embedder.eval()
    if packed:
        embed = _embed_in_openvino if in_openvino else _embed_packed
    elif _tokenizes_ahead(embedder, prompt):
        embed = _embed_padded
    else:
        embeddings = _encode(embedder, texts, prompt, tokens_per_batch, normalize, description)
        if on_batch is not None:
            on_batch(EncodedBatch(list(range(len(texts))), None, None))
        return embeddings
    truncated: set[int] | None = None if on_batch is None else set()
    batches = token_batches(embedder, texts, prompt, tokens_per_batch, packed, truncated)
    results = _embedded(embedder, embed, batches, normalize)
    if on_batch is not None and truncated is not None:
        results = _told(results, truncated, on_batch)
    if description is not None:
        results = _shown(results, [len(text) for text in texts], description)
    return _collect(results, len(texts))


def _require_texts(texts: list[str]) -> None:
    """Refuse what tokenizers refuse without saying which it is."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):  # an empty cell of a table is None or a number
            raise ValueError(f"texts[{number}] is {text!r}, not a string; leave it out.")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
            raise ValueError(f"texts[{number}] is not valid Unicode ({error}); correct it or leave it out.") from error


@torch.inference_mode()
def _embed_packed(embedder: SentenceTransformer, batch: Batch) -> Tensor:
    """Texts -> (texts, dim), as one row of tokens without padding, made to wait for no GPU.

    The mean is taken here: `Pooling` reads packed rows too, but would wait for a GPU, and in sentence-transformers 6.0
    it adds in half precision and loses texts without tokens.
    """
    device = embedder.device
    ids = torch.tensor(list(chain.from_iterable(tokens["input_ids"] for _, tokens in batch)), dtype=torch.long)
    lengths = torch.tensor([len(tokens["input_ids"]) for _, tokens in batch])
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    row = {"input_ids": to_device(ids[None], device), "cu_seq_lens_q": offsets}  # the model reads offsets on the host
    hidden = embedder[0](row)["token_embeddings"][0]
    # unsafe: a check of the lengths would wait
    means = torch.segment_reduce(hidden.float(), "mean", lengths=to_device(lengths, device), initial=0, unsafe=True)
    return _after_pooling(embedder, means.to(hidden.dtype))


@torch.inference_mode()
def _embed_in_openvino(embedder: SentenceTransformer, batch: Batch) -> Tensor:
    """Texts -> (texts, dim), as `_embed_packed`."""
    encoder = cast(Any, embedder[0]).model
    return _after_pooling(embedder, torch.from_numpy(encoder.mean_states([tokens["input_ids"] for _, tokens in batch])))


def _after_pooling(embedder: SentenceTransformer, embeddings: Tensor) -> Tensor:
    """(texts, hidden) -> (texts, dim), by the modules behind the model and the pooling."""
    features = {"sentence_embedding": embeddings}
    for module in list(embedder)[2:]:
        features = module(features)
    return features["sentence_embedding"]


@torch.inference_mode()
def _embed_padded(embedder: SentenceTransformer, batch: Batch) -> Tensor:
    """Texts -> (texts, dim), as `encode` embeds a batch."""
    padded = DataCollatorWithPadding(embedder.tokenizer)([tokens for _, tokens in batch])
    features = batch_to_device({**padded, "modality": "text"}, embedder.device)
    return embedder(features)["sentence_embedding"]


def _encode(
    embedder: SentenceTransformer,
    texts: list[str],
    prompt: str,
    tokens_per_batch: int,
    normalize: bool,
    description: str | None,
) -> np.ndarray:
    """By `encode` itself, whose batches are sized in texts."""
    embeddings = embedder.encode(
        texts,
        prompt=prompt,
        batch_size=texts_that_fit(embedder, tokens_per_batch),
        normalize_embeddings=normalize,
        convert_to_tensor=True,
        show_progress_bar=description is not None,
    )
    return embeddings.float().cpu().numpy()


def texts_that_fit(embedder: SentenceTransformer, tokens_per_batch: int) -> int:
    """Texts that fit into a batch if all are as long as possible; at most 32, sentence-transformers' default."""
    longest = min(embedder.max_seq_length or 512, 8_192)  # some models have no limit
    return min(max(tokens_per_batch // longest, 1), 32)


def _reads_packed_rows(embedder: SentenceTransformer, prompt: str) -> bool:
    """Whether this is a NomicBertModel, of this package or a hub's copy of it, with modules that suit packed rows."""
    if not _tokenizes_ahead(embedder, prompt) or len(embedder) < 2:
        return False
    pooling, model = embedder[1], cast(Any, embedder[0]).model
    return (
        isinstance(pooling, Pooling)
        and pooling.pooling_mode == "mean"
        and all(isinstance(module, LayerNorm | Normalize) for module in list(embedder)[2:])
        and model.config.model_type == NomicBertConfig.model_type
        and (isinstance(model, OpenVINOEncoder) or _packs(model))
    )


def _packs(model: Any) -> bool:
    """Whether a model computes on packed rows; other codes for these weights do not take offsets, or ignore them."""
    return "cu_seq_lens_q" in inspect.signature(model.forward).parameters and can_pack(model.config)


def _tokenizes_ahead(embedder: SentenceTransformer, prompt: str) -> bool:
    """Whether `encode` would call a tokenizer of transformers on the texts and do nothing else to them."""
    transformer = cast(Any, embedder[0])
    return (
        type(transformer) is Transformer  # a subclass may read texts in its own way
        and isinstance(transformer.processor, PreTrainedTokenizerBase)
        and "message" not in transformer.modality_config
        and not transformer.processing_kwargs
        and not (prompt and any(not getattr(module, "include_prompt", True) for module in embedder))
    )


def _batch_for(embedder: SentenceTransformer) -> int:
    """Tokens of a batch that suit the device."""
    if embedder.device.type != "cuda":
        return _CPU_TOKENS
    config = getattr(getattr(embedder[0], "model", None), "config", None)
    width = getattr(config, "hidden_size", None)
    if width is None:
        return _CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(embedder.device)
    unused = torch.cuda.memory_reserved(embedder.device) - torch.cuda.memory_allocated(embedder.device)
    return _tokens_that_fit(free + unused, width, next(embedder.parameters()).element_size())


def _tokens_that_fit(free: int, width: int, value_bytes: int) -> int:
    """Tokens of a batch on a GPU.

    The largest tensors of a layer are, for each token, the two inputs and the two outputs of a gated MLP's product, 4
    widths each, beside its input and the residual: about 20 widths, and as much where queries and keys are rotated in
    float32 (on a CPU, 17 were measured). Counted are 32, and of the memory half.

    Args:
        free: bytes.
        width: of the hidden states.
        value_bytes: of one value of the weights.
    """
    least, most = _GPU_TOKENS
    return min(max(free // 2 // (32 * width * value_bytes), least), most)


def _embedded(
    embedder: SentenceTransformer,
    embed: Callable[[SentenceTransformer, Batch], Tensor],
    batches: Iterable[Batch],
    normalize: bool,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches with their embeddings.

    The copy of a batch is queued right behind it, and waited for when the next batch has been queued, so that a GPU
    has work while the host prepares the batch after that.
    """
    waiting: tuple[Batch, Callable[[], Tensor]] | None = None
    for batch in batches:
        embeddings = embed(embedder, batch)[:, : embedder.truncate_dim]
        if normalize:
            embeddings = nn.functional.normalize(embeddings, dim=1)
        copied = fetch(embeddings.float())
        if waiting is not None:
            yield waiting[0], waiting[1]().numpy()
        waiting = batch, copied
    if waiting is not None:
        yield waiting[0], waiting[1]().numpy()


def _told(
    results: Iterable[tuple[Batch, np.ndarray]], truncated: set[int], on_batch: Callable[[EncodedBatch], None]
) -> Iterator[tuple[Batch, np.ndarray]]:
    """The results as they are, each reported once it is there."""
    for batch, part in results:
        numbers = [number for number, _ in batch]
        on_batch(EncodedBatch(numbers, [length_of(text) for text in batch], len(truncated.intersection(numbers))))
        yield batch, part


def _shown(
    results: Iterable[tuple[Batch, np.ndarray]], characters: list[int], description: str
) -> Iterator[tuple[Batch, np.ndarray]]:
    """The results as they are, under a progress bar."""
    left, total = sum(characters), sum(characters)
    with tqdm(
        total=len(characters),
        unit="text",
        desc=description,
        leave=False,
        # the longest texts come first, so that the time left by texts would be far too long
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}, {rate_fmt}]",
    ) as progress:
        for batch, part in results:
            yield batch, part
            left -= sum(characters[number] for number, _ in batch)
            if not progress.disable and left < total:
                seconds = progress.format_dict["elapsed"] * left / (total - left)
                progress.set_postfix_str(f"{progress.format_interval(seconds)} left", refresh=False)
            progress.update(len(batch))


def _collect(results: Iterable[tuple[Batch, np.ndarray]], count: int) -> np.ndarray:
    """Embeddings of batches -> (count, dim), in the order of the texts."""
    embeddings: np.ndarray | None = None
    for batch, part in results:
        if embeddings is None:
            embeddings = np.empty((count, part.shape[1]), dtype=np.float32)
        embeddings[[number for number, _ in batch]] = part
    assert embeddings is not None
    return embeddings
