"""The released checkpoints load by name, without code from a repository, and compute what native transformers does.

At full size: 137M parameters, two weight files of about 0.6 GB in a temporary directory while this file runs.
"""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
from transformers.models.nomic_bert import NomicBertConfig as NativeConfig
from transformers.models.nomic_bert import NomicBertModel as NativeModel

from nomic_bert import NomicBertForMaskedLM, NomicBertModel
from nomic_bert.embedder import load_embedder
from tests.nomic_bert.released import EMBEDDERS, HIDDEN, MASKED_LM, in_hub_cache, save_weights
from tests.tensors import assert_close

# Of token vectors, whose elements are of size 1. With these weights SDPA and eager attention differ by up to 7e-5.
TOLERANCE = 1e-3
V1_5 = "nomic-ai/nomic-embed-text-v1.5"
WORDS = ("the", "model", "reads", "a", "long", "text", "about", "river", "bridge", "and", "people", "of", "town", ",")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    directory = tmp_path_factory.mktemp("released")
    files = save_weights(directory)
    yield files
    torch.set_num_threads(threads)
    for file in files.values():
        file.unlink()


@pytest.fixture
def no_remote_code(monkeypatch):
    """Any attempt to find a class in a repository's code fails, before that repository is asked for."""

    def refuse(reference, *_, **__):
        raise AssertionError(f"the code {reference} was asked for")

    monkeypatch.setattr("transformers.dynamic_module_utils.get_cached_module_file", refuse)


def native(weights, **rope):
    """transformers' own model, with the numbers of the paper and none of this package's code."""
    rope_parameters = {"rope_type": "default", "rope_theta": 1000.0, **rope}
    config = NativeConfig(max_position_embeddings=2048, rope_parameters=rope_parameters)
    # a directory with a configuration of its own: the released one says nothing to native transformers
    directory = weights["embedder"].parent / "native"
    directory.mkdir(exist_ok=True)
    config.save_pretrained(directory)
    link = directory / "model.safetensors"
    if not link.is_symlink():
        link.symlink_to(weights["embedder"])
    model, info = NativeModel.from_pretrained(
        directory, config=config, add_pooling_layer=False, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def text_of(tokens):
    """A text that is this many tokens with [CLS] and [SEP]; every word of it is one token."""
    generator = torch.Generator().manual_seed(tokens)
    return " ".join(WORDS[index] for index in torch.randint(len(WORDS), (tokens - 2,), generator=generator).tolist())


def ids_of(embedder, text):
    return embedder.tokenizer(text, return_tensors="pt")["input_ids"]


def token_vectors(embedder, text):
    return embedder.encode(text, output_value="token_embeddings", convert_to_tensor=True).cpu()


@torch.no_grad()
def test_every_embedder_loads_by_name_through_every_door(weights, no_remote_code):
    stored = load_file(weights["embedder"])
    ids = torch.tensor([[101, 2023, 2003, 3231, 102]])
    expected = native(weights)(ids)[0]
    for name in EMBEDDERS:
        with in_hub_cache(name, weights):
            model = AutoModel.from_pretrained(name).eval()
            config = model.config
            assert type(model) is NomicBertModel
            assert (config.n_positions, config.max_trained_positions, config.pad_token_id) == (8192, 2048, 0), name
            assert config.rotary_scaling_factor is None, name
            assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
                key: tensor.shape for key, tensor in stored.items()
            }
            assert_close(model(ids)[0], expected, TOLERANCE)
            del model
            scaled = AutoModel.from_pretrained(name, rotary_scaling_factor=2).config
            assert (scaled.rotary_scaling_factor, scaled.max_trained_positions) == (2, 2048), name


@torch.no_grad()
def test_the_masked_language_model_loads_by_name(weights, no_remote_code):
    ids = torch.tensor([[101, 2023, 103, 3231, 102]])
    hidden = native(weights)(ids)[0]
    head = load_file(weights["masked_lm"])
    transformed = F.silu(hidden @ head["cls.predictions.transform.dense.weight"].T)
    gain, bias = (head[f"cls.predictions.transform.layer_norm.{kind}"] for kind in ("weight", "bias"))
    transformed = F.layer_norm(transformed, (HIDDEN,), gain, bias, eps=1e-12)
    expected = transformed @ head["cls.predictions.decoder.weight"].T
    with in_hub_cache(MASKED_LM, weights):
        model = NomicBertForMaskedLM.from_pretrained(MASKED_LM).eval()
        assert (model.config.n_positions, model.config.hidden_dropout_prob) == (2048, 0.1)
        assert_close(model(ids).logits, expected, TOLERANCE)
        assert_close(AutoModel.from_pretrained(MASKED_LM).eval()(ids)[0], hidden, TOLERANCE)


@torch.no_grad()
def test_embedders_by_name_encode_as_native_transformers_does(weights, no_remote_code):
    reference = native(weights)
    with in_hub_cache(V1_5, weights):
        ours = load_embedder(V1_5, device="cpu")
        theirs = SentenceTransformer(V1_5, device="cpu")
        scaled = load_embedder(V1_5, device="cpu", rotary_scaling_factor=2)
    assert type(theirs[0].auto_model) is NomicBertModel
    assert ours.max_seq_length == theirs.max_seq_length == 8192
    for tokens in (5, 300):
        text = text_of(tokens)
        ids = ids_of(ours, text)
        assert ids.shape == (1, tokens)
        found = token_vectors(ours, text)
        assert_close(found, reference(ids)[0][0], TOLERANCE)
        # to the trained length the scaling does nothing at all
        assert torch.equal(token_vectors(scaled, text), found)
    text = text_of(5)
    mean = reference(ids_of(ours, text))[0][0].mean(0)
    for embedder in (ours, theirs):  # the released files name no unit length
        assert_close(torch.from_numpy(embedder.encode(text)), mean, TOLERANCE)


def check_beyond_the_trained_length(weights, tokens):
    """Scaled as native dynamic NTK scales a single text; without the scaling, far from it."""
    with in_hub_cache(V1_5, weights):
        plain = load_embedder(V1_5, device="cpu")
        scaled = load_embedder(V1_5, device="cpu", rotary_scaling_factor=2)
    text = text_of(tokens)
    ids = ids_of(plain, text)
    assert ids.shape == (1, tokens)
    found = token_vectors(scaled, text)
    expected = native(weights, rope_type="dynamic", factor=2.0)(ids)[0][0]
    error = (found - expected).abs().max().item()
    moved = (found - token_vectors(plain, text)).abs().max().item()
    print(f"{tokens} tokens: error {error:.1e}, moved {moved:.2f}, {moved / TOLERANCE:,.0f} times the tolerance")
    assert error <= TOLERANCE
    assert moved >= 100 * TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_beyond_the_trained_length_the_scaling_is_native_dynamic_ntk(weights):
    check_beyond_the_trained_length(weights, 2304)


@pytest.mark.long
@torch.no_grad()
def test_at_the_usable_length_the_scaling_is_native_dynamic_ntk(weights):
    check_beyond_the_trained_length(weights, 8192)
