"""What the heads are made of: the inputs that they pass on, the masked language modelling head, and the losses."""

from dataclasses import dataclass
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .configuration_nomic_bert import NomicBertConfig
from .cpu_nomic_bert import is_plain_product

_LOGITS_AT_ONCE, _LOGITS_AT_ONCE_ON_CPU = 2**27, 2**22


@dataclass
class MaskedLMScore(ModelOutput):
    """How well the labelled tokens of a batch are predicted.

    Attributes:
        loss: as of the model's ordinary output.
        hits: labelled tokens that the model puts first.
    """

    loss: Tensor | None = None
    hits: Tensor | None = None


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

    def score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy summed over tokens, and how many are predicted right, without holding all logits.

        Args:
            hidden: (tokens, hidden).
            targets: (tokens,) ids.
        """
        decoder = self.decoder
        if is_plain_product(decoder):
            transformed = self.transform(hidden)
            total, hits = SummedLinearCrossEntropy.apply(transformed, decoder.weight, targets, torch.is_grad_enabled())
            return total, hits
        logits = self(hidden)
        return SummedCrossEntropy.apply(logits, targets), (logits.argmax(dim=-1) == targets).sum()


class SummedLinearCrossEntropy(torch.autograd.Function):
    """Cross entropy of `hidden @ weight.T`, summed over tokens, of which the logits of a few exist at a time.

    Over a vocabulary the logits are the largest tensors of a training step. Their gradient is known as soon as they
    are, up to the factor that the sum will have, so the forward pass computes the gradients too and keeps these.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """Hidden (tokens, hidden), weight (vocab, hidden), ids (tokens,) -> the sum, and how many score highest."""
        device = hidden.device.type
        ctx.types = hidden.dtype, weight.dtype
        if torch.is_autocast_enabled(device):
            hidden, weight = (each.to(torch.get_autocast_dtype(device)) for each in (hidden, weight))
        total, hits = hidden.new_zeros((), dtype=torch.float32), targets.new_zeros(())
        to_hidden, to_weight = torch.empty_like(hidden), None
        tokens = max(1, (_LOGITS_AT_ONCE_ON_CPU if device == "cpu" else _LOGITS_AT_ONCE) // len(weight))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), tokens):
                part, wanted = hidden[start : start + tokens], targets[start : start + tokens, None]
                logits = part @ weight.T
                hits += (logits.argmax(dim=-1, keepdim=True) == wanted).sum()
                log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.float32)
                total -= log_probabilities.gather(1, wanted).sum()
                if not differentiable:
                    continue
                slope = log_probabilities.exp_()  # probabilities, less 1 at the targets
                slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
                slope = slope.to(logits.dtype)
                torch.mm(slope, weight, out=to_hidden[start : start + tokens])
                if to_weight is None:
                    to_weight = (slope.T @ part).float()
                elif slope.dtype == to_weight.dtype:
                    to_weight.addmm_(slope.T, part)
                else:
                    to_weight += slope.T @ part
        if to_weight is None:
            to_weight = torch.zeros_like(weight) if differentiable else weight.new_zeros(())
        ctx.kept = [to_hidden, to_weight]  # no input and no output: autograd need not watch over them
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        """The kept gradients times that of the sum, in their own buffers, so there is no second backward."""
        if not ctx.kept:
            raise RuntimeError("The loss was differentiated before; its gradients are no longer there.")
        to_hidden, to_weight = ctx.kept
        ctx.kept = []  # so that the optimizer's gradients can be these buffers, not copies
        of_hidden, of_weight = ctx.types
        return to_hidden.mul_(gradient).to(of_hidden), to_weight.mul_(gradient).to(of_weight), None, None


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


def classification_loss(
    problem: str | None, logits: Tensor, labels: Tensor | None, num_items: Tensor | int | None
) -> Tensor | None:
    """The loss of a classifier or regressor, in float32; None without labels.

    Args:
        problem: "regression", "single_label_classification", "multi_label_classification", or None: as in
            transformers, regression for one label, and else single-label for whole numbers.
        logits: (..., num_labels).
        labels: (...) class ids, -100 where there is none; (..., num_labels) for several labels at once; numbers for
            regression.
        num_items: labels that the loss is averaged over; None: those of this batch.
    """
    if labels is None:
        return None
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
