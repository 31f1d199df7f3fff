"""What the heads are made of: the inputs that they pass on, the masked language modelling head, and the losses."""

from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_nomic_bert import NomicBertConfig


class EncoderInputs(TypedDict, total=False):
    """The less common arguments of `NomicBertModel.forward`, which every head passes on to its encoder."""

    cu_seq_lens_q: Tensor | None
    cu_seq_lens_k: Tensor | None
    max_length_q: int | None
    max_length_k: int | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    use_cache: bool | None
    head_mask: Tensor | None


class NomicBertMLMTransform(nn.Module):
    """Dense layer, SiLU and layer norm before the decoder."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> the same."""
        return self.layer_norm(F.silu(self.dense(hidden)))


class NomicBertMLMPredictions(nn.Module):
    """Transform and decoder; the decoder is the word embedding, without a bias."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.transform = NomicBertMLMTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocab)."""
        return self.decoder(self.transform(hidden))


class SummedCrossEntropy(torch.autograd.Function):
    """Cross entropy summed over tokens, in float32, with two buffers of the logits' size less than autograd's own.

    Over a vocabulary these are the largest tensors of a training step.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (tokens, vocab) and ids (tokens,) -> the sum."""
        log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        ctx.save_for_backward(log_probabilities, targets)
        ctx.dtype = logits.dtype
        return -log_probabilities.gather(1, targets[:, None]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Probabilities, less 1 at the targets; in the buffer of the forward pass, so there is no second backward."""
        log_probabilities, targets = ctx.saved_tensors
        probabilities = log_probabilities.exp_()
        probabilities.scatter_add_(1, targets[:, None], probabilities.new_full((len(targets), 1), -1.0))
        return probabilities.mul_(gradient).to(ctx.dtype), None


class NomicBertMLMHead(nn.Module):
    """Holds the predictions under the released name `cls.predictions`."""

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__()
        self.predictions = NomicBertMLMPredictions(config)


def classification_loss(problem: str | None, logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """The loss of a classifier or regressor, in float32.

    Args:
        problem: "regression", "single_label_classification", "multi_label_classification", or None: as in
            transformers, regression for one label, and else single-label for whole numbers.
        logits: (..., num_labels).
        labels: (...) class ids, -100 where there is none; (..., num_labels) for several labels at once; numbers for
            regression.
        num_items: labels that the loss is averaged over; None: those of this batch.
    """
    logits = logits.float()
    if problem is None and logits.shape[-1] == 1:
        problem = "regression"
    elif problem is None:
        problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    count: Tensor | int = labels.numel()
    if problem == "multi_label_classification":
        total = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
    elif problem == "regression":
        total = F.mse_loss(logits.view(labels.shape), labels.float(), reduction="sum")
    else:
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
        count = (labels != -100).sum()
    return total / (count if num_items is None else num_items)


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean cross entropy of the first and last token of an answer, in float32.

    Args:
        start_logits: (batch, tokens), as `end_logits`.
        end_logits: as `start_logits`.
        start: (batch,) or (batch, 1) positions; those beyond the last token are left out.
        end: as `start`.
    """
    tokens = start_logits.shape[1]
    start_loss, end_loss = (
        F.cross_entropy(logits.float(), position.flatten().clamp(0, tokens), ignore_index=tokens)
        for logits, position in ((start_logits, start), (end_logits, end))
    )
    return (start_loss + end_loss) / 2
