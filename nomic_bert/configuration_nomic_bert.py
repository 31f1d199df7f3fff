"""Configuration of Nomic BERT: one set of fields, written under every name that its readers look for.

A released checkpoint names its fields as GPT-2 does (`n_embd`, `rotary_emb_base`, ...), native transformers names
them as BERT does (`hidden_size`, `rope_parameters`, ...). Both are accepted and both are written, so that one
`config.json` serves this code, native transformers, the authors' code, and the servers and converters that read
released checkpoints.
"""

import math
from typing import Any

import transformers
from transformers import PretrainedConfig

# The oldest transformers that these files are tested with; the package itself needs the one in pyproject.toml.
MINIMUM_TRANSFORMERS = "4.38"
if [int(part) for part in transformers.__version__.split(".")[:2]] < [4, 38]:
    raise ImportError(
        f"Nomic BERT needs transformers {MINIMUM_TRANSFORMERS} or newer; {transformers.__version__} is installed. "
        "Run: pip install --upgrade transformers"
    )

# Field -> (default, the other names under which it is read and written). Shapes are those of nomic-bert-2048.
# paper §4.1.2 unless another source is named.
_FIELDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "vocab_size": (30528, ()),  # bert-base-uncased's 30,522 rounded up to a multiple of 64
    "hidden_size": (768, ("n_embd",)),
    "num_hidden_layers": (12, ("n_layer",)),
    "num_attention_heads": (12, ("n_head",)),
    "intermediate_size": (3072, ("n_inner",)),
    "type_vocab_size": (2, ()),
    "max_trained_positions": (2048, ()),  # written again as max_position_embeddings, which is read with more care
    "n_positions": (8192, ()),
    "rotary_emb_base": (1000.0, ()),  # paper §3.4
    "rotary_scaling_factor": (2.0, ()),  # paper §3.5.2: alpha of Eq. 5; the released v1.5 config has null
    "rotary_scaling_type": ("dynamic", ()),
    "hidden_dropout_prob": (0.0, ("resid_pdrop",)),
    "attention_probs_dropout_prob": (0.0, ("attn_pdrop",)),
    "embd_pdrop": (0.0, ()),  # contrastors@613ddfd: only the classifier's fallback
    "classifier_dropout": (None, ()),
    "layer_norm_eps": (1e-12, ("layer_norm_epsilon",)),
    "initializer_range": (0.02, ()),
    "pad_token_id": (0, ()),
}

# What the architecture fixes. Readers of released checkpoints want these keys; any other value is another model.
_FIXED: dict[str, Any] = {
    "activation_function": "swiglu",
    "hidden_act": "silu",
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "prenorm": False,
    "parallel_block": False,
    "causal": False,
    "use_rms_norm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "tie_word_embeddings": True,
}

_AUTO_MAP = {
    "AutoConfig": "configuration_nomic_bert.NomicBertConfig",
    "AutoModel": "modeling_nomic_bert.NomicBertModel",
    "AutoModelForMaskedLM": "modeling_nomic_bert.NomicBertForMaskedLM",
    "AutoModelForPreTraining": "modeling_nomic_bert.NomicBertForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_nomic_bert.NomicBertForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_nomic_bert.NomicBertForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_nomic_bert.NomicBertForQuestionAnswering",
    "AutoModelForMultipleChoice": "modeling_nomic_bert.NomicBertForMultipleChoice",
    "AutoModelForTextEncoding": "modeling_nomic_bert.NomicBertModel",
}

# Keys of transformers that are in a file only where they are set, or only in some versions.
_TRANSFORMERS_KEYS = ("quantization_config", "num_labels", "torch_dtype", "dtype", "tie_word_embeddings", "is_decoder")

_SCALING_TYPES = ("dynamic", "linear", "ntk")
_INNER_MULTIPLE = 256  # contrastors@613ddfd: the gated MLP rounds its width up to a multiple of this


def ntk_base(base: Any, scale: Any, head_dim: int) -> Any:
    """Eq. 4 and 5 of the paper: the rotary base `base * scale ** (d / (d - 2))`; numbers or tensors.

    Eq. 4 takes the static ratio of the longer length to the trained one as `scale`, Eq. 5 takes
    `alpha * length / trained - (alpha - 1)`.
    """
    return base * scale ** (head_dim / (head_dim - 2))


_DTYPES = ("float32", "float16", "bfloat16", "float64")


