"""An encoder whose embeddings anyone can compute, and what `mteb.evaluate` makes of it."""

import hashlib

import mteb
import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder


def embed(texts):
    """(texts, 8): a random vector for each different text; lengths differ."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds]).astype(np.float32)


def unit(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


class RandomEncoder(AbsEncoder):
    def __init__(self):
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "test/random", "revision": "1"})

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_):
        return embed([text for batch in inputs for text in batch["text"]])


def evaluate(task):
    """The result of a task, and its scores on its one split."""
    settings = {"batch_size": 16, "show_progress_bar": False}
    model_result = mteb.evaluate(
        RandomEncoder(), task, cache=None, co2_tracker=False, encode_kwargs=settings, show_progress_bar=False
    )
    (result,) = model_result.task_results
    ((scores,),) = result.scores.values()
    return result, scores
