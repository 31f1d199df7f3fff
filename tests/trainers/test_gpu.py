"""Trainers, GradCache, encoding and compiled layers on a GPU, each compared with a CPU or with itself: `make gpu`."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("datasets")

from nomic_bert import NomicBertModel
from nomic_bert.compiling import compile_layers
from nomic_bert.embedder import load_embedder
from nomic_bert.encoding import encode_by_tokens
from tests.checkpoints import save_nomic
from tests.trainers.test_finite import SpoilTheGradient
from tests.trainers.toys import config, contrastive_trainer, encoder, logged, mlm, mlm_trainer
from trainers import latest_checkpoint
from trainers.grad_cache import PackedTexts, backward_through_chunks
from trainers.losses import info_nce

pytestmark = pytest.mark.gpu  # all of the file: mark.gpu
CUDA = {"use_cpu": False, "bf16": True}
TEXTS = ["a", "long text " * 40, "b c", "", "abc " * 30, "middle sized text", "words " * 200]


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 30, (24,), generator=generator)
    return PackedTexts(torch.randint(5, 95, (int(lengths.sum()),), generator=generator), lengths, torch.device("cuda"))


def loss_function(pooled):
    embeddings = F.normalize(pooled, dim=-1)
    return info_nce(embeddings[:12], embeddings[12:], torch.arange(12, device=pooled.device))


def step(model, texts, chunk_tokens):
    """The gradient of a step, as one vector on the host."""
    model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        backward_through_chunks(model, texts, loss_function, chunk_tokens)
    return torch.cat([weight.grad.flatten() for weight in model.parameters()]).cpu()


@pytest.mark.parametrize("chunk_tokens", [40, 150])
def test_gradcache_equals_the_full_batch(texts, chunk_tokens):
    model = encoder().cuda().train()
    whole = step(model, texts, 10_000)
    assert (step(model, texts, chunk_tokens) - whole).norm() < 2e-2 * whole.norm()


@pytest.mark.parametrize("chunk_tokens", [100, 10_000])
def test_gradcache_waits_for_nothing(texts, chunk_tokens):
    model = encoder().cuda().train()
    step(model, texts, chunk_tokens)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            backward_through_chunks(model, texts, loss_function, chunk_tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("make", "model"),
    [(contrastive_trainer, encoder), (mlm_trainer, mlm), (partial(mlm_trainer, attend_across_documents=False), mlm)],
)
def test_a_gpu_trains_as_a_cpu_does(tmp_path, make, model):
    runs = [
        make(tmp_path / name, model(), num_train_epochs=2, optim="sgd", max_grad_norm=1.0, **settings)
        for name, settings in (("cpu", {"bf16": True}), ("cuda", CUDA))
    ]
    for run in runs:
        run.train()
    assert logged(runs[1], "loss") == pytest.approx(logged(runs[0], "loss"), rel=5e-2)
    assert logged(runs[1], "num_input_tokens_seen") == logged(runs[0], "num_input_tokens_seen")


@pytest.mark.parametrize(("make", "most"), [(contrastive_trainer, 2), (mlm_trainer, 2)])
def test_a_step_is_read_once_and_late(tmp_path, make, most):
    """Steps between two logs: the loss and norm of the step before are waited for by an event, which is no warning."""
    trainer = make(tmp_path, max_steps=6, logging_steps=6, **CUDA)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in found if "synchroniz" in str(each.message)]
    inside = [each for each in waits if "/trainers/" in each.filename or "/nomic_bert/" in each.filename]
    assert len(inside) <= most * 6, [f"{each.filename}:{each.lineno}" for each in inside]


@pytest.mark.parametrize("spoilt", [2, 4])
def test_nan_stops_a_run_before_it_is_saved(tmp_path, spoilt):
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer = contrastive_trainer(tmp_path, max_steps=4, **saving, **CUDA)
    trainer.add_callback(SpoilTheGradient(trainer.model, spoilt))
    with pytest.raises(FloatingPointError, match=f"gradient is nan at step {spoilt}"):
        trainer.train()
    assert latest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{spoilt - 1}"


def test_the_chunk_is_found_and_the_memory_holds_it(tmp_path, capsys):
    trainer = contrastive_trainer(tmp_path, chunk_tokens=None, max_steps=2, **CUDA)
    trainer.train()
    assert "(fit the free memory)" in capsys.readouterr().out
    assert trainer._chunk_tokens > 16_384 and math.isfinite(logged(trainer, "loss")[-1])


def test_compiled_training_equals_uncompiled(tmp_path):
    runs = [contrastive_trainer(tmp_path, max_steps=3, optim="sgd", torch_compile=on, **CUDA) for on in (False, True)]
    for run in runs:
        run.train()
    assert torch._dynamo.utils.counters["inductor"]
    for key in ("loss", "grad_norm"):
        assert logged(runs[1], key) == pytest.approx(logged(runs[0], key), rel=2e-2)


@pytest.mark.parametrize("compiled", [False, True])
def test_embeddings_are_those_of_a_cpu(tmp_path, compiled):
    path = save_nomic(tmp_path / "model")
    expected = encode_by_tokens(load_embedder(path, device="cpu"), TEXTS)
    embedder = load_embedder(path, device="cuda", dtype=torch.bfloat16)
    if compiled:
        compile_layers(embedder)
    for budget in (64, None):
        found = encode_by_tokens(embedder, TEXTS, tokens_per_batch=budget)
        assert np.abs(found - expected).max() < 3e-2


def test_a_score_on_a_gpu_is_that_of_a_cpu():
    ids = torch.randint(5, 95, (4, 64))
    labels = torch.where(torch.rand(ids.shape) < 0.5, ids, -100)
    model = mlm()
    expected = model(ids, labels=labels, score_only=True)
    with torch.autocast("cuda", torch.bfloat16):
        found = model.cuda()(ids.cuda(), labels=labels.cuda(), score_only=True)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=2e-2)


def test_compiled_layers_take_texts_of_any_lengths_without_compiling_anew():
    model = NomicBertModel(config()).cuda().to(torch.bfloat16).eval()
    compile_layers(model)
    with torch.inference_mode():
        for tokens in (37, 1, 2, 300):
            row, offsets = torch.full((1, tokens), 7, device="cuda"), torch.tensor([0, tokens], dtype=torch.int32)
            if tokens == 37:
                model(input_ids=row, cu_seq_lens_q=offsets)
            with torch._dynamo.config.patch(error_on_recompile=True):
                model(input_ids=row, cu_seq_lens_q=offsets)
