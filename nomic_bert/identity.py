"""Which model a score belongs to: a hash of what it computes with, since a directory's name says nothing."""

import hashlib

import torch
from torch import nn


def weights_hash(model: nn.Module) -> str:
    """Sixteen hexadecimal digits over the names, types, shapes and bytes of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
