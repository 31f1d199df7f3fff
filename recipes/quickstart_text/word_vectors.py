"""Word vectors to begin with: counted in the corpus in seconds, where random ones would have to be learned.

They are those of latent semantic analysis (Deerwester et al. 1990): words that occur in the same texts have similar
ones. Frequent words, which say little about a text, begin shorter (Arora, Liang and Ma 2017, "A simple but
tough-to-beat baseline for sentence embeddings"). The model adds the same vector to all words and normalizes the sum, so
that a short one counts less in it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from transformers import PreTrainedTokenizerBase

_HALF_WEIGHT = 1e-3  # ours: share of all tokens at which a word has half the length of a rare one
_TEXTS_AT_ONCE = 1000


def count_word_vectors(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, dimensions: int, seed: int = 0
) -> np.ndarray:
    """Count which tokens occur in the same texts, and reduce the counts to vectors.

    Args:
        texts: the corpus.
        tokenizer: of the model that is to begin with them.
        dimensions: of a vector; at most the number of texts and of tokens.
        seed: of the randomized singular value decomposition.

    Returns:
        float32 (tokens, dimensions). The mean square of all values is 1. A token that no text has is a row of zeros.

    Raises:
        ValueError: more dimensions than texts or tokens.
    """
    for what, number in (("texts", len(texts)), ("tokens", len(tokenizer))):
        if number < dimensions:
            raise ValueError(
                f"{number:,} {what} are too few for word vectors of {dimensions:,}; "
                "take more text and a larger vocab_size, or a smaller hidden_size."
            )
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        batch = list(texts[start : start + _TEXTS_AT_ONCE])
        found = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        rows += [np.array(tokens, dtype=np.int32) for tokens in found]
    tokens, ends = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    counts = np.bincount(tokens, minlength=len(tokenizer))
    matrix = csr_matrix((np.ones(len(tokens)), tokens, ends), shape=(len(rows), len(tokenizer)))
    matrix.sum_duplicates()
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(matrix)
    decomposition = TruncatedSVD(dimensions, n_iter=2, random_state=seed).fit(weighted)
    vectors = decomposition.components_.T * np.sqrt(decomposition.singular_values_)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    share = counts[:, None] / counts.sum()
    vectors = vectors / np.maximum(lengths, 1e-12) * _HALF_WEIGHT / (_HALF_WEIGHT + share)
    vectors[counts == 0] = 0
    return (vectors / np.sqrt((vectors[counts > 0] ** 2).mean())).astype(np.float32)
