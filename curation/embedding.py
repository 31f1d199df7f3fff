"""Embeddings of queries and documents by any model of sentence-transformers, for filtering and mining."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

Side = Literal["query", "document"]
_BATCHES_AT_ONCE = 32  # of texts, sorted by length: less padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedderSettings:
    """The model that judges how near texts are.

    Attributes:
        model_name_or_path: directory or hub name of any model that sentence-transformers opens, ours among them.
        query_prompt: text put before every query; "" for none; null: what the model's own `encode_query` puts there.
        document_prompt: text put before every document, likewise, as the model's own `encode_document`.
        max_seq_length: tokens after which texts are cut; null: the model's limit.
        batch_size: texts encoded at once.
        precision: of the weights: float32, float16 or bfloat16.
        trust_remote_code: run the code of a model's repository.
    """

    model_name_or_path: str
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_seq_length: int | None = None
    batch_size: int = 32
    precision: str = "float32"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.precision not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"precision must be float32, float16 or bfloat16, not {self.precision!r}.")
        for key in ("batch_size", "max_seq_length"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}.")

    def identity(self) -> dict[str, Any]:
        """What must be the same for the embeddings to be the same: the settings, and the weights of a local model.

        The batch size is not among it, so that a run that was too large for the memory can go on with less.
        """
        settings = {key: value for key, value in dataclasses.asdict(self).items() if key != "batch_size"}
        weights = sorted(Path(self.model_name_or_path).rglob("*.safetensors"))
        return {**settings, "weights": [[file.name, _hash_file(file)] for file in weights]}


class PairEmbedder:
    """A model and how it is called.

    Args:
        settings: Which model and how.
        device: Where it runs.

    Raises:
        OSError: There is no such model.
    """

    def __init__(self, settings: EmbedderSettings, device: str | torch.device) -> None:
        self.settings = settings
        self.model = SentenceTransformer(
            settings.model_name_or_path,
            device=str(device),
            trust_remote_code=settings.trust_remote_code,
            model_kwargs={"dtype": getattr(torch, settings.precision)},
        )
        if settings.max_seq_length is not None:
            self.model.max_seq_length = settings.max_seq_length

    def encode(self, side: Side, texts: list[str], prompt: str | None = None) -> Tensor:
        """Embed some texts.

        Args:
            side: What the texts are.
            texts: n texts.
            prompt: Text put before each; None: as the settings say.

        Returns:
            (n, dim) in float32 and of unit length, on the CPU.
        """
        own = {"query": self.settings.query_prompt, "document": self.settings.document_prompt}
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}[side]
        embeddings = encode(
            texts,
            prompt=own[side] if prompt is None else prompt,
            batch_size=self.settings.batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return torch.nn.functional.normalize(embeddings.float(), dim=1).cpu()

    @property
    def texts_at_once(self) -> int:
        """Texts that are worth giving to `encode` at once."""
        return _BATCHES_AT_ONCE * self.settings.batch_size


def text_key(text: str) -> int:
    """A 64-bit key of a text, the same in every process: among 100 million texts, equal for two with p = 0.0003."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def embed_distinct(
    batches: Iterable[list[str]], encode: Callable[[list[str]], Tensor]
) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Embed each distinct text once, so that equal texts have one embedding, to the last bit.

    Args:
        batches: Texts, n in all, a batch in memory at a time.
        encode: m texts -> (m, dim).

    Returns:
        For each text the number of its embedding (n,), the embeddings (distinct, dim), and for each embedding the
        number of the first text that has it (distinct,).
    """
    numbers: dict[int, int] = {}
    ids: list[int] = []
    firsts: list[int] = []
    embeddings: list[Tensor] = []
    for batch in batches:
        new: list[str] = []
        for text in batch:
            number = numbers.setdefault(text_key(text), len(numbers))
            if number == len(firsts):
                firsts.append(len(ids))
                new.append(text)
            ids.append(number)
        if new:
            embeddings.append(encode(new))
    return np.array(ids, dtype=np.int64), torch.cat(embeddings), np.array(firsts, dtype=np.int64)


def _hash_file(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
