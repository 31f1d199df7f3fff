"""How a CPU computes where nothing is trained: products by oneDNN, and so many tokens at once as its caches hold."""

import torch
from torch import Tensor, nn

from .unpadding_nomic_bert import exports

# Tokens at once: whole sequences by all layers, and of a longer one SwiGLU.
CPU_ROW, CPU_CHUNK = 2_048, 1_024
_ONEDNN_WORTH = 65_536  # values of a weight: with so few, oneDNN takes longer to begin than it saves
_HAS_ONEDNN = (  # both are in every build for x86 CPUs, where torch multiplies float32 matrices by MKL
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def is_cpu_inference(module: nn.Module, hidden: Tensor) -> bool:
    """Whether a pass may choose kernels and parts freely: on a CPU, and neither trained nor traced.

    GradCache's pass without gradients belongs to training: it must draw the dropout of the pass that follows it.
    """
    traced = exports() or torch.compiler.is_compiling()
    return hidden.device.type == "cpu" and not (module.training or torch.is_grad_enabled() or traced)


class NomicBertLinear(nn.Linear):
    """A linear map without bias; on an x86 CPU, where no gradient is needed, computed by oneDNN in place of MKL.

    On an AMD processor this takes two thirds of MKL's time for a short query, and about nine tenths for many tokens.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self._suits_onednn(hidden):
            return torch.ops.mkldnn._linear_pointwise(hidden, self.weight, None, "none", [], "")
        return super().forward(hidden)

    def _suits_onednn(self, hidden: Tensor) -> bool:
        return (
            _HAS_ONEDNN
            and bool(torch.backends.mkldnn.enabled)
            and is_cpu_inference(self, hidden)
            and not torch.is_autocast_enabled("cpu")
            and type(self.weight) is nn.Parameter  # not a quantized or a distributed one
            and self.weight.numel() > _ONEDNN_WORTH
            and self.weight.device.type == "cpu"
            and hidden.dtype == self.weight.dtype == torch.float32
        )