class _RopeParameters(dict):
    """A view of the rotary fields: an item set to another value would be lost, so it is refused.

    transformers and vLLM set items to the value that they have, and `partial_rotary_factor` to 1, when they read a
    configuration.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if value != (1.0 if key == "partial_rotary_factor" else self.get(key)):
            raise ValueError(
                f"NomicBertConfig: rope_parameters is derived, so {key!r} cannot be set to {value!r}; set "
                "rotary_emb_base, rotary_scaling_factor or rotary_scaling_type instead."
            )
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> "_RopeParameters":  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple:
        return dict, (dict(self),)  # a copy is a plain dict


class NomicBertConfig(PretrainedConfig):
    """Configuration of a Nomic BERT encoder and its heads. All arguments are keywords; defaults are nomic-bert-2048's.

    Every field may be given under either name; two names of one field that disagree raise a `ValueError`.

    Args:
        vocab_size: rows of the word embedding (default 30,528).
        pad_vocab_size_multiple: where it is given, `vocab_size` is rounded up to a multiple of it, as the authors'
            code does.
        hidden_size, n_embd: width of the residual stream (768).
        num_hidden_layers, n_layer: number of layers (12).
        num_attention_heads, n_head: number of attention heads (12); the head size must be even, for RoPE.
        intermediate_size, n_inner: width of the SwiGLU (3,072). `n_inner` alone is rounded up to a multiple of 256,
            and null stands for 8/3 of the width, as in the authors' code, which has no other name for it.
        type_vocab_size: rows of the token type embedding (2).
        max_trained_positions: length in tokens that the weights were trained at (2,048). Written again as
            `max_position_embeddings`, which native transformers takes for the trained length; when both are read
            and differ, `max_trained_positions` wins (released v1 says 2,048 and 8,192).
        n_positions: usable length in tokens (8,192); longer texts work but warn. In Python it is also
            `config.max_position_embeddings`, which sentence-transformers and vLLM take for the usable length.
        rotary_emb_base: RoPE base theta (1,000).
        rotary_scaling_factor: how far to scale RoPE for long texts (2, the paper's alpha), or None or 0 for plain
            RoPE.
            Where it is present, null included, it decides over `rope_parameters`.
        rotary_scaling_type: "dynamic" (Eq. 5; each text by its own length, none up to the trained length), "linear"
            (Eq. 3, all positions divided by the factor) or "ntk" (Eq. 4, the factor is the static ratio of lengths).
        hidden_dropout_prob, resid_pdrop: dropout after the embeddings and on both residual branches (0).
        attention_probs_dropout_prob, attn_pdrop: dropout on attention probabilities (0).
        classifier_dropout: dropout before the classifier (None: `embd_pdrop`, as in the authors' code).
        layer_norm_eps, layer_norm_epsilon: epsilon of the layer norms (1e-12).
        initializer_range: standard deviation of fresh weights (0.02).
        pad_token_id: id of [PAD] (0).
        rope_parameters: read where `rotary_emb_base` or `rotary_scaling_factor` is absent; derived when written.

    Raises:
        ValueError: a field out of range, names that disagree, or a key that asks for another architecture.
    """

    model_type = "nomic_bert"
    attribute_map = {other: field for field, (_, names) in _FIELDS.items() for other in names}
    _auto_class = "AutoConfig"

    def __init__(self, **kwargs: Any) -> None:
        for key, value in _FIXED.items():
            given = kwargs.pop(key, None)
            setattr(self, key, value if given is None else given)
        if kwargs.pop("num_experts", 0):
            raise ValueError("NomicBertConfig: num_experts: mixture-of-experts checkpoints are another architecture.")
        rope = kwargs.pop("rope_parameters", None) or kwargs.pop("rope_scaling", None)
        kwargs = {**_read_rope_parameters(rope, kwargs), **kwargs}
        # equal to n_positions it is the usable length, as in released v1, which does not name the trained one
        length = kwargs.pop("max_position_embeddings", None)
        if "max_trained_positions" not in kwargs and length is not None and length != kwargs.get("n_positions"):
            kwargs["max_trained_positions"] = length
        multiple = kwargs.pop("pad_vocab_size_multiple", None)
        multiple = 1 if multiple is None else multiple
        if not _is_integer(multiple) or multiple < 1:
            raise ValueError(f"NomicBertConfig: pad_vocab_size_multiple={multiple!r} must be a positive integer.")
        if isinstance(kwargs.get("vocab_size"), int):  # `validate` refuses others
            kwargs["vocab_size"] = _rounded_up(kwargs["vocab_size"], multiple)
        if "intermediate_size" not in kwargs and "n_inner" in kwargs:
            kwargs["n_inner"] = _authors_inner_size(kwargs)
        for field, (default, names) in _FIELDS.items():
            setattr(self, field, _read_field(kwargs, field, default, names))
        head_dim = kwargs.pop("head_dim", None)  # native transformers writes it
        if head_dim is not None and head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(f"NomicBertConfig: head_dim={head_dim!r} must be hidden_size / num_attention_heads.")
        self.validate()
        kwargs["tie_word_embeddings"] = self.tie_word_embeddings  # transformers 4's default need not be ours
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """See `PretrainedConfig`. The attention is the caller's choice, not a file's: it may name code of the hub.

        Raises:
            ValueError: a field is invalid.
        """
        config_dict = {key: value for key, value in config_dict.items() if "attn_implementation" not in key}
        for key in ("dtype", "torch_dtype"):
            kind = config_dict.get(key)
            if kind is not None and str(kind).removeprefix("torch.") not in _DTYPES:
                raise ValueError(f"NomicBertConfig: {key}={kind!r} must be one of {', '.join(_DTYPES)}.")
        return super().from_dict(config_dict, **kwargs)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_position_embeddings(self) -> int:
        """The usable length, `n_positions`, as readers in Python take it; config.json says the trained one here."""
        return self.n_positions

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int) -> None:
        self.n_positions = value

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """The rotary fields in native transformers' form. Eq. 4 has no name there; its base is written out."""
        theta, factor = float(self.rotary_emb_base), self.rotary_scaling_factor
        # Eq. 5 is not written: native transformers scales by its batch and history, vLLM scales short texts too
        if not factor or self.rotary_scaling_type == "dynamic":
            return _RopeParameters(rope_type="default", rope_theta=theta)
        if self.rotary_scaling_type == "ntk":
            return _RopeParameters(rope_type="default", rope_theta=ntk_base(theta, float(factor), self.head_dim))
        return _RopeParameters(rope_type=self.rotary_scaling_type, rope_theta=theta, factor=float(factor))

    @rope_parameters.setter
    def rope_parameters(self, value: dict[str, Any]) -> None:
        derived = self.rope_parameters
        derived.update(value)  # refuses another value
        if missing := sorted(derived.keys() - value.keys()):
            raise ValueError(f"NomicBertConfig: rope_parameters is derived and has {missing} too; leave it as it is.")

    def validate(self, *_: Any) -> None:
        """Raise a `ValueError` that names the first field that cannot mean what it says."""
        for key, value in _FIXED.items():
            given = getattr(self, key)
            if given != value:
                raise ValueError(f"NomicBertConfig: {key}={given!r} is another architecture; only {value!r} is known.")
        for field in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                      "type_vocab_size", "max_trained_positions", "n_positions"):  # fmt: skip
            value = getattr(self, field)
            if not _is_integer(value) or value < 1:
                raise ValueError(f"NomicBertConfig: {field}={value!r} must be a positive integer.")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2 or self.head_dim < 4:
            raise ValueError(
                f"NomicBertConfig: hidden_size={self.hidden_size} over num_attention_heads={self.num_attention_heads} "
                "must give an even head size of 4 or more, which RoPE rotates in pairs."
            )
        for field in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "embd_pdrop",
            "classifier_dropout",
        ):
            value = getattr(self, field)
            if value is None and field == "classifier_dropout":
                continue
            if not (_is_finite(value) and 0 <= value < 1):
                raise ValueError(f"NomicBertConfig: {field}={value!r} must be a probability in [0, 1).")
        for field in ("rotary_emb_base", "layer_norm_eps", "initializer_range"):
            value = getattr(self, field)
            if not (_is_finite(value) and value > 0):
                raise ValueError(f"NomicBertConfig: {field}={value!r} must be a positive number.")
        if self.rotary_scaling_type not in _SCALING_TYPES:
            raise ValueError(
                f"NomicBertConfig: rotary_scaling_type={self.rotary_scaling_type!r} must be one of {_SCALING_TYPES}."
            )
        factor = self.rotary_scaling_factor
        if factor is not None and not (_is_finite(factor) and factor >= 0):
            raise ValueError(
                f"NomicBertConfig: rotary_scaling_factor={factor!r} must be a positive number, or null for plain RoPE."
            )
        pad = self.pad_token_id
        if pad is not None and not (_is_integer(pad) and 0 <= pad < self.vocab_size):
            raise ValueError(f"NomicBertConfig: pad_token_id={pad!r} must be null or a number of the vocabulary.")

    def to_dict(self) -> dict[str, Any]:
        """All fields under both vocabularies, with the derived keys that readers look for."""
        fields = {field: getattr(self, field) for field in _FIELDS}
        aliases = {other: fields[field] for other, field in self.attribute_map.items()}
        return {
            **super().to_dict(),
            **fields,
            **aliases,
            "max_position_embeddings": self.max_trained_positions,
            "rope_parameters": dict(self.rope_parameters),
            # The authors' code rounds vocab_size up to this multiple; a resized vocabulary must stay as it is.
            "pad_vocab_size_multiple": 64 if self.vocab_size % 64 == 0 else 1,
            "auto_map": dict(_AUTO_MAP),
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes: transformers' own fields where they differ from its defaults, ours always."""
        written = self.to_dict()
        ours = {
            *_FIELDS,
            *self.attribute_map,
            *_FIXED,
            "max_position_embeddings",
            "rope_parameters",
            "pad_vocab_size_multiple",
            "auto_map",
        }
        diff = {**super().to_diff_dict(), **{key: written[key] for key in written if key in ours}}
        # What else a checkpoint's file said (custom_pipelines, ...) is not passed on: some of it names code to run.
        known = {*ours, *PretrainedConfig().to_dict(), *_TRANSFORMERS_KEYS}
        diff = {key: value for key, value in diff.items() if key in known}
        # Where it is native transformers' own default it says nothing, and text-embeddings-inference to 1.9.3, which
        # reads n_positions as another name of it, refuses a file that has both.
        if self.max_trained_positions == 2048:
            del diff["max_position_embeddings"]
        return diff

    def __eq__(self, other: object) -> bool:
        # by what is written, so that a reloaded configuration equals the saved one
        same = {"transformers_version": None}
        return isinstance(other, PretrainedConfig) and self.to_diff_dict() | same == other.to_diff_dict() | same

    __hash__ = None  # type: ignore[assignment]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _authors_inner_size(kwargs: dict[str, Any]) -> Any:
    """The width that the authors' code makes of its `n_inner`, the one name that it writes."""
    size = kwargs["n_inner"]
    if size is None:
        size = 8 * _read_field(dict(kwargs), "hidden_size", *_FIELDS["hidden_size"]) // 3
    return _rounded_up(size, _INNER_MULTIPLE) if isinstance(size, int) else size


def _read_field(kwargs: dict[str, Any], field: str, default: Any, other_names: tuple[str, ...]) -> Any:
    """Take `field` out of `kwargs` under whichever of its names it was given."""
    given = {name: kwargs.pop(name) for name in (field, *other_names) if name in kwargs}
    # null means "not said" (Eq. 5 is switched off by a null factor, the classifier's dropout falls back)
    if field not in ("rotary_scaling_factor", "classifier_dropout", "pad_token_id"):
        given = {name: value for name, value in given.items() if value is not None}
    values = list(given.values())
    if any(value != values[0] for value in values[1:]):
        said = " and ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(f"NomicBertConfig: {said} are two names of one field and disagree; give one of them.")
    return values[0] if values else default


def _read_rope_parameters(rope: dict[str, Any] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Translate native transformers' `rope_parameters` to the rotary fields, which win where `kwargs` has them."""
    if not rope:
        return {}
    if not isinstance(rope, dict):
        raise ValueError(f"NomicBertConfig: rope_parameters={rope!r} must be a mapping, or left out.")
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "dynamic", "linear"):
        raise ValueError(
            f"NomicBertConfig: rope_parameters has rope_type={rope_type!r}; only default, dynamic and linear are known."
        )
    fraction = rope.get("partial_rotary_factor")
    if fraction is not None and fraction != 1:
        raise ValueError(
            f"NomicBertConfig: rope_parameters has partial_rotary_factor={fraction!r}; only 1 is known, which rotates "
            "whole heads."
        )
    read: dict[str, Any] = {"rotary_scaling_factor": None}
    if rope_type != "default":
        read = {"rotary_scaling_factor": rope.get("factor"), "rotary_scaling_type": rope_type}
        if rope.get("factor") is None and "rotary_scaling_factor" not in kwargs:
            raise ValueError(f"NomicBertConfig: rope_parameters has rope_type={rope_type!r} and no factor; add it.")
    theta, base = rope.get("rope_theta"), kwargs.get("rotary_emb_base")
    if theta is not None:
        read["rotary_emb_base"] = theta
        is_ntk = kwargs.get("rotary_scaling_type") == "ntk"  # there rope_theta is the base after Eq. 4
        if base is not None and base != theta and not is_ntk:
            raise ValueError(
                f"NomicBertConfig: rotary_emb_base={base!r} and rope_parameters['rope_theta']={theta!r} are two names "
                "of one field and disagree; give one of them."
            )
    return read
