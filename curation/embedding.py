"""Embeddings of queries and documents by any model of sentence-transformers: to filter, to mine, and to keep."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor
from tqdm.auto import tqdm

from nomic_bert import NomicBertConfig
from nomic_bert.checkpoint_files import decisive_files, read_config
from nomic_bert.compiling import compile_layers
from nomic_bert.embedder import load_embedder, load_other_embedder
from nomic_bert.encoding import EncodedBatch, encode_by_tokens, texts_that_fit
from nomic_bert.finite_embeddings import require_finite
from nomic_bert.identity import weights_hash
from nomic_bert.openvino_encoder import PRECISIONS
from nomic_bert.text_length import LEAST_TOKENS, set_text_length
from textfiles.checksums import sha256_of
from textfiles.settings import did_you_mean, require_at_least

Side = Literal["query", "document"]
_PROMPT_NAMES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
_PRECISIONS = {"torch": ("float32", "float16", "bfloat16"), "openvino": PRECISIONS}
_GPU_TEXTS, _CPU_TEXTS = 8_192, 1_024  # at once: batches for a GPU; a CPU's progress bar moves


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that embeds, and how it is run.

    Attributes:
        model_name_or_path: directory or hub name of any model that sentence-transformers opens, ours among them.
        max_seq_length: tokens after which texts are cut; null: the model's own length.
        tokens_per_batch: tokens that a batch may reach, padding included; null: 2,048 on a CPU, on a GPU as much as
            its free memory holds, 65,536 at most. An embedding's last bits may depend on it, so give a number if other
            programs use the GPU and a run must give the same files again.
        backend: torch, or for NomicBERT models on a CPU openvino.
        precision: of the weights: float32, float16 or bfloat16; with openvino of the products: float32, bfloat16 or
            int8.
        torch_compile: compile the model's layers, on a GPU; worth it from some 100,000 texts.
        trust_remote_code: run the code of a model's repository.
    """

    model_name_or_path: str
    max_seq_length: int | None = None
    tokens_per_batch: int | None = None
    backend: str = "torch"
    precision: str = "float32"
    torch_compile: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.backend not in _PRECISIONS:
            raise ValueError(f"backend must be torch or openvino, not {self.backend!r}.")
        if self.precision not in (known := _PRECISIONS[self.backend]):
            raise ValueError(f"precision must be {' or '.join(known)} with {self.backend}, not {self.precision!r}.")
        require_at_least(1, self, "tokens_per_batch")
        require_at_least(LEAST_TOKENS, self, "max_seq_length")

    def identity(self) -> dict[str, Any]:
        """What must be the same for the embeddings to be the same: the settings, and the files of a local model.

        The tokens of a batch are not among it, so that a run that was too large for the memory can go on with fewer,
        nor is whether layers are compiled.
        """
        how = ("tokens_per_batch", "torch_compile")
        settings = {key: value for key, value in dataclasses.asdict(self).items() if key not in how}
        root = Path(self.model_name_or_path)
        return {**settings, "files": {str(file.relative_to(root)): sha256_of(file) for file in decisive_files(root)}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedderSettings(ModelSettings):
    """The model that judges how near texts are.

    Attributes:
        query_prompt: text put before every query; "" for none; null: what the model's own `encode_query` puts there.
        document_prompt: text put before every document, likewise, as the model's own `encode_document`.
    """

    query_prompt: str | None = None
    document_prompt: str | None = None


class Prompt(NamedTuple):
    """What a model is told about a text: which side it is, if it is one, and the text put before it."""

    side: Side | None
    text: str


def _open(settings: ModelSettings, device: str) -> SentenceTransformer:
    root = Path(settings.model_name_or_path)
    if settings.backend == "openvino":
        kind: Any = "int8" if settings.precision == "int8" else getattr(torch, settings.precision)
        return load_embedder(settings.model_name_or_path, backend="openvino", dtype=kind)
    dtype = getattr(torch, settings.precision)
    if _is_plain_checkpoint_of_ours(root):
        return load_embedder(root, device=device, dtype=dtype)
    return load_other_embedder(settings.model_name_or_path, device, dtype, trust_remote_code=settings.trust_remote_code)


def _is_plain_checkpoint_of_ours(directory: Path) -> bool:
    """Whether it lacks sentence-transformers' files: that library would find no prompts, and use chat templates."""
    if not directory.is_dir() or (directory / "modules.json").is_file():
        return False
    return read_config(directory).get("model_type") == NomicBertConfig.model_type


class TextEmbedder:
    """A model and how it is called.

    Args:
        settings: which model and how.
        device: where it runs; OpenVINO runs on the CPU, whatever is said here.

    Raises:
        OSError: there is no such model.
        ValueError: the backend cannot open it, or the model does not read so many tokens.
    """

    def __init__(self, settings: ModelSettings, device: str | torch.device) -> None:
        self.settings = settings
        self.model = _open(settings, str(device))
        if settings.max_seq_length is not None:
            set_text_length(self.model, settings.max_seq_length)
        if settings.torch_compile and self.model.device.type != "cpu":
            compile_layers(self.model)

    def encode(self, side: Side, texts: list[str], prompt: str | None = None) -> Tensor:
        """Embed some queries or documents.

        Args:
            side: what the texts are.
            texts: n texts.
            prompt: text put before each; None: as the settings say.

        Returns:
            (n, dim) in float32 and of unit length, on the CPU.
        """
        if prompt is None and isinstance(self.settings, EmbedderSettings):
            prompt = self.settings.query_prompt if side == "query" else self.settings.document_prompt
        text = _own_prompt(self.model, side) if prompt is None else prompt
        return torch.nn.functional.normalize(self.encode_under(Prompt(side, text), texts), dim=1)

    def named_prompt(self, name: str) -> Prompt:
        """The prompt that the model has under a name.

        `query` and `document` stand for its own `encode_query` and `encode_document`, even if these put nothing there.

        Raises:
            ValueError: the model has no prompt of that name.
        """
        if name in _PROMPT_NAMES:
            side: Side = "query" if name == "query" else "document"
            return Prompt(side, _own_prompt(self.model, side))
        if name not in self.model.prompts:
            known = dict.fromkeys([*_PROMPT_NAMES, *self.model.prompts])
            raise ValueError(f"the model has no prompt {name!r}; {did_you_mean(name, known, 'prompts')}")
        return Prompt(None, str(self.model.prompts[name]))

    def encode_under(
        self, prompt: Prompt, texts: list[str], on_batch: Callable[[EncodedBatch], None] | None = None
    ) -> Tensor:
        """Embed some texts under a prompt.

        Args:
            prompt: from `named_prompt`.
            texts: n texts.
            on_batch: as for `nomic_bert.encoding.encode_by_tokens`.

        Returns:
            (n, dim) in float32, on the CPU, as the model's modules leave them.

        Raises:
            ValueError: an embedding is not finite.
        """
        if prompt.side is not None and not _sides_differ_in_prompts_alone(self.model):
            embeddings = require_finite(self._encode_by_task(prompt.side, texts, prompt.text))
            if on_batch is not None:
                on_batch(EncodedBatch(list(range(len(texts))), None, None))
            return embeddings
        tokens = self.settings.tokens_per_batch
        found = encode_by_tokens(self.model, texts, prompt=prompt.text, tokens_per_batch=tokens, on_batch=on_batch)
        return torch.from_numpy(require_finite(found))

    def weights_hash(self) -> str:
        """`nomic_bert.identity.weights_hash` of the model; OpenVINO's are read from the checkpoint, in float32."""
        if self.settings.backend == "openvino":
            return weights_hash(load_embedder(self.settings.model_name_or_path, device="cpu", dtype=torch.float32))
        return weights_hash(self.model)

    @property
    def texts_at_once(self) -> int:
        """Texts that are worth giving to `encode` at once."""
        return _CPU_TEXTS if self.model.device.type == "cpu" else _GPU_TEXTS

    def _encode_by_task(self, side: Side, texts: list[str], prompt: str) -> Tensor:
        """By the model's own `encode_query` or `encode_document`, 32 texts at once or as many as surely fit."""
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}[side]
        tokens = self.settings.tokens_per_batch
        most = 32 if tokens is None else texts_that_fit(self.model, tokens)
        found = encode(texts, prompt=prompt, batch_size=most, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu()


def _sides_differ_in_prompts_alone(model: SentenceTransformer) -> bool:
    """Whether `encode_query` and `encode_document` are `encode` with a prompt: nothing reads the task they name."""
    first = cast(Any, model[0])
    return (
        type(first) is Transformer  # and no router or model's own module
        and "message" not in first.modality_config  # templates of chats may read the task
        and (first.query_length, first.document_length, first.query_expansion) == (None, None, None)
        and "task" not in model.get_model_kwargs()
    )


def _own_prompt(model: SentenceTransformer, side: Side) -> str:
    """What `encode_query` or `encode_document` puts before texts if it is given no prompt."""
    names = (*_PROMPT_NAMES[side], model.default_prompt_name)
    return next((model.prompts[name] for name in names if name in model.prompts), None) or ""


def text_key(text: str) -> int:
    """A 64-bit key of a text, the same in every process: among 100 million texts, equal for two with p = 0.0003."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def embed_distinct(
    texts: Iterable[str], encode: Callable[[list[str]], Tensor], at_once: int, progress: tqdm
) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Embed each distinct text once, so that equal texts have one embedding, to the last bit.

    Args:
        texts: n in all.
        encode: m texts -> (m, dim).
        at_once: texts in memory together.
        progress: a bar that counts texts.

    Returns:
        For each text the number of its embedding (n,), the embeddings (distinct, dim), and for each embedding the
        number of the first text that has it (distinct,).
    """
    numbers: dict[int, int] = {}
    ids: list[int] = []
    firsts: list[int] = []
    embeddings: list[Tensor] = []
    waiting = iter(texts)
    while batch := list(itertools.islice(waiting, at_once)):
        new: list[str] = []
        for text in batch:
            number = numbers.setdefault(text_key(text), len(numbers))
            if number == len(firsts):
                firsts.append(len(ids))
                new.append(text)
            ids.append(number)
        if new:
            embeddings.append(encode(new))
        progress.update(len(batch))
    return np.array(ids, dtype=np.int64), torch.cat(embeddings), np.array(firsts, dtype=np.int64)
