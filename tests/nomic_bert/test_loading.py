"""What loads, what is refused, and what a checkpoint means to a process that does not have this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from nomic_bert import (
    NomicBertForMaskedLM,
    NomicBertForMultipleChoice,
    NomicBertForQuestionAnswering,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertModel,
)

HEADS = {
    "encoder": NomicBertModel,
    "masked_lm": NomicBertForMaskedLM,
    "classification": NomicBertForSequenceClassification,
    "tokens": NomicBertForTokenClassification,
    "answers": NomicBertForQuestionAnswering,
    "choices": NomicBertForMultipleChoice,
}
AUTO_CLASSES = [
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTextEncoding",
    "AutoModelForTokenClassification",
]


@pytest.fixture(params=HEADS)
def saved(request, tiny_config, tmp_path):
    torch.manual_seed(0)
    model = HEADS[request.param](tiny_config).eval()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def encoder_of(model):
    return getattr(model, "bert", model)


IDS = torch.tensor([[5, 6, 7, 8, 9]])


@torch.no_grad()
def test_any_heads_directory_opens_as_any_head_with_the_package(saved):
    model, directory = saved
    expected = encoder_of(model)(IDS)[0]
    for auto in AUTO_CLASSES:
        opened = getattr(transformers, auto).from_pretrained(directory).eval()
        assert type(opened).__module__ == "nomic_bert.modeling_nomic_bert"
        assert torch.equal(encoder_of(opened)(IDS)[0], expected)


READER = """
import sys, torch, transformers
assert "nomic_bert" not in sys.modules
ids = torch.tensor([[5, 6, 7, 8, 9]])
output, autos, directories = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
found = {}
for directory in directories:
    for auto in autos:
        model = getattr(transformers, auto).from_pretrained(directory, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        with torch.no_grad():
            found[directory, auto] = getattr(model, "bert", model)(ids)[0]
torch.save(found, output)
"""


@torch.no_grad()
def test_any_heads_directory_opens_as_any_head_without_the_package(tiny_config, tmp_path, tmp_path_factory):
    expected = {}
    for head, kind in HEADS.items():
        torch.manual_seed(len(expected))
        model = kind(tiny_config).eval()
        model.save_pretrained(tmp_path / head)
        expected[str(tmp_path / head)] = encoder_of(model)(IDS)[0]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    # -I keeps this checkout off the path; a package installed in editable mode stays importable but is not imported
    command = [sys.executable, "-I", "-c", READER, str(elsewhere / "found.pt"), ",".join(AUTO_CLASSES), *expected]
    subprocess.run(command, check=True, cwd=elsewhere)
    found = torch.load(elsewhere / "found.pt", weights_only=True)
    assert len(found) == len(expected) * len(AUTO_CLASSES)
    for (directory, _), hidden in found.items():
        torch.testing.assert_close(hidden, expected[directory], atol=1e-5, rtol=0)


def test_released_names_are_written(saved):
    model, directory = saved
    names = set(load_file(directory / "model.safetensors"))
    prefix = "" if isinstance(model, NomicBertModel) else "bert."
    encoder = {
        prefix + name
        for name in ("embeddings.word_embeddings.weight", "emb_ln.bias", "encoder.layers.1.attn.Wqkv.weight",
                     "encoder.layers.0.mlp.fc11.weight", "encoder.layers.0.norm2.weight")
    }  # fmt: skip
    assert encoder <= names
    head = {
        "NomicBertForMaskedLM": {"cls.predictions.transform.layer_norm.bias"},
        "NomicBertForSequenceClassification": {"classifier.bias", "bert.pooler.dense.bias"},
        "NomicBertForTokenClassification": {"classifier.weight", "classifier.bias"},
        "NomicBertForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
        "NomicBertForMultipleChoice": {"classifier.weight", "bert.pooler.dense.weight"},
    }
    assert head.get(type(model).__name__, set()) <= names
    assert json.loads((directory / "config.json").read_text())["architectures"] == [type(model).__name__]


def edit(directory: Path, change, **config):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**written, **config}))


def drop(key):
    return lambda weights: weights.pop(key)


def put(key, shape):
    return lambda weights: weights.update({key: torch.zeros(shape)})


@pytest.mark.parametrize("head", HEADS.values())
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop("encoder.layers.1.mlp.fc2.weight"), "missing (1): {}encoder.layers.1.mlp.fc2.weight"),
        (put("encoder.layers.2.norm1.bias", (64,)), "left over (1): encoder.layers.2.norm1.bias"),
        (
            put("encoder.layers.0.mlp.fc2.weight", (64, 64)),
            "misshapen (1): {}encoder.layers.0.mlp.fc2.weight",
        ),
    ],
)
def test_a_partly_random_encoder_is_refused_and_listed(tiny_model, tmp_path, head, change, named):
    tiny_model.save_pretrained(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError) as error:
        head.from_pretrained(tmp_path)
    assert named.format("" if head is NomicBertModel else "bert.") in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_weights_of_another_architecture_are_refused_and_listed(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    bert = {"bert.encoder.layer.0.attention.self.query.weight": torch.zeros(64, 64)}
    save_file(bert, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.attn\.Wqkv.*left over.*attention\.self\.query"):
        NomicBertModel.from_pretrained(tmp_path)


def test_a_head_is_resized_only_when_asked(tiny_config, tmp_path):
    tiny_config.num_labels = 3
    NomicBertForSequenceClassification(tiny_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="misshapen.*classifier"):
        NomicBertForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    with pytest.raises(RuntimeError, match="classifier"):  # what transformers raises
        NomicBertForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    resized = NomicBertForSequenceClassification.from_pretrained(tmp_path, num_labels=1, ignore_mismatched_sizes=True)
    assert resized.classifier.weight.shape == (1, 64)


def test_fields_set_while_loading_are_checked(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_size=63"):
        NomicBertModel.from_pretrained(tmp_path, n_embd=63)
    assert NomicBertModel.from_pretrained(tmp_path, rotary_scaling_factor=None).config.rotary_scaling_factor is None


def test_safe_serialization_is_taken_as_public_code_passes_it(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    for value in (True, False):
        opened = NomicBertModel.from_pretrained(tmp_path, safe_serialization=value)
        assert torch.equal(opened.emb_ln.weight, tiny_model.emb_ln.weight)


@pytest.mark.parametrize("head", HEADS.values())
def test_a_vocabulary_that_the_authors_code_rounds_up_loads_in_every_head(tiny_config, tmp_path, head):
    tiny_config.vocab_size = 1024
    model = head(tiny_config)
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "vocab_size": 1000, "pad_vocab_size_multiple": 64}))
    opened, info = head.from_pretrained(tmp_path, output_loading_info=True)
    assert opened.config.vocab_size == 1024 and not any(info.values())
    assert opened.get_input_embeddings().weight.shape[0] == 1024
    if head is NomicBertForMaskedLM:
        assert opened(IDS).logits.shape[-1] == 1024


# What transformers 4.38 to 4.51 and torch 2.6 do not have, and how a head is made there.
OLDER = """
import sys, torch, transformers, transformers.modeling_utils as utils
sys.modules["transformers.modeling_layers"] = None
functions = vars(utils).pop("ALL_ATTENTION_FUNCTIONS")
from nomic_bert import NomicBertForTokenClassification, attention_nomic_bert, layers_nomic_bert, unpadding_nomic_bert
assert layers_nomic_bert.GradientCheckpointingLayer is torch.nn.Module
assert not attention_nomic_bert.ALL_ATTENTION_FUNCTIONS
utils.ALL_ATTENTION_FUNCTIONS = functions  # transformers' own
transformers.__version__ = "4.38.0"
model = NomicBertForTokenClassification.from_pretrained(sys.argv[1]).eval()
for module in model.modules():
    for parameter in module.parameters(recurse=False):
        parameter.data.fill_(torch.nan)
    model._init_weights(module)
assert not model.bert.embeddings.word_embeddings.weight[0].any() and model.bert.emb_ln.weight.min() == 1
assert 0.1 < model.classifier.weight.std() < 0.3 and not model.classifier.bias.any()
assert all(parameter.isfinite().all() for parameter in model.parameters())
exporting = vars(torch.compiler).pop("is_exporting")
assert not unpadding_nomic_bert.exports()
torch.compiler.is_exporting = exporting  # torch's own kernels ask it
model(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
"""


def test_what_older_transformers_and_torch_lack_is_not_needed(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    subprocess.run([sys.executable, "-c", OLDER, str(tmp_path)], check=True)
