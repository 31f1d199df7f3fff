import copy
import json
import runpy

import pytest
import torch
import transformers

from nomic_bert import NomicBertConfig, NomicBertModel, configuration_nomic_bert
from nomic_bert.configuration_nomic_bert import _FIELDS, MINIMUM_TRANSFORMERS

# The keys of the released configurations, with the values that the authors' repositories hold.
GPT2_KEYS = {
    "activation_function": "swiglu",
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "eos_token_id": None,
    "fused_bias_fc": True,
    "fused_dropout_add_ln": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.0,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "use_flash_attn": True,
    "use_rms_norm": False,
    "use_xentropy": True,
    "vocab_size": 30528,
}
RELEASED = {
    "nomic-bert-2048": {**GPT2_KEYS, "embd_pdrop": 0.1, "n_positions": 2048},
    "nomic-embed-text-v1": {**GPT2_KEYS, "max_position_embeddings": 8192},
    "nomic-embed-text-v1.5": {
        **GPT2_KEYS,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    },
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_key_sets_are_read_as_they_are(name):
    config = NomicBertConfig(**RELEASED[name])
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (768, 12, 3072)
    assert config.max_trained_positions == 2048
    assert config.n_positions == config.max_position_embeddings == RELEASED[name]["n_positions"]
    assert config.rotary_scaling_factor is None
    assert config.layer_norm_eps == 1e-12
    assert config.hidden_dropout_prob == 0.0


def test_defaults_are_the_papers():
    config = NomicBertConfig()
    assert (config.rotary_scaling_factor, config.rotary_scaling_type) == (2.0, "dynamic")
    dropouts = (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.embd_pdrop)
    assert dropouts == (0.0, 0.0, 0.0)
    assert (config.vocab_size, config.rotary_emb_base) == (30528, 1000.0)


def test_both_vocabularies_are_written_and_reload_equal(tmp_path):
    config = NomicBertConfig(n_embd=96, num_attention_heads=6, intermediate_size=64, max_trained_positions=128)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for native, released in [
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("intermediate_size", "n_inner"),
        ("layer_norm_eps", "layer_norm_epsilon"),
        ("hidden_dropout_prob", "resid_pdrop"),
        ("max_trained_positions", "max_position_embeddings"),
    ]:
        assert written[native] == written[released]
    assert written["rope_parameters"] == {"rope_type": "default", "rope_theta": 1000.0}, (
        "others would scale short texts"
    )
    assert written["pad_token_id"] == 0
    assert set(written["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForMaskedLM",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
        "AutoModelForQuestionAnswering",
        "AutoModelForMultipleChoice",
        "AutoModelForTextEncoding",
    }
    assert NomicBertConfig.from_pretrained(tmp_path) == config
    assert NomicBertConfig.from_pretrained(tmp_path) != NomicBertConfig()


def test_native_transformers_reads_the_same_shape(tmp_path):
    config = NomicBertConfig(hidden_size=96, num_attention_heads=6, max_trained_positions=128)
    config.save_pretrained(tmp_path)
    native = transformers.models.nomic_bert.NomicBertConfig.from_pretrained(tmp_path)
    for field in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "layer_norm_eps"):
        assert getattr(native, field) == getattr(config, field)
    assert native.max_position_embeddings == 128
    assert native.rope_parameters == config.rope_parameters


def test_native_configuration_is_read(tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
    native = transformers.models.nomic_bert.NomicBertConfig(
        hidden_size=96, num_attention_heads=6, max_position_embeddings=128, rope_parameters=rope
    )
    native.save_pretrained(tmp_path)
    config = NomicBertConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.max_trained_positions) == (96, 128)
    assert (config.rotary_emb_base, config.rotary_scaling_type, config.rotary_scaling_factor) == (
        500.0,
        "linear",
        4.0,
    )


def test_scaling_factor_decides_where_present_null_included():
    dynamic = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 4.0}
    assert NomicBertConfig(rope_parameters=dynamic).rotary_scaling_factor == 4.0
    assert NomicBertConfig(rope_parameters=dynamic, rotary_scaling_factor=None).rotary_scaling_factor is None
    assert NomicBertConfig(rope_parameters={"rope_type": "default"}).rotary_scaling_factor is None
    switched_on = NomicBertConfig.from_dict(dict(RELEASED["nomic-embed-text-v1.5"]), rotary_scaling_factor=2)
    assert switched_on.rotary_scaling_factor == 2 and switched_on.rotary_scaling_type == "dynamic"


