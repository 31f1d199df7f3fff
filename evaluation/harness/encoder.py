"""A model as mteb calls it, by the paper's rules (§5.2.1): prefix and normalization by task type, at a length."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch.utils.data import DataLoader
from transformers import AutoConfig

from evaluation.checkpoints import readable_checkpoint
from evaluation.protocol import LEAST_TOKENS, PAPER_LENGTH, PAPER_SCALING
from nomic_bert import NomicBertConfig
from nomic_bert.checkpoint_files import read_config
from nomic_bert.embedder import load_embedder, load_other_embedder
from nomic_bert.encoding import encode_by_tokens
from nomic_bert.finite_embeddings import require_finite
from nomic_bert.identity import weights_hash
from nomic_bert.prompts import MTEB_PROMPTS
from textfiles.arrays import read_array, write_array
from textfiles.hub_names import is_hub_name

UNNORMALIZED = "Classification"  # paper §5.2.1: the one task type without L2 normalization
Rules = Literal["paper", "model"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model was asked, which decides its scores: the content of `protocol.json` beside them.

    Attributes:
        name: as in mteb, "organization/model".
        checkpoint: last parts of the directory, or the hub name.
        weights: hash of the weights as they were used.
        max_seq_length: tokens to which texts were truncated, prefix and special tokens included; None: a server did
            that, to a length of its own.
        requested_length: the length that was asked for; the model may read less.
        rules: "paper": embeddings of unit length except for Classification; "model": as the model returns them.
        prompts: texts put before the model's input, by mteb's names.
        rotary_scaling_factor: alpha of Eq. 5, of our models.
        dtype: of the weights as they were used.
        versions: of the packages that computed.
    """

    name: str
    checkpoint: str
    weights: str
    max_seq_length: int | None
    requested_length: int
    rules: Rules
    prompts: dict[str, str]
    rotary_scaling_factor: float | None = None
    dtype: str = "float32"
    versions: dict[str, str] = field(default_factory=dict)

    def revision(self, settings: Mapping[str, Any]) -> str:
        """Name of the folder of results: weights, everything else that decides a score, and the length.

        Args:
            settings: tokenizer, modules and configuration, as JSON values.
        """
        decisive = [self.rules, self.prompts, self.rotary_scaling_factor, self.dtype, settings]
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()
        length = "whole" if self.max_seq_length is None else f"seq{self.max_seq_length}"
        return f"{self.weights}-{digest[:8]}-{length}"


