"""Each form of RoPE against its closed form, in float64 and complex numbers, written apart from the code."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nomic_bert import NomicBertConfig
from nomic_bert.rotary_nomic_bert import apply_rotary, inverse_frequencies, rotary_tables, rotate_projection
from tests.tensors import assert_close

D, TRAINED, THETA = 16, 64, 1000.0


def config(**fields):
    return NomicBertConfig(hidden_size=2 * D, num_attention_heads=2, max_trained_positions=TRAINED, **fields)


def frequencies(lengths, **fields):
    return inverse_frequencies(config(**fields), torch.tensor(lengths)).double().numpy()


def plain(base):
    return np.array([base ** (-2 * i / D) for i in range(D // 2)])


def test_plain_rope_ignores_length():
    found = frequencies([1, TRAINED, 4 * TRAINED], rotary_scaling_factor=None)
    np.testing.assert_allclose(found, [plain(THETA)] * 3, rtol=1e-6)


def test_linear_interpolation_is_equation_3():
    found = frequencies([10, 4 * TRAINED], rotary_scaling_type="linear", rotary_scaling_factor=4.0)
    # f(x, m L / L') with L' = 4 L: the angle of position m is that of position m / 4
    np.testing.assert_allclose(found, [plain(THETA) / 4] * 2, rtol=1e-6)


def test_ntk_is_equation_4():
    found = frequencies([10, 4 * TRAINED], rotary_scaling_type="ntk", rotary_scaling_factor=4.0)
    np.testing.assert_allclose(found, [plain(THETA * 4.0 ** (D / (D - 2)))] * 2, rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_dynamic_ntk_is_equation_5_of_each_sequence(alpha):
    lengths = [1, TRAINED - 1, TRAINED, TRAINED + 1, 2 * TRAINED, 5 * TRAINED]
    found = frequencies(lengths, rotary_scaling_factor=alpha)
    for row, length in zip(found, lengths, strict=True):
        scale = alpha * length / TRAINED - (alpha - 1) if length > TRAINED else 1.0
        np.testing.assert_allclose(row, plain(THETA * scale ** (D / (D - 2))), rtol=1e-6)


def test_the_papers_lengths_give_the_known_bases():
    """base 1,000, alpha 2, trained at 2,048, heads of 64: figures computed from the authors' formula."""
    paper = NomicBertConfig()
    lengths = torch.tensor([2048, 2049, 4096, 8192])
    second = inverse_frequencies(paper, lengths)[:, 1].double()
    np.testing.assert_allclose(second ** (-32.0), [1000.0, 1001.0, 3108.2, 7453.5], rtol=1e-4)


def test_rotation_is_a_complex_product():
    torch.manual_seed(0)
    states, positions = (
        torch.randn(2, 7, 3, D),
        torch.tensor([[0, 1, 2, 5, 9, 30, 63], [3, 2, 1, 0, 8, 8, 100]]),
    )
    cos, sin = rotary_tables(inverse_frequencies(config(), torch.tensor([7, 7]))[:, None], positions)
    rotated = apply_rotary(states, cos, sin)
    angles = positions[..., None].double() * torch.from_numpy(plain(THETA))
    product = torch.complex(*states.double().chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)[:, :, None]
    expected = torch.cat((product.real, product.imag), -1)
    assert_close(rotated.double(), expected)


def test_tables_stay_in_float32_under_half_precision():
    cos, sin = rotary_tables(torch.ones(1, 1, D // 2), torch.tensor([[5]]))
    assert cos.dtype == sin.dtype == torch.float32
    assert apply_rotary(torch.ones(1, 1, D, dtype=torch.bfloat16), cos, sin).dtype == torch.bfloat16


class Kernels(TorchDispatchMode):
    """Operations that compute, and the bytes of what they make; views and memory that is only taken do not count."""

    def __init__(self):
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not (function.is_view or function.overloadpacket.__name__.startswith(("empty", "detach"))):
            self.count += 1
            self.bytes += result.nbytes
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_and_its_gradients_are_those_of_the_formula_in_few_kernels(dtype):
    """On the queries and keys of one projection, as a layer has them; the gradient's gradient too."""
    torch.manual_seed(0)
    tables = rotary_tables(inverse_frequencies(config(), torch.tensor([9])), torch.arange(9)[None])
    projection = torch.randn(1, 9, 3, 2, D).to(dtype).requires_grad_()
    exact = projection.detach().double().requires_grad_()
    values, own = projection[:, :, :2].numel(), projection.element_size()
    with Kernels() as inference, torch.no_grad():
        alone = apply_rotary(projection[:, :, :2], *tables)
    assert inference.count == 4 and inference.bytes == values * (4 + own)
    with Kernels() as training:
        found = rotate_projection(projection, *tables, dtype)
    assert training.count == 5 and training.bytes == values * (4 + 1.5 * own)
    assert torch.equal(found[:, :, :2], alone) and torch.equal(found[:, :, 2], projection[:, :, 2])
    first, second = exact[:, :, :2].chunk(2, -1)
    cos, sin = (table[:, :, None, None].double() for table in tables)
    expected = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    expected = torch.cat((expected, exact[:, :, 2:]), 2)
    rounding = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=rounding, rtol=rounding)
    weights = torch.randn(found.shape)
    (slope,) = torch.autograd.grad((found.float() ** 2 * weights).sum(), projection, create_graph=True)
    (wanted,) = torch.autograd.grad((expected**2 * weights).sum(), exact, create_graph=True)
    torch.testing.assert_close(slope.double(), wanted, atol=4 * rounding, rtol=4 * rounding)
    curvature, wanted = (
        torch.autograd.grad(each.sum(), leaf)[0] for each, leaf in ((slope, projection), (wanted, exact))
    )
    torch.testing.assert_close(curvature.double(), wanted, atol=8 * rounding, rtol=8 * rounding)