@pytest.mark.parametrize("scaling", ["dynamic", "linear", "ntk"])
def test_every_scaling_survives_a_round_trip(tmp_path, scaling):
    config = NomicBertConfig(rotary_scaling_type=scaling, rotary_scaling_factor=3.0)
    config.save_pretrained(tmp_path)
    assert NomicBertConfig.from_pretrained(tmp_path) == config


def test_a_resized_vocabulary_reloads(tmp_path):
    NomicBertConfig(vocab_size=1001).save_pretrained(tmp_path)
    assert NomicBertConfig.from_pretrained(tmp_path).vocab_size == 1001


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n_embd": 64, "hidden_size": 128}, ["n_embd=64", "hidden_size=128"]),
        ({"layer_norm_eps": 1e-12, "layer_norm_epsilon": 1e-5}, ["layer_norm_eps", "layer_norm_epsilon"]),
        (
            {"rotary_emb_base": 10000, "rope_parameters": {"rope_theta": 1000.0}},
            ["rotary_emb_base", "rope_theta"],
        ),
        ({"activation_function": "gelu"}, ["activation_function"]),
        ({"qkv_proj_bias": True}, ["qkv_proj_bias"]),
        ({"prenorm": True}, ["prenorm"]),
        ({"rotary_emb_fraction": 0.5}, ["rotary_emb_fraction"]),
        ({"num_experts": 8}, ["num_experts"]),
        ({"hidden_size": 100, "num_attention_heads": 12}, ["hidden_size", "num_attention_heads"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers"]),
        ({"resid_pdrop": 1.5}, ["hidden_dropout_prob"]),
        ({"rotary_scaling_type": "yarn"}, ["rotary_scaling_type"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, ["rope_type", "yarn"]),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1000.0}}, ["linear", "factor"]),
        ({"rope_parameters": {"rope_type": "dynamic"}}, ["dynamic", "factor"]),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["partial_rotary_factor=0.5"]),
        ({"pad_token_id": 40000}, ["pad_token_id"]),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(fields, named):
    with pytest.raises(ValueError) as error:
        NomicBertConfig(**fields)
    assert all(name in str(error.value) for name in named)


def test_rope_parameters_cannot_be_set_apart_from_their_source():
    config = NomicBertConfig(rotary_scaling_type="linear")
    for value in ({**config.rope_parameters, "rope_theta": 5.0}, {**config.rope_parameters, "extra": 1}, {}):
        with pytest.raises(ValueError, match="derived"):
            config.rope_parameters = value

    def assign(rope):
        rope["factor"] = 4.0

    changes = [
        assign,
        lambda rope: rope.update(factor=4.0),
        lambda rope: rope.setdefault("attention_factor", 2.0),
        lambda rope: rope.__ior__({"rope_theta": 5.0}),
        lambda rope: rope.update({"partial_rotary_factor": 0.5}),
    ]
    for change in changes:  # would be lost in silence
        with pytest.raises(ValueError, match="rotary_scaling_factor"):
            change(config.rope_parameters)
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}
    assert type(copy.deepcopy(config.rope_parameters)) is dict


def test_transformers_standardizes_rope_parameters_as_vllm_has_it_do():
    for scaling in ("dynamic", "linear", "ntk"):
        config = NomicBertConfig(rotary_scaling_type=scaling)
        before = dict(config.rope_parameters)
        config.partial_rotary_factor = 1.0
        config.standardize_rope_params()
        config.rope_parameters = {**config.rope_parameters, "partial_rotary_factor": 1.0}
        assert config.rope_parameters == before


