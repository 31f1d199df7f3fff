"""`torch_compile` compiles each layer, once for all shapes."""

import shutil

import pytest
import torch

from tests.trainers.toys import contrastive_trainer, encoder, logged, mlm, mlm_trainer

MAKERS = {"mlm": (mlm_trainer, mlm), "contrastive": (contrastive_trainer, encoder)}


def trained(tmp_path, stage, **settings):
    make, model = MAKERS[stage]
    # inside documents of many lengths, every batch has a shape and a layout of its own
    own = {"attend_across_documents": False} if stage == "mlm" else {"max_grad_norm": 1.0}
    trainer = make(tmp_path, model(), num_train_epochs=2, optim="sgd", **own, **settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize("stage", list(MAKERS))
def test_no_batch_is_compiled_anew_and_weights_keep_their_names(tmp_path, stage):
    """aot_eager traces as inductor does and needs no C++ compiler; the shapes of steps differ."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    names = list(MAKERS[stage][1]().state_dict())
    trainer = trained(tmp_path, stage, torch_compile_backend="aot_eager", eval_strategy="epoch")
    first = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert first > 0
    trainer.args.num_train_epochs = 4  # other shapes
    with torch._dynamo.config.patch(error_on_recompile=True):
        trainer.train()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == first
    assert list(trainer.model.state_dict()) == names
    assert not isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("stage", list(MAKERS))
def test_compiled_training_equals_uncompiled(tmp_path, stage):
    torch._dynamo.reset()
    plain, compiled = trained(tmp_path, stage), trained(tmp_path, stage, torch_compile=True)
    assert torch._dynamo.utils.counters["inductor"]
    for key in ("loss", "grad_norm", "accuracy"):
        assert logged(compiled, key) == pytest.approx(logged(plain, key), rel=1e-4)
    expected = plain.model.state_dict()
    for name, value in compiled.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
