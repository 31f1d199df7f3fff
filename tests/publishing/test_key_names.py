"""What converters and servers read from a directory that `save_embedder` writes, by hand from their sources.

None of these programs runs here. Each test states what one of them requires, and cites where: a file of its source, or
a thread where a user met the failure. The architecture is the paper's; only the sizes are small.
"""

import json

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer
from transformers.models.nomic_bert import NomicBertConfig as NativeConfig

from nomic_bert import NomicBertConfig, NomicBertForMaskedLM
from nomic_bert.embedder import load_embedder, save_embedder
from tests.checkpoints import SPECIAL, save_as_berts

WIDTH, LAYERS, HEADS, INNER, VOCABULARY = 32, 2, 2, 64, 64


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A masked language model's checkpoint with a WordPiece tokenizer, used once with a cut, then written."""
    root = tmp_path_factory.mktemp("key-names")
    torch.manual_seed(0)
    config = NomicBertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=INNER,
    )  # fmt: skip
    NomicBertForMaskedLM(config).save_pretrained(root / "checkpoint")
    words = [*SPECIAL, *(chr(code) for code in range(ord("a"), ord("z") + 1)), "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    save_as_berts(tokenizer, root / "checkpoint")
    embedder = load_embedder(root / "checkpoint", device="cpu")
    embedder.encode(["a b c", "a"], batch_size=2)
    embedder.tokenizer(["a b c d", "a"], truncation=True, max_length=3, padding="max_length")
    save_embedder(embedder, root / "written")
    return root / "written"


@pytest.fixture(scope="module")
def read(directory):
    return lambda name: json.loads((directory / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def config(read):
    return read("config.json")


@pytest.fixture(scope="module")
def shapes(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def released_tensors():
    """The released names and shapes, written out; llama.cpp and vLLM stop at any tensor that they do not know."""
    tensors = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "emb_ln.weight": (WIDTH,),
        "emb_ln.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        tensors |= {
            f"encoder.layers.{layer}.attn.Wqkv.weight": (3 * WIDTH, WIDTH),
            f"encoder.layers.{layer}.attn.out_proj.weight": (WIDTH, WIDTH),
            f"encoder.layers.{layer}.norm1.weight": (WIDTH,),
            f"encoder.layers.{layer}.norm1.bias": (WIDTH,),
            f"encoder.layers.{layer}.mlp.fc11.weight": (INNER, WIDTH),
            f"encoder.layers.{layer}.mlp.fc12.weight": (INNER, WIDTH),
            f"encoder.layers.{layer}.mlp.fc2.weight": (WIDTH, INNER),
            f"encoder.layers.{layer}.norm2.weight": (WIDTH,),
            f"encoder.layers.{layer}.norm2.bias": (WIDTH,),
        }
    return tensors


def test_the_weights_are_one_safetensors_file_of_the_released_names(directory, shapes):
    assert shapes == released_tensors()
    weights = {path.name for path in directory.rglob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pkl")}
    assert weights == {"model.safetensors"}


# --- llama.cpp, convert_hf_to_gguf.py; since 2026 conversion/bert.py and conversion/base.py -------------------------

# conversion/bert.py, NomicBertModel.__init__: compared with `==` or `is`; a missing key is a KeyError
LLAMA_CPP = {
    "activation_function": "swiglu", "causal": False, "qkv_proj_bias": False, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "prenorm": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}  # fmt: skip


def test_llama_cpp_finds_the_architecture(config):
    assert config["architectures"] == ["NomicBertModel"]  # the class that the converter looks up is by this name
    assert {key: config[key] for key in LLAMA_CPP} == LLAMA_CPP
    assert all(config[key] is LLAMA_CPP[key] for key in ("causal", "prenorm", "rotary_emb_interleaved"))
    assert not config.get("moe_every_n_layers")  # else the mixture of experts
    # "unrecognized parameters" for any other pair but (2048, 2048), which it takes for another model, of 512 tokens
    assert (config["n_positions"], config["max_trained_positions"]) == (8192, 2048)


def test_llama_cpp_finds_the_numbers_under_the_first_name_it_tries(config):
    # conversion/base.py, TextModel.set_gguf_parameters and find_hparam: the first of these names that is there
    first = lambda *names: next(config[name] for name in names if name in config)  # noqa: E731
    assert config.get("max_position_embeddings", 2048) == 2048  # before n_positions, which it sets to 2,048 itself
    assert first("hidden_size", "n_embd") == config["n_embd"] == WIDTH
    assert first("intermediate_size", "n_inner") == config["n_inner"] == INNER
    assert first("num_attention_heads", "n_head") == config["n_head"] == HEADS
    assert first("n_layers", "num_hidden_layers", "n_layer") == config["n_layer"] == LAYERS
    assert first("layer_norm_eps", "layer_norm_epsilon") == config["layer_norm_epsilon"] == 1e-12
    assert config["rotary_emb_base"] == config["rope_parameters"]["rope_theta"] == 1000.0
    assert config["type_vocab_size"] == 2  # BertModel.set_vocab
    assert "id2label" not in config  # BertModel.__init__ would write the labels of a classifier


def test_llama_cpp_reads_the_same_through_native_transformers(directory, config):
    # conversion/base.py, ModelBase.load_hparams: AutoConfig without remote code, then to_dict
    native = NativeConfig.from_pretrained(directory).to_dict()
    keys = [*LLAMA_CPP, "n_positions", "max_trained_positions", "n_layer", "rotary_emb_base", "vocab_size"]
    assert {key: native[key] for key in keys} == {key: config[key] for key in keys}
    assert (native["hidden_size"], native["num_hidden_layers"], native["intermediate_size"]) == (WIDTH, LAYERS, INNER)


def test_llama_cpp_finds_the_pooling(read):
    # conversion/base.py, TextModel._try_set_pooling_type: this type exactly, then these keys, mean first
    pooling = [module for module in read("modules.json") if module["type"] == "sentence_transformers.models.Pooling"]
    assert [module["path"] for module in pooling] == ["1_Pooling"]
    assert read("1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    # conversion/bert.py: a Dense module right after the encoder would be another kind of model
    assert not read("modules.json")[1]["type"].endswith("Dense")


def test_llama_cpp_finds_the_vocabulary(directory, read, config):
    content = read("tokenizer.json")
    assert content["model"]["type"] == "WordPiece"  # conversion/bert.py, _is_tokenizer_xlmroberta: this or Unigram
    # get_vocab_base: the tokenizer through AutoTokenizer, its ids below vocab_size
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert max(tokenizer.get_vocab().values()) < config["vocab_size"]
    # gguf-py/gguf/vocab.py, SpecialVocab: <kind>_token in tokenizer_config.json, its id in added_tokens
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    settings = read("tokenizer_config.json")
    assert {kind: added[settings[f"{kind}_token"]] for kind in ("pad", "unk", "cls", "sep", "mask")} == {
        "pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4,
    }  # fmt: skip


# --- vLLM, vllm/model_executor/models/config.py, NomicBertModelConfig ------------------------------------------------


def test_vllm_accepts_the_configuration(config):
    assert config["auto_map"]["AutoConfig"].rsplit(".", 1)[-1] == "NomicBertConfig"  # the class's name is asserted
    assert NativeConfig.__name__ == "NomicBertConfig"  # what it has without remote code
    assert config["activation_function"] in ("swiglu", "gelu")
    assert config["mlp_fc1_bias"] == config["mlp_fc2_bias"] == config["qkv_proj_bias"]
    assert config["rotary_emb_scale_base"] is None and not config["rotary_emb_interleaved"]
    assert (config["layer_norm_epsilon"], config["n_inner"], config["n_embd"]) == (1e-12, INNER, WIDTH)
    assert (config["n_layer"], config["num_attention_heads"], config["max_trained_positions"]) == (LAYERS, HEADS, 2048)
    assert isinstance(config["rope_parameters"], dict)


def test_vllm_computes_plain_rotary_embeddings_to_the_trained_length(config):
    # models/config.py hands rope_parameters on as they are. layers/rotary_embedding/dynamic_ntk_scaling_rope.py scales
    # every text, the short ones too, by the square of the factor where the type is dynamic (vllm-project/vllm#41236),
    # or leaves NaN (#52665). The released v1.5 says default as well.
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1000.0}
    assert config["rotary_scaling_factor"] == 2.0  # and this is what this code goes by


def test_vllm_finds_the_pooling(read):
    # vllm/transformers_utils/config.py, get_pooling_config: the first value that is true names the pooling
    pooling = read("1_Pooling/config.json")
    assert next(key for key, value in pooling.items() if value is True) == "pooling_mode_mean_tokens"
    types = [module["type"] for module in read("modules.json")]
    assert types == [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    # get_sentence_transformer_tokenizer_config: the length, and whether it lowers the text before the tokenizer does
    settings = read("sentence_bert_config.json")
    assert (settings["max_seq_length"], settings["do_lower_case"]) == (8192, False)


# --- text-embeddings-inference ---------------------------------------------------------------------------------------

# backends/candle/src/models/nomic.rs, NomicConfig: serde without a default, so a missing key or another type fails
CANDLE = {
    "prenorm": bool, "rotary_emb_fraction": float, "qkv_proj_bias": bool, "rotary_emb_base": float,
    "rotary_emb_interleaved": bool, "mlp_fc1_bias": bool, "mlp_fc2_bias": bool, "n_embd": int, "n_head": int,
    "n_inner": int, "n_layer": int, "n_positions": int, "activation_function": str, "vocab_size": int,
    "type_vocab_size": int, "layer_norm_epsilon": float, "rotary_scaling_factor": float, "max_trained_positions": int,
}  # fmt: skip


def test_text_embeddings_inference_accepts_the_configuration(config, shapes):
    assert {key: type(config[key]) for key in CANDLE} == CANDLE
    assert config["model_type"] == "nomic_bert"  # backends/candle/src/lib.rs, the tag of `enum Config`
    assert not config["prenorm"] and config["rotary_emb_fraction"] == 1.0 and not config["rotary_emb_interleaved"]
    assert not config.get("num_experts") and config["activation_function"] == "swiglu"
    # NomicBertEmbeddings::load asks for exactly this shape, and takes padded tokens as id 0
    assert shapes["embeddings.word_embeddings.weight"] == (config["vocab_size"], config["n_embd"])
    assert shapes["embeddings.token_type_embeddings.weight"] == (config["type_vocab_size"], config["n_embd"])
    assert type(config["pad_token_id"]) is int and config["pad_token_id"] == 0  # #152: required by older routers


def test_text_embeddings_inference_router_meets_no_field_twice(config):
    # router/src/lib.rs, ModelConfig: to version 1.9.3 n_positions is another name of max_position_embeddings, and serde
    # refuses a field that comes under both (#927); later, max_trained_positions stands in for a missing one (#876)
    assert len({"n_positions", "max_position_embeddings"} & config.keys()) == 1
    assert not any(name.endswith("Classification") for name in config["architectures"])  # would be a classifier


def test_text_embeddings_inference_finds_the_pooling_and_the_length(read):
    # router/src/lib.rs, PoolConfig: booleans without a default; before 1.3 the last two were required as well
    pooling = read("1_Pooling/config.json")
    required = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    assert [pooling[f"pooling_mode_{kind}"] for kind in required] == [False, True, False, False]
    assert type(read("sentence_bert_config.json")["max_seq_length"]) is int  # STConfig
    # NewSTConfig: names and texts, for --default-prompt-name
    prompts = read("config_sentence_transformers.json")["prompts"]
    assert all(isinstance(text, str) for text in prompts.values())
    assert prompts["query"] == "search_query: " and prompts["document"] == "search_document: "


# --- the tokenizers library (text-embeddings-inference, transformers.js) and transformers 4 ---------------------------


def test_the_tokenizer_files_keep_nothing_of_one_run(directory, read):
    content = read("tokenizer.json")
    assert content["truncation"] is None and content["padding"] is None  # as the tokenizers library loads them
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert len(tokenizer.encode("a " * 5000).ids) == 5002
    settings = read("tokenizer_config.json")
    # transformers 4, models/auto/tokenization_auto.py: a class by this name must exist
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_max_length"] == 8192
    assert "auto_map" not in settings and "name_or_path" not in settings
