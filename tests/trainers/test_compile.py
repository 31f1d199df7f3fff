"""Layers compiled by torch: once for all shapes, steps and ranks. aot_eager traces as inductor does, in less time.

Tracing takes seconds, so one training is compiled for the whole file.
"""

import shutil

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nomic_bert.compiling import compile_layers
from tests.trainers.toys import contrastive_trainer, encoder, logged, mlm, mlm_trainer

GRAPHS = 3  # of a layer: before attention, its output, the rest


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def contrastive(directory, **settings):
    """3 steps in chunks, with gradients and without; the shapes of all differ."""
    return contrastive_trainer(directory, encoder(num_hidden_layers=3), max_steps=3, optim="sgd", **settings)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A trainer with its layers compiled, after a training."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer = contrastive(tmp_path_factory.mktemp("compiled"), torch_compile_backend="aot_eager")
    trainer.train()
    return trainer


def test_three_layers_make_the_graphs_of_one_and_attention_is_the_only_break(compiled):
    assert graphs() == 2 * GRAPHS  # with gradients, and without
    (reason,) = torch._dynamo.utils.counters["graph_break"]
    assert "packed_attention" in reason
    assert not isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    assert list(compiled.model.state_dict()) == list(encoder(num_hidden_layers=3).state_dict())


def test_compiled_training_equals_uncompiled(compiled, tmp_path):
    plain = contrastive(tmp_path)
    plain.train()
    for key in ("loss", "grad_norm", "accuracy"):
        assert logged(compiled, key) == pytest.approx(logged(plain, key), rel=1e-4)
    expected = plain.model.state_dict()
    for name, value in compiled.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_nothing_is_compiled_anew(compiled, tmp_path):
    """Other shapes, one token, the other trainer, and a rank of DistributedDataParallel."""
    before, model = graphs(), compiled.model.train()
    masked = mlm_trainer(tmp_path, mlm(), max_steps=1, warmup_steps=0, torch_compile_backend="aot_eager")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranked = DistributedDataParallel(model)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for tokens in (1, 2, 37):
                row, offsets = torch.full((1, tokens), 7), torch.tensor([0, tokens], dtype=torch.int32)
                for encode in (model, ranked):
                    encode(input_ids=row, cu_seq_lens_q=offsets).last_hidden_state.sum().backward()
    finally:
        dist.destroy_process_group()
    masked.train()
    assert graphs() == before


def is_compiled(trainer):
    (compiled,) = {layer._compiled_call_impl is not None for layer in trainer.model.encoder.layers}
    assert ("layers compiled by torch" in trainer.describe()) == compiled
    return compiled


def test_a_config_for_gpus_compiles_nothing_on_a_cpu(tmp_path, monkeypatch):
    trainer = contrastive(tmp_path, torch_compile=True)
    assert not is_compiled(trainer)
    monkeypatch.setattr(type(trainer.args), "device", torch.device("cuda"))
    assert trainer.args.compiles


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler")
def test_inductors_code_equals_uncompiled(tmp_path):
    plain, fused = contrastive(tmp_path), contrastive(tmp_path, torch_compile_backend="inductor")
    plain.train()
    fused.train()
    assert is_compiled(fused) and torch._dynamo.utils.counters["inductor"]
    for key in ("loss", "grad_norm", "accuracy"):
        assert logged(fused, key) == pytest.approx(logged(plain, key), rel=1e-4)


def test_layers_of_an_embedder_are_found_without_a_trainer():
    embedder = torch.nn.Sequential(encoder())
    assert compile_layers(embedder, "eager") == 2
    assert all(layer._compiled_call_impl is not None for layer in embedder[0].encoder.layers)
    assert embedder[0].state_dict().keys() == encoder().state_dict().keys()
