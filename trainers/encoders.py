"""Which models the contrastive trainer can train: encoders without a head that keep packed texts apart."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from .adapters import encoder_of
from .grad_cache import PackedTexts, encode

# Largest difference of a pooled vector, as a share of its largest component, that is rounding.
_ROUNDING, _ROUNDING_IN_HALF = 1e-3, 5e-2


def require_encoder(model: Any) -> None:
    """Refuse what is not an encoder alone.

    Raises:
        TypeError: a SentenceTransformer.
        ValueError: a model with a head.
    """
    if isinstance(model, SentenceTransformer):
        raise TypeError(
            "model is a SentenceTransformer. Pass its encoder, model[0].model, and its tokenizer as processing_class. "
            "nomic_bert.embedder.embedder_around makes a SentenceTransformer of the trained encoder."
        )
    encoder = encoder_of(model)
    if getattr(encoder, "base_model", encoder) is not encoder:
        raise ValueError(f"{type(encoder).__name__} has a head: load the encoder alone, with NomicBertModel.")


def require_packing(model: Any, device: torch.device, precision: AbstractContextManager, in_half: bool) -> None:
    """Refuse an encoder for which two short texts in one packed row are not as each is alone.

    Args:
        model: encoder, on its device.
        device: of the model.
        precision: context to encode in, such as `accelerator.autocast()`.
        in_half: whether that, or the model's weights, round to 16 bits.

    Raises:
        ValueError: names the model's class.
    """
    name = type(encoder_of(model)).__name__
    vocabulary = model.get_input_embeddings().num_embeddings
    random = torch.Generator().manual_seed(0)
    texts = [torch.randint(vocabulary, (length,), generator=random).to(device) for length in (7, 9)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision, torch.compiler.set_stance("force_eager"):
            alone = torch.cat([_encode(model, [text]) for text in texts])
            together = _encode(model, texts)
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{name} does not take packed texts (cu_seq_lens_q, max_length_q), or cannot run here: {error}. "
            "Use nomic_bert.NomicBertModel."
        ) from error
    finally:
        model.train(was_training)
    difference = float((together - alone).abs().max() / alone.abs().max())
    if not difference <= (_ROUNDING_IN_HALF if in_half else _ROUNDING):
        raise ValueError(
            f"{name} lets packed texts see each other: it ignores cu_seq_lens_q, and two texts in one row differ from "
            f"each alone by {difference:.1%}. Use nomic_bert.NomicBertModel."
        )


def _encode(model: Any, texts: list[Tensor]) -> Tensor:
    lengths = torch.tensor([len(text) for text in texts], device=texts[0].device)
    return encode(model, PackedTexts(torch.cat(texts), lengths), int(lengths.sum()))
