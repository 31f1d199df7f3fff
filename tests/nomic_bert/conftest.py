import pytest
import torch

from nomic_bert import NomicBertConfig, NomicBertModel

TRAINED = 64


@pytest.fixture
def tiny_config():
    """Weights large enough (std 0.2) that attention and position matter; trained at 64 tokens."""
    return NomicBertConfig(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_trained_positions=TRAINED,
        n_positions=4 * TRAINED,
        initializer_range=0.2,
    )


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(0)
    return NomicBertModel(tiny_config).eval()


@pytest.fixture
def texts():
    """Token ids of six texts on both sides of the trained length."""
    generator = torch.Generator().manual_seed(1)
    lengths = (3, 40, TRAINED, TRAINED + 1, 130, 40)
    return [torch.randint(5, 500, (length,), generator=generator) for length in lengths]
