"""How many floating point operations the model's own work takes, and how many a device can do in a second."""

import time
from math import ceil

import torch

from .configuration_nomic_bert import NomicBertConfig

_CPU_SIZE, _DEVICE_SIZE = 1024, 8192  # large enough that a product runs at the full rate of a CPU, of an accelerator
_MEASURED_SECONDS, _LAP_SECONDS = 0.25, 0.02


def forward_flops(config: NomicBertConfig, tokens: int, attended: int, labelled: int = 0) -> int:
    """Floating point operations of a forward pass.

    Only matrix products count, 2 operations for each multiply-add:

    - body: tokens x 2 x layers x (4 x hidden^2 + 3 x hidden x intermediate), the four attention projections and the
      three of SwiGLU;
    - attention: 4 x layers x hidden x `attended`, for scores and weighted sums; both directions, so nothing is halved;
    - head: labelled x 2 x (hidden^2 + hidden x vocabulary), transform and decoder, on labelled tokens alone.

    Args:
        config: of the model.
        tokens: that enter the body.
        attended: sum over the tokens of the length of the sequence that each attends over, which is the sum over
            sequences of their length squared. A document in a block is a sequence of its own where attention stays
            inside documents.
        labelled: tokens to predict; 0 without a masked language modelling head.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    body = layers * hidden * (4 * hidden + 3 * config.intermediate_size)
    head = hidden * (hidden + config.vocab_size)
    return 2 * body * tokens + 4 * layers * hidden * attended + 2 * head * labelled


def training_flops(config: NomicBertConfig, tokens: int, attended: int, labelled: int) -> int:
    """Floating point operations of a forward and backward pass, which takes twice its forward pass.

    For the 137M model on blocks of 2,048 tokens attended as a whole, 30 % of them labelled, that is 0.95 GFLOP a
    token: 0.68 for the body (113.2M parameters), 0.23 for attention and 0.04 for the head. Work done twice, as with
    gradient checkpointing, counts once. The arguments are those of `forward_flops`.
    """
    return 3 * forward_flops(config, tokens, attended, labelled)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that one device reaches on a product of square matrices, the best of some repetitions in under a second.

    The global random state is left alone, so that a run which measures stays reproducible.

    Args:
        device: to measure.
        dtype: of the matrices: the precision that the model computes in.
    """
    size = _CPU_SIZE if device.type == "cpu" else _DEVICE_SIZE
    synchronize = torch.get_device_module(device).synchronize
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(size, size, generator=generator, device=device).to(dtype)

    def seconds(products: int) -> float:
        start = time.perf_counter()
        for _ in range(products):
            matrix @ matrix
        synchronize()
        return (time.perf_counter() - start) / products

    seconds(1)  # the library starts up
    products = ceil(_LAP_SECONDS / seconds(1))  # enough that waiting for the device does not count
    end = time.perf_counter() + _MEASURED_SECONDS
    best = seconds(products)
    while time.perf_counter() < end:
        best = min(best, seconds(products))
    return 2 * size**3 / best
