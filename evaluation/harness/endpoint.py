"""A model behind an OpenAI-compatible endpoint, as mteb calls it: OpenAI's own, vLLM, TEI or llama.cpp servers."""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

import numpy as np
from mteb.models import ModelMeta
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from evaluation.harness.encoder import Protocol, ProtocolEncoder, Rules, require_known_prompts
from nomic_bert.tokenizer_files import open_tokenizer
from textfiles.hub_names import is_hub_name

KEY = "OPENAI_API_KEY"
_REQUESTS_AT_ONCE = 4
_SECONDS = 600.0  # that a request may take
_TRIES = 6
_WAIT = 1.0  # seconds before the second try; twice as many before each further one
_RETRIED = {408, 409, 429, 500, 502, 503, 504}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where embeddings come from.

    Attributes:
        url: to which `/embeddings` is added, such as `http://localhost:8000/v1`.
        model: name by which the server knows the model.
        texts_per_request: of a request.

    Raises:
        ValueError: a value is invalid.
    """

    url: str
    model: str
    texts_per_request: int = 32

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint {self.url!r} must begin with http:// or https://.")
        if self.texts_per_request < 1:
            raise ValueError(f"--texts_per_request must be at least 1, not {self.texts_per_request}.")

    def embed(self, texts: Sequence[str], description: str | None = None) -> np.ndarray:
        """Embed some texts (n,) -> (n, dim) in float32.

        A request that the server refuses for the moment is sent again, a few times.

        Args:
            texts: at least one.
            description: of a progress bar; None: no bar.

        Raises:
            ConnectionError: the server does not answer, or refuses; the message has what it said, without the key.
            ValueError: the answer is not one of embeddings.
        """
        starts = range(0, len(texts), self.texts_per_request)
        parts = [list(texts[start : start + self.texts_per_request]) for start in starts]
        bar = tqdm(total=len(texts), unit="text", desc=description, disable=description is None, leave=False)
        found: list[np.ndarray] = []
        with bar, ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
            for embeddings in threads.map(self._request, parts):
                found.append(embeddings)
                bar.update(len(embeddings))
        if len({part.shape[1] for part in found}) > 1:
            raise ValueError(f"{self.url}: answers of different dimensions; is it one model?")
        return np.concatenate(found)

    def _request(self, texts: list[str]) -> np.ndarray:
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        answer = self._answer(json.dumps(body).encode())
        try:
            rows = sorted(json.loads(answer)["data"], key=lambda row: row["index"])
            if [row["index"] for row in rows] != list(range(len(texts))):
                raise ValueError(f"{len(texts)} texts were asked for, and it numbers {len(rows)} otherwise")
            embeddings = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.url}/embeddings did not answer with embeddings ({type(error).__name__}: {error}): "
                f"{answer[:200].decode(errors='replace')!r}."
            ) from error
        if embeddings.ndim != 2 or not embeddings.any():  # all numbers are zero, or there are none
            raise ValueError(
                f"{self.url}/embeddings answered {len(texts)} texts with no vectors or zeros alone, of shape "
                f"{embeddings.shape}."
            )
        return embeddings

    def _answer(self, body: bytes) -> bytes:
        key = os.environ.get(KEY)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/embeddings", body, headers, method="POST")
        wait = _WAIT
        for left in reversed(range(_TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                said = error.read()[:500].decode(errors="replace")
                message = f"{request.full_url} refused: HTTP {error.code} {said}"
                if error.code not in _RETRIED or not left:
                    raise ConnectionError(_without(key, message)) from None
                wait = max(wait, _seconds(error.headers.get("Retry-After")))
            except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
                if not left or isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                    raise ConnectionError(_without(key, f"{request.full_url} does not answer: {error}")) from None
            time.sleep(wait)
            wait *= 2
        raise AssertionError("the last try returns or raises")


class EndpointEncoder(ProtocolEncoder):
    """A served model with its protocol; `mteb.evaluate` takes it as it is.

    Args:
        endpoint: where its embeddings come from.
        protocol: how it is asked.
        tokenizer: by which texts are truncated before they are sent; None: they go whole.
        dimensions: of an embedding.
    """

    def __init__(
        self, endpoint: Endpoint, protocol: Protocol, tokenizer: PreTrainedTokenizerBase | None, dimensions: int
    ) -> None:
        self.protocol = protocol
        self._endpoint, self._tokenizer = endpoint, tokenizer
        self.model_prompts = protocol.prompts
        place = hashlib.sha256(endpoint.url.encode()).hexdigest()[:16]  # not the address itself: results are shared
        settings = {"endpoint": place, "tokenizer": tokenizer and tokenizer.name_or_path}
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": protocol.name,
                "revision": protocol.revision(settings),
                "max_tokens": protocol.max_seq_length,
                "embed_dim": dimensions,
                "framework": ["API"],
                "use_instructions": any(protocol.prompts.values()),
            }
        )

    def embed(self, texts: list[str], prompt: str, normalize: bool, description: str | None) -> np.ndarray:
        """Embed texts under a prompt (n, dim)."""
        found = self._endpoint.embed([self._cut(prompt + text) for text in texts], description)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12) if normalize else found

    def _cut(self, text: str) -> str:
        """The beginning of a text that fits; a space for a text without any, which servers refuse."""
        if self._tokenizer is not None:
            length = cast(int, self.protocol.max_seq_length)
            read = self._tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
            if len(read["input_ids"]) >= length:
                text = text[: max(end for _, end in read["offset_mapping"])]
        return text or " "


def open_endpoint(
    endpoint: Endpoint,
    *,
    max_seq_length: int,
    tokenizer: str | None = None,
    name: str | None = None,
    rules: Rules | None = None,
    prompts: Mapping[str, str] | None = None,
) -> EndpointEncoder:
    """Open a served model for evaluation; one text is embedded to see that it answers.

    Args:
        endpoint: where it is.
        max_seq_length: tokens to which texts are truncated, if there is a tokenizer; else recorded alone.
        tokenizer: directory or hub name of a tokenizer with which texts are truncated; None: the server decides.
        name: "organization/model" for the results; None: the model's own name, or "endpoint/" before it.
        rules: see `Protocol`; None: "model".
        prompts: by mteb's names; None: none.

    Raises:
        ConnectionError: the server does not answer.
        ValueError: it answers with something else, a name is invalid, or the tokenizer cannot truncate.
    """
    if name is not None and not is_hub_name(name):
        raise ValueError(f"--name {name!r}: mteb's results need a name of the form organization/model.")
    opened = None if tokenizer is None else open_tokenizer(tokenizer)
    if opened is not None and not opened.is_fast:
        raise ValueError(f"--tokenizer {tokenizer}: it does not say where in a text its tokens are; give a fast one.")
    require_known_prompts(prompts or {})
    own = endpoint.model if is_hub_name(endpoint.model) else f"endpoint/{endpoint.model.replace('/', '-')}"
    dimensions = endpoint.embed(["a text"]).shape[1]
    protocol = Protocol(
        name=name or own,
        checkpoint=endpoint.model,
        weights="served",
        max_seq_length=max_seq_length if opened is not None else None,
        requested_length=max_seq_length,
        rules=rules or "model",
        prompts=dict(prompts or {}),
        dtype="unknown",
        versions={"mteb": version("mteb")},
    )
    return EndpointEncoder(endpoint, protocol, opened, dimensions)


def _seconds(header: str | None) -> float:
    try:
        return min(float(header or 0), 120.0)
    except ValueError:  # a date
        return 0.0


def _without(key: str | None, message: str) -> str:
    return message.replace(key, "***") if key else message
