"""Embeddings of many texts, in batches that hold so many tokens and not so many texts."""

from collections.abc import Iterator, Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

_TOKENIZED_AT_ONCE = 1_000  # texts


def encode_by_tokens(
    embedder: SentenceTransformer,
    texts: Sequence[str],
    *,
    prompt: str = "",
    tokens_per_batch: int,
    normalize: bool = False,
    description: str | None = None,
) -> np.ndarray:
    """Embed texts of any lengths: those of like length together, as many as the batch may hold.

    Args:
        embedder: any model of sentence-transformers.
        texts: n texts.
        prompt: put before each.
        tokens_per_batch: longest text times number of texts that a batch may reach, in tokens. A longer text is a
            batch by itself.
        normalize: whether embeddings are brought to unit length after the model's own modules.
        description: of the progress bar, which counts texts; None: no bar.

    Returns:
        (n, dim) in float32, in the order of the texts.
    """
    lengths = _token_counts(embedder, texts, prompt)
    embeddings: np.ndarray | None = None
    with tqdm(total=len(texts), unit="text", desc=description, disable=description is None, leave=False) as progress:
        for batch in _batches(lengths, tokens_per_batch):
            tensor = embedder.encode(
                [texts[index] for index in batch],
                prompt=prompt,
                batch_size=len(batch),
                normalize_embeddings=normalize,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
            part = tensor.float().cpu().numpy()
            if embeddings is None:
                embeddings = np.empty((len(texts), part.shape[1]), dtype=np.float32)
            embeddings[batch] = part
            progress.update(len(batch))
    if embeddings is None:
        return np.empty((0, embedder.get_embedding_dimension() or 0), dtype=np.float32)
    return embeddings


def _token_counts(embedder: SentenceTransformer, texts: Sequence[str], prompt: str) -> np.ndarray:
    """Tokens of each text as the model reads it: with the prompt and special tokens, cut."""
    counts: list[int] = []
    for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
        block = [prompt + text for text in texts[start : start + _TOKENIZED_AT_ONCE]]
        tokenized = embedder.tokenizer(block, truncation=True, max_length=embedder.max_seq_length)
        counts.extend(len(ids) for ids in tokenized["input_ids"])
    return np.array(counts, dtype=np.int64)


def _batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[list[int]]:
    """Numbers of texts, the longest first: if a batch is too large for the memory, it is the first."""
    batch: list[int] = []
    for index in np.argsort(-lengths, kind="stable").tolist():
        # the first text of a batch is its longest
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