class ProtocolEncoder(AbsEncoder):
    """An embedder with its protocol; `mteb.evaluate` takes it as it is.

    Args:
        embedder: the model. Under the rules of the paper its `Normalize` module is left out, and embeddings are
            normalized by task type.
        protocol: how it is asked.
        tokens_per_batch: see `nomic_bert.encoding.encode_by_tokens`.

    Attributes:
        kept_embeddings: where the embeddings of a task are kept while it runs, so that an interrupted one resumes:
            mteb asks for a corpus in pieces of 50,000 documents. None: nowhere.
    """

    kept_embeddings: Path | None = None
    mteb_model_meta: ModelMeta

    def __init__(
        self, embedder: SentenceTransformer, protocol: Protocol, *, tokens_per_batch: int | None = None
    ) -> None:
        self.protocol = protocol
        self.tokens_per_batch = tokens_per_batch
        if protocol.rules == "paper":
            kept = [module for module in embedder if not isinstance(module, Normalize)]
            device = embedder.device
            embedder = SentenceTransformer(modules=kept, similarity_fn_name=embedder.similarity_fn_name)
            embedder.to(device)
        embedder.max_seq_length = protocol.max_seq_length
        self.model = embedder
        self.model_prompts = protocol.prompts
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": protocol.name,
                "revision": protocol.revision(_settings(embedder)),
                "n_parameters": sum(parameter.numel() for parameter in embedder.parameters()),
                "max_tokens": protocol.max_seq_length,
                "embed_dim": embedder.get_embedding_dimension(),
                "framework": ["Sentence Transformers", "PyTorch"],
                "use_instructions": any(protocol.prompts.values()),
            }
        )

    def encode(  # type: ignore[override]
        self,
        inputs: DataLoader,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed the texts of a task, as mteb asks: (texts, dim) in float32.

        Raises:
            ValueError: an embedding is not finite, or kept embeddings cannot be read.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = get_prompt(self.model_prompts, task_metadata, prompt_type) or ""
        normalize = self.protocol.rules == "paper" and task_metadata.type != UNNORMALIZED
        kept = self.kept_embeddings and self.kept_embeddings / f"{_texts_hash(texts, prompt, normalize)}.npy"
        if kept and kept.is_file():
            return read_array(kept, "Remove it to embed its texts again.")
        side = f" {prompt_type.value}" if prompt_type else ""
        description = f"{task_metadata.name}{side}" if kwargs.get("show_progress_bar", True) else None
        embeddings = require_finite(self.embed(texts, prompt, normalize, description))
        if kept:
            write_array(kept, embeddings)
        return embeddings

    def embed(self, texts: list[str], prompt: str, normalize: bool, description: str | None) -> np.ndarray:
        """Embed texts (n,) under a prompt -> (n, dim) in float32.

        Args:
            texts: as they are.
            prompt: put before each.
            normalize: whether embeddings are brought to unit length.
            description: of a progress bar; None: no bar.
        """
        return encode_by_tokens(
            self.model,
            texts,
            prompt=prompt,
            tokens_per_batch=self.tokens_per_batch,
            normalize=normalize,
            description=description,
        )


def load_encoder(
    checkpoint: str,
    *,
    max_seq_length: int = PAPER_LENGTH,
    name: str | None = None,
    rules: Rules | None = None,
    prompts: Mapping[str, str] | None = None,
    rotary_scaling_factor: float | None = None,
    tokens_per_batch: int | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> ProtocolEncoder:
    """Load a model for evaluation.

    Nomic embedders (encoders of ours or the authors') follow the paper's rules, with their prefixes, and read beyond
    their trained length with alpha 2 if their configuration has no scaling. Others use their own prompts, their own
    length if that is shorter, and their embeddings as they are.

    Args:
        checkpoint: directory or hub name of any sentence-transformers model.
        max_seq_length: tokens to which texts are truncated; a model that reads less reads what it can.
        name: "organization/model" for the results; None: the hub name, or "local/" and the end of the directory.
        rules: see `Protocol`; None: "paper" for ours, "model" for others.
        prompts: prompts by mteb's names (task, task type, "query" and "document"); {} for none; None: the model's own.
        rotary_scaling_factor: alpha of Eq. 5, for our models; None: as described above.
        tokens_per_batch: see `nomic_bert.encoding.encode_by_tokens`.
        device: None: a GPU if there is one.
        dtype: of the weights; None: bfloat16 on a GPU that has it, as the authors did, else float32.
        trust_remote_code: whether to run the code of a model's repository.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the model has no prompts, or none by a name that mteb knows, and the message says what to give; a
            name or a number is invalid; or a file of the checkpoint is damaged.
    """
    if name is not None and not is_hub_name(name):
        raise ValueError(f"--name {name!r}: mteb's results need a name of the form organization/model.")
    if max_seq_length < LEAST_TOKENS or (tokens_per_batch is not None and tokens_per_batch < 1):
        raise ValueError(f"max_seq_length must be at least {LEAST_TOKENS}, tokens_per_batch at least 1.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is None:
        dtype = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    ours = _is_nomic_bert(checkpoint)
    if not ours and rotary_scaling_factor is not None:
        raise ValueError(f"{checkpoint} is not a Nomic model; rotary_scaling_factor is for those.")
    with readable_checkpoint(checkpoint):
        if ours:
            embedder = _load_nomic(checkpoint, max_seq_length, rotary_scaling_factor, device, dtype)
        else:
            embedder = load_other_embedder(checkpoint, device, dtype, trust_remote_code=trust_remote_code)
    protocol = Protocol(
        name=name or _name(checkpoint),
        checkpoint=_ending(checkpoint),
        weights=weights_hash(embedder),
        max_seq_length=min(max_seq_length, embedder.max_seq_length or max_seq_length),
        requested_length=max_seq_length,
        rules=rules or ("paper" if ours else "model"),
        prompts=dict(prompts if prompts is not None else MTEB_PROMPTS if ours else _own_prompts(checkpoint, embedder)),
        rotary_scaling_factor=cast(Any, embedder[0]).model.config.rotary_scaling_factor if ours else None,
        dtype=str(dtype).removeprefix("torch."),
        versions={package: version(package) for package in ("mteb", "torch", "transformers", "sentence-transformers")},
    )
    require_known_prompts(protocol.prompts)
    return ProtocolEncoder(embedder, protocol, tokens_per_batch=tokens_per_batch)


def _is_nomic_bert(checkpoint: str) -> bool:
    if not Path(checkpoint).exists() and not is_hub_name(checkpoint):
        raise FileNotFoundError(f"{checkpoint} is neither a directory nor a hub name (owner/name); correct the path.")
    return read_config(checkpoint).get("model_type") == NomicBertConfig.model_type


def _load_nomic(
    checkpoint: str, length: int, scaling: float | None, device: str, dtype: torch.dtype
) -> SentenceTransformer:
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    if scaling is None and config.rotary_scaling_factor is None and length > config.max_trained_positions:
        scaling = PAPER_SCALING
    return load_embedder(checkpoint, device=device, dtype=dtype, rotary_scaling_factor=scaling)


def _own_prompts(checkpoint: str, embedder: SentenceTransformer) -> dict[str, str]:
    """The prompts of a model that mteb can look up; mteb itself drops the others and runs without a prefix."""
    give = """give them as --prompts '{"query": "query: ", "document": "passage: "}', or --prompts none to go without"""
    own = {name: text for name, text in embedder.prompts.items() if text}
    if not own:
        raise ValueError(f"{checkpoint} has no prompts, and a model that needs some scores badly without: {give}.")
    known = {name: text for name, text in own.items() if _known_to_mteb(name)}
    unknown = ", ".join(sorted(own.keys() - known.keys()))
    if not known:
        raise ValueError(f"{checkpoint}: mteb knows none of the prompts {unknown}; {give}.")
    if unknown:
        print(f"{checkpoint}: mteb does not know the prompts {unknown}; they are not used.")
    return known


def require_known_prompts(prompts: Mapping[str, str]) -> None:
    """Raise a ValueError that names the first prompt by a name that mteb does not look up."""
    if unknown := [key for key in prompts if not _known_to_mteb(key)]:
        raise ValueError(f"the prompt name {unknown[0]!r} is not a task or task type of mteb, query or document.")


def _known_to_mteb(name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            AbsEncoder.validate_task_to_prompt_name({name: ""})
        except KeyError:
            return False
    return True


def _name(checkpoint: str) -> str:
    return f"local/{_ending(checkpoint).replace('/', '-')}" if Path(checkpoint).exists() else checkpoint


def _ending(checkpoint: str) -> str:
    """Two parts of a directory's path say which it is where one is `final`; no more, for results are shared."""
    return "/".join(Path(checkpoint).resolve().parts[-2:]) if Path(checkpoint).exists() else checkpoint


def _texts_hash(texts: Sequence[str], prompt: str, normalize: bool) -> str:
    digest = hashlib.sha256(json.dumps([prompt, normalize]).encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _settings(embedder: SentenceTransformer) -> dict[str, Any]:
    """What decides an embedding besides the weights: modules, configuration, tokenizer."""
    config = getattr(getattr(embedder[0], "model", None), "config", None)  # models of word vectors have none
    configuration = config.to_diff_dict() if config is not None else {}
    for key in ("transformers_version", "auto_map", "architectures", "dtype", "_name_or_path"):
        configuration.pop(key, None)
    tokenizer = getattr(embedder.tokenizer, "backend_tokenizer", None)
    return {
        "modules": [[type(module).__name__, cast(Any, module).get_config_dict()] for module in list(embedder)[1:]],
        "configuration": configuration,
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest() if tokenizer is not None else None,
    }
