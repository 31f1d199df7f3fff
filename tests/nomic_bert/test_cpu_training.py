"""Training on a CPU: the rotation in one pass, attention's precision, and which CPUs have bfloat16."""

import pytest
import torch

from nomic_bert.attention_nomic_bert import packed_attention
from nomic_bert.cpu_nomic_bert import has_fast_bfloat16, rotated_dtype
from nomic_bert.rotary_nomic_bert import apply_rotary, rotary_tables, rotate_projection
from nomic_bert.unpadding_nomic_bert import Sequences


def rotated(projected, lengths, packed=True):
    """(what training computes, the reference), of `projected` (1, tokens, 3, heads, head_dim)."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    tables = rotary_tables(10000.0 ** -torch.linspace(0, 1, projected.shape[-1] // 2), positions)
    sequences = Sequences(tuple(lengths), torch.tensor([0, *lengths]).cumsum(0).int(), 1, sum(lengths))
    expected = torch.cat([apply_rotary(projected[:, :, :2], *tables), projected[:, :, 2:]], dim=2)
    dtype = rotated_dtype(projected, sequences if packed else None)
    return rotate_projection(projected, *tables, dtype), expected


def test_rotation_and_its_gradient_are_those_of_the_reference():
    torch.manual_seed(0)
    projected = torch.randn(1, 12, 3, 2, 8, requires_grad=True)
    found, expected = rotated(projected, [5, 7])
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((each * weights).sum(), projected)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("length", "packed", "dtype"), [
    (64, True, torch.float32), (600, True, torch.bfloat16), (64, False, torch.bfloat16),
])  # fmt: skip
def test_short_texts_attend_in_float32_in_training_in_bfloat16(length, packed, dtype):
    projected = torch.randn(1, length, 3, 1, 8).bfloat16().requires_grad_()
    found, expected = rotated(projected, [length], packed)
    assert found.dtype == dtype
    torch.testing.assert_close(found.bfloat16(), expected)
    (gradient,) = torch.autograd.grad(found.float().sum(), projected)
    assert gradient.dtype == torch.bfloat16


def test_autocast_does_not_round_what_attention_is_given():
    class Module:
        class config:  # noqa: N801
            _attn_implementation = "sdpa"

    states = torch.randn(3, 1, 9, 2, 8)
    sequences = Sequences((4, 5), torch.tensor([0, 4, 9], dtype=torch.int32), 1, 9)
    expected = packed_attention(Module, *states, sequences, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(packed_attention(Module, *states, sequences, 0.0), expected)


@pytest.mark.parametrize("instructions", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}, {}])
def test_bfloat16_is_fast_where_there_are_instructions_for_it(monkeypatch, instructions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert has_fast_bfloat16() == ("avx2" not in instructions and bool(instructions))
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older versions of torch
    assert not has_fast_bfloat16()