def test_max_position_embeddings_is_the_usable_length_in_python_and_the_trained_one_in_the_file(tmp_path):
    config = NomicBertConfig(max_trained_positions=128, n_positions=512)
    assert config.max_position_embeddings == 512
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 128
    for opened in (NomicBertConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert opened == config and opened.max_position_embeddings == 512
    config.max_position_embeddings = 1024
    assert (config.n_positions, config.max_trained_positions) == (1024, 128)


@pytest.mark.parametrize(
    ("written", "rows"),
    [
        ({"vocab_size": 1000, "pad_vocab_size_multiple": 64}, 1024),
        ({"vocab_size": 1024, "pad_vocab_size_multiple": 64}, 1024),
        ({"vocab_size": 1000, "pad_vocab_size_multiple": 1}, 1000),
        ({"vocab_size": 1000, "pad_vocab_size_multiple": None}, 1000),
        ({"vocab_size": 1000}, 1000),
        ({"vocab_size": 1000, "pad_vocab_size_multiple": 7}, 1001),
    ],
)
def test_a_vocabulary_has_the_rows_that_the_authors_code_makes_of_it(tmp_path, written, rows):
    NomicBertConfig(**written).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["vocab_size"] == rows and rows % saved["pad_vocab_size_multiple"] == 0, "so they open it again"
    assert NomicBertConfig.from_pretrained(tmp_path).vocab_size == rows


@pytest.mark.parametrize(
    ("written", "inner"),
    [
        ({"n_inner": 1000}, 1024),
        ({"n_inner": 1024}, 1024),
        ({"n_inner": None, "n_embd": 768}, 2048),  # int(8 * 768 / 3)
        ({"n_inner": None, "n_embd": 96}, 256),
        ({"n_inner": 1000, "intermediate_size": 1000}, 1000),  # as we write it
        ({"intermediate_size": 1000}, 1000),
        ({}, 3072),
    ],
)
def test_swiglu_has_the_width_that_the_authors_code_makes_of_it(tmp_path, written, inner):
    config = NomicBertConfig(**written)
    assert config.intermediate_size == inner
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["n_inner"] == inner
    assert NomicBertConfig.from_pretrained(tmp_path).intermediate_size == inner


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, "2", True])
@pytest.mark.parametrize("field", ["rotary_scaling_factor", "rotary_emb_base", "layer_norm_eps", "resid_pdrop"])
def test_numbers_that_are_none_are_refused_at_construction(field, bad):
    with pytest.raises(ValueError, match="hidden_dropout_prob" if field == "resid_pdrop" else field):
        NomicBertConfig(**{field: bad})


@pytest.mark.parametrize("field", sorted({*NomicBertConfig().to_diff_dict(), "dtype"} - {"architectures", "auto_map"}))
def test_whatever_stands_in_a_field_is_taken_or_named(tmp_path, field):
    """Never an error from inside of torch or transformers, which would not say what to correct."""
    NomicBertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    names = {field, *next((others for name, (_, others) in _FIELDS.items() if name == field), ())}
    names |= {name for name, (_, others) in _FIELDS.items() if field in others}
    for bad in (-1, 0, 10**12, 1.5, "x", True, [1], {"a": 1}, float("nan")):
        file.write_text(json.dumps(good | {field: bad}))
        try:
            config = NomicBertConfig.from_pretrained(tmp_path)
        except ValueError as error:
            assert any(name in str(error) for name in names), (bad, error)  # noqa: PT017
        else:
            if config.num_hidden_layers < 10:
                with torch.device("meta"):
                    NomicBertModel(config)


@pytest.mark.parametrize("version", ["3.9.0", "4.37.2"])
def test_too_old_a_transformers_is_refused_in_one_line(version, monkeypatch):
    monkeypatch.setattr("transformers.__version__", version)
    with pytest.raises(ImportError, match=f"^.*needs transformers {MINIMUM_TRANSFORMERS} or newer; {version}.*$"):
        runpy.run_path(configuration_nomic_bert.__file__)
