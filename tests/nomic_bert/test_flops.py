import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nomic_bert import NomicBertConfig, NomicBertForMaskedLM
from nomic_bert.flops import forward_flops, matmul_rate, training_flops


def test_flops_of_the_137m_model_by_hand():
    """Blocks of 2,048, 30 % masked, attention across documents: 0.95 GFLOP a token (paper's model)."""
    body = 12 * (4 * 768 * 768 + 3 * 768 * 3072)
    assert body == 113_246_208
    expected = 6 * body + 12 * 12 * 768 * 2048 + 0.3 * 6 * (768 * 768 + 768 * 30_528)
    config = NomicBertConfig()
    assert training_flops(config, 1000, 1000 * 2048, 300) == pytest.approx(1000 * expected)
    assert expected == pytest.approx(0.95e9, rel=0.002)


@pytest.mark.parametrize(("implementation", "lengths"), [("eager", [24, 24, 24]), ("sdpa", [11, 3, 20])])
def test_flops_are_those_that_torch_counts(tiny_config, implementation, lengths):
    """Exactly: both count the matrix products alone, and every product has a backward pass of twice its work."""
    model = NomicBertForMaskedLM(tiny_config)
    model.set_attn_implementation(implementation)
    ids = torch.randint(5, 95, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(sum(lengths)) % 3 == 0, ids, -100)
    if implementation == "eager":
        inputs = {"input_ids": ids.view(3, 24), "labels": labels.view(3, 24)}
    else:  # inside documents: each attends over its own length
        inputs = {"input_ids": ids, "labels": labels, "cu_seq_lens_q": torch.tensor([0, 11, 14, 34])}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(**inputs, score_only=True).loss.backward()
    attended = sum(length**2 for length in lengths)
    labelled = int((labels != -100).sum())
    assert training_flops(model.config, sum(lengths), attended, labelled) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.bert(**{name: given for name, given in inputs.items() if name != "labels"})
    assert forward_flops(model.config, sum(lengths), attended) == counter.get_total_flops()


def test_a_matmul_rate_is_positive_finite_and_draws_no_random_numbers():
    before = torch.get_rng_state()
    assert 0 < matmul_rate(torch.device("cpu"), torch.float32) < math.inf
    assert torch.equal(torch.get_rng_state(), before)
