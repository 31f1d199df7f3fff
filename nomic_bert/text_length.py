"""The tokens of a text that an embedder reads: an impossible length is refused when it is set, not when it is met."""

from typing import Any, cast

from sentence_transformers import SentenceTransformer

from textfiles.settings import is_number

from . import NomicBertConfig

LEAST_TOKENS = 3  # [CLS], [SEP] and one of the text


def require_text_length(tokens: int, config: Any) -> None:
    """Refuse a length at which no text is left, or for which the model has no positions.

    Args:
        tokens: `max_seq_length`.
        config: of the model; one without `max_position_embeddings` sets no limit.

    Raises:
        ValueError: names the limit.
    """
    if not is_number(tokens) or tokens < LEAST_TOKENS:
        raise ValueError(f"max_seq_length must be at least {LEAST_TOKENS} ([CLS], [SEP] and a token), not {tokens!r}.")
    limit: Any = getattr(config, "max_position_embeddings", None)  # of ours, n_positions
    if is_number(limit) and tokens > limit:
        name = "n_positions" if config.model_type == NomicBertConfig.model_type else "max_position_embeddings"
        raise ValueError(f"max_seq_length must be at most {limit:,}, the model's {name}, not {tokens:,}.")


def set_text_length(embedder: SentenceTransformer, tokens: int) -> None:
    """Truncate texts at a length; raises as `require_text_length`."""
    require_text_length(tokens, getattr(getattr(cast(Any, embedder[0]), "model", None), "config", None))
    embedder.max_seq_length = tokens
