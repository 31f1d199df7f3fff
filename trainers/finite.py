"""NaN and infinity stop a run before they reach weights, a checkpoint or the choice of the best one."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nomic_bert.transfers import fetch


def read_loss_and_norm(loss: Tensor, gradient_norm: Tensor | float | None) -> Callable[[], tuple[float, float]]:
    """Begin to copy both numbers of a step to the host.

    Args:
        loss: scalar, of this rank.
        gradient_norm: of all ranks, before clipping; None where it is unknown, as in the first step under DeepSpeed.

    Returns:
        Waits for the copy, and returns the loss and the norm; an unknown norm counts as 0.
    """
    norm = torch.zeros_like(loss, dtype=torch.float32) if gradient_norm is None else gradient_norm
    if not isinstance(norm, Tensor):
        norm = torch.full_like(loss, norm, dtype=torch.float32)
    values = fetch(torch.stack([loss.detach().float(), norm.float()]))

    def wait() -> tuple[float, float]:
        loss_value, norm_value = values().tolist()
        return loss_value, norm_value

    return wait


def require_finite_weights(model: nn.Module, what_now: str) -> None:
    """Refuse weights that are not finite, in one wait for the device.

    Args:
        model: whose parameters are looked at.
        what_now: what that means for the run, as a sentence for the error.

    Raises:
        FloatingPointError: names the first such weights.
    """
    weights = {name: value for name, value in model.named_parameters() if value.is_floating_point()}
    finite = torch.stack([value.detach().isfinite().all() for value in weights.values()]).tolist()
    bad = [name for name, good in zip(weights, finite, strict=True) if not good]
    if bad:
        names = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
        raise FloatingPointError(f"{len(bad)} of {len(weights)} weights are not finite ({names}). {what_now}")


def require_finite_metric(metrics: Mapping[str, float], name: str) -> None:
    """Refuse a metric that is there and not finite: no checkpoint can be compared by it.

    Raises:
        FloatingPointError: names it.
    """
    value = metrics.get(name)
    if value is not None and not math.isfinite(value):
        raise FloatingPointError(f"Evaluation gave {name} = {value}. Check the evaluation data and the evaluators.")
