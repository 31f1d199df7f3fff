"""LoRA by PEFT through the contrastive trainer: trained, evaluated, saved, resumed and loaded as PEFT does it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nomic_bert import NomicBertModel
from tests.trainers.toys import StopAt, contrastive_trainer, encoder, logged, mlm_trainer
from trainers.resuming import ResumeError

peft = pytest.importorskip("peft")
TARGETS = ["Wqkv", "out_proj", "fc11", "fc12", "fc2"]
SAVING = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def base(tmp_path):
    encoder().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base, **settings):
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_dropout=0.1, target_modules=TARGETS, **settings)
    return peft.get_peft_model(NomicBertModel.from_pretrained(base), config)


def test_an_adapter_is_trained_alone_and_saved_as_peft_saves_it(tmp_path, base):
    seen = []

    def evaluator(embedder):
        seen.append(embedder.encode("word4 word5"))
        return {"calls": len(seen)}

    evaluating = {"eval_strategy": "steps", "eval_steps": 2}
    trainer = contrastive_trainer(
        tmp_path / "run", adapted(base), evaluators=[evaluator], max_steps=4, **SAVING, **evaluating
    )
    before = {name: value.clone() for name, value in NomicBertModel.from_pretrained(base).state_dict().items()}
    trainer.train()
    saved = tmp_path / "run" / "checkpoint-4"
    assert (saved / "adapter_model.safetensors").is_file() and not (saved / "model.safetensors").exists()
    assert "LORA, r 4" in json.loads((saved / "training.json").read_text())["stages"][-1]["hyperparameters"]["adapter"]
    loaded = peft.PeftModel.from_pretrained(NomicBertModel.from_pretrained(base), saved)
    merged = loaded.merge_and_unload()
    assert any(not torch.equal(value, before[name]) for name, value in merged.state_dict().items())
    with torch.no_grad():
        ids = trainer._tokenizer("word4 word5", return_tensors="pt")["input_ids"]
        expected = torch.nn.functional.normalize(merged.eval()(input_ids=ids).last_hidden_state[0].mean(0), dim=-1)
    torch.testing.assert_close(torch.from_numpy(seen[-1]), expected, rtol=1e-4, atol=1e-5)
    assert abs(seen[0] - seen[1]).max() > 1e-4  # the evaluator sees the adapter as it is at each step
    assert len(logged(trainer, "eval_loss")) == 2


def test_resumed_equals_uninterrupted(tmp_path, base):
    settings = {"max_steps": 5, **SAVING}
    whole = contrastive_trainer(tmp_path / "whole", adapted(base), **settings)
    whole.train()
    killed = contrastive_trainer(tmp_path / "killed", adapted(base), **settings)
    killed.add_callback(StopAt(3))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = contrastive_trainer(tmp_path / "killed", adapted(base), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    assert all(torch.equal(value, whole.model.state_dict()[name]) for name, value in resumed.model.state_dict().items())


def test_the_best_adapter_is_loaded_at_the_end(tmp_path, base):
    scores = iter([1.0, 0.5])
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "eval_strategy": "steps", "eval_steps": 2}
    evaluators = [lambda _: {"score": next(scores)}]
    trainer = contrastive_trainer(
        tmp_path / "run", adapted(base), evaluators=evaluators, max_steps=4, greater_is_better=True, **best, **SAVING
    )
    trainer.train()
    expected = load_file(tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors")
    found = peft.get_peft_model_state_dict(trainer.model)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_an_adapter_that_lacks_a_weight_or_differs_is_refused(tmp_path, base):
    def train(model, resume=True):
        contrastive_trainer(tmp_path / "run", model, max_steps=2, **SAVING).train(resume_from_checkpoint=resume)

    train(adapted(base), resume=False)
    with pytest.raises(ResumeError, match="model.adapter.lora_alpha was 8, is 16"):
        train(adapted(base, lora_alpha=16))
    file = tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors"
    state = load_file(file)
    del state[next(name for name in state if "fc2" in name)]
    save_file(state, file)
    with pytest.raises(ResumeError, match="missing .*fc2"):
        train(adapted(base))


def quantized():
    model = encoder()
    model.quantization_method = "bitsandbytes"
    return model


def frozen():
    model = encoder()
    model.requires_grad_(False)
    return model


def with_own_adapter():
    model = encoder()
    model.add_adapter(peft.LoraConfig(target_modules=TARGETS))
    return model


def with_eight_bits():
    model = encoder()
    layer = model.encoder.layers[0].attn.out_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    return model


def with_prompts():
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2, num_layers=2, token_dim=16,
                                     num_attention_heads=2)  # fmt: skip
    return peft.get_peft_model(encoder(), config)


def with_two():
    model = peft.get_peft_model(encoder(), peft.LoraConfig(target_modules=TARGETS))
    model.add_adapter("second", peft.LoraConfig(target_modules=TARGETS))
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (quantized, "quantized .bitsandbytes."),
        (with_eight_bits, "float8_e4m3fn"),
        (frozen, "requires_grad is false"),
        (with_own_adapter, "get_peft_model"),
        (with_prompts, "PROMPT_TUNING"),
        (with_two, "2 adapters"),
    ],
)
def test_what_cannot_be_trained_and_saved_is_refused_by_name_at_construction(tmp_path, make, named):
    for trainer in (contrastive_trainer, mlm_trainer):
        with pytest.raises(ValueError, match=named):
            trainer(tmp_path, make())
