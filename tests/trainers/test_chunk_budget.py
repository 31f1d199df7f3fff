"""A GPU's memory, acted: how many tokens of a chunk are found to fit it."""

import pytest
import torch

from tests.trainers.toys import contrastive_trainer, encoder
from trainers import contrastive
from trainers.chunk_budget import fitting_tokens

GIB = 2**30


def test_tokens_are_what_the_memory_holds_at_the_measured_rate():
    """600 KB a token and 1 GiB whatever their number, as of the 137M model; 30 GiB, of which 2 are kept."""
    found = fitting_tokens(lambda tokens: GIB + 600_000 * tokens, free=30 * GIB, reserved=2 * GIB)
    assert found == int((0.85 * 30 * GIB - 3 * GIB) / 600_000)
    assert fitting_tokens(lambda tokens: GIB + 600_000 * tokens, 1000 * GIB, 0) == 262_144


def test_a_small_gpu_gets_few_tokens_and_no_error():
    def peak(tokens):
        if tokens > 4_000:
            raise torch.OutOfMemoryError
        return tokens

    assert fitting_tokens(peak, 10 * GIB, 0) == 2_048
    assert fitting_tokens(lambda tokens: 600_000 * tokens, GIB // 4, GIB) == 2_048


def test_the_trial_encodes_texts_of_full_length_with_gradient_and_leaves_no_trace(tmp_path, monkeypatch):
    model = encoder(resid_pdrop=0.1)
    trainer = contrastive_trainer(tmp_path, model, chunk_tokens=None, document_max_length=600)
    seen, meant = [], []
    model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["cu_seq_lens_q"].diff().tolist()), with_kwargs=True
    )

    def peak_memory(work, device):
        work()
        assert all(weight.grad is None for weight in model.parameters())
        meant.append(sum(map(sum, seen)))
        seen.clear()
        return GIB + 1_000_000 * meant[-1]

    monkeypatch.setattr(contrastive, "peak_memory", peak_memory)
    monkeypatch.setattr(contrastive, "free_memory", lambda device: 10 * GIB)
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    seen.clear()
    found = trainer._fitting_tokens()
    assert meant == [128 + 2_048, 8_192]  # what is encoded first, to begin, is not measured on a GPU
    assert 6_000 < found < 0.85 * 10 * GIB / 1_000_000
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_cpu_takes_the_same_chunks_as_ever(tmp_path, capsys):
    trainer = contrastive_trainer(tmp_path, chunk_tokens=None, max_steps=1, warmup_steps=0)
    trainer.train()
    assert "in chunks of 16,384; equal documents" in capsys.readouterr().out


@pytest.mark.parametrize("chunk_tokens", [50, None])
def test_the_effective_numbers_name_the_chunk(tmp_path, monkeypatch, chunk_tokens):
    trainer = contrastive_trainer(tmp_path, chunk_tokens=chunk_tokens)
    trainer._chunk_tokens = 222_222
    monkeypatch.setattr(type(trainer.args), "device", torch.device("cuda"))
    monkeypatch.setattr(contrastive, "describe_memory", lambda *_: [])  # asks the GPU
    (line,) = [line for line in trainer.describe() if "in chunks of" in line]
    assert ("222,222 (fit the free memory);" in line) == (chunk_tokens is None)
