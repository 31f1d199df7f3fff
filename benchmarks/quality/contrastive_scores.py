"""Scores of one query or pair at a time, kept for each model, and what resampling says of means and differences."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sentence_transformers import SentenceTransformer

from benchmarks.quality.contrastive_data import KEPT_ASIDE, RETRIEVAL_SETS, STS_SETS, read_tsv
from benchmarks.quality.retrieval_scores import bm25_query_scores, query_scores
from curation.files import read_jsonl
from evaluation.retrieval import RetrievalSet
from nomic_bert.files import atomic_file

RESAMPLES = 2_000


@dataclass(frozen=True)
class SimilaritySet:
    """Pairs of sentences and how alike people found them.

    Attributes:
        first: (pairs,) sentences.
        second: (pairs,) sentences.
        judged: (pairs,) on any scale.
    """

    first: list[str]
    second: list[str]
    judged: list[float]


@dataclass(frozen=True)
class EvaluationSets:
    """What models are scored on: Spearman's correlation for similarity, nDCG@10 for retrieval.

    Attributes:
        similarity: name -> set.
        retrieval: name -> set.
    """

    similarity: Mapping[str, SimilaritySet]
    retrieval: Mapping[str, RetrievalSet]

    @classmethod
    def read(
        cls, data: Path, kept_aside: Path | None = None, retrieval_sets: Sequence[str] = RETRIEVAL_SETS
    ) -> "EvaluationSets":
        """Read the sets under `data`, and the pairs that `prepare` kept aside in `kept_aside`, where that is given."""
        similarity = {}
        for name in STS_SETS:
            rows = read_tsv(data / "sts" / f"{name}.tsv.gz", ("sentence1", "sentence2", "score"))
            first, second = ([row[column] for row in rows] for column in ("sentence1", "sentence2"))
            similarity[name] = SimilaritySet(first, second, [float(row["score"]) for row in rows])
        retrieval = {name: RetrievalSet.from_beir(data / "retrieval" / name) for name in retrieval_sets}
        if kept_aside is not None:
            for name in KEPT_ASIDE:
                pairs = read_jsonl(kept_aside / "kept_aside" / f"{name}.jsonl.gz")
                retrieval[f"{name}, kept aside"] = RetrievalSet.from_pairs(pairs)
        return cls(similarity, retrieval)

    def sizes(self) -> dict[str, int]:
        """Set -> pairs, or queries."""
        pairs = {name: len(each.judged) for name, each in self.similarity.items()}
        return pairs | {name: len(each.queries) for name, each in self.retrieval.items()}


def embedder_scores(
    embedder: SentenceTransformer, sets: EvaluationSets, tokens: int, batch_size: int, kept: "KeptScores"
) -> dict[str, np.ndarray]:
    """Cosines of the pairs of similarity sets under the prompt "STS", nDCG@10 of the queries of retrieval sets.

    Args:
        embedder: with its prompts.
        sets: what to score on.
        tokens: after which texts are cut, where the embedder's own limit is not lower.
        batch_size: texts encoded at once.
        kept: where scores are kept.

    Returns:
        Set -> scores, (pairs,) or (queries,).
    """
    limit = min(tokens, embedder.max_seq_length or tokens)
    prompts = {name: embedder.prompts.get(name) or "" for name in ("STS", "query", "document")}

    def cosines(each: SimilaritySet) -> np.ndarray:
        embedder.max_seq_length = limit
        first, second = (
            embedder.encode(texts, prompt=prompts["STS"], batch_size=batch_size, normalize_embeddings=True)
            for texts in (each.first, each.second)
        )
        return (first * second).sum(axis=1)

    def ndcg(each: RetrievalSet) -> np.ndarray:
        return query_scores(embedder, each, limit, limit, batch_size)

    scores = {}
    for name, pairs in sets.similarity.items():
        scores[name] = kept.get(name, [pairs, limit, prompts], partial(cosines, pairs))
    for name, retrieval_set in sets.retrieval.items():
        scores[name] = kept.get(name, [retrieval_set, limit, prompts], partial(ndcg, retrieval_set))
    return scores


def bm25_scores(sets: EvaluationSets) -> dict[str, np.ndarray]:
    """Retrieval set -> nDCG@10 (queries,)."""
    return {name: bm25_query_scores(each) for name, each in sets.retrieval.items()}


class KeptScores:
    """A file with the scores of one model; those of another model, or made from something else, are made anew.

    Args:
        path: of the .json file.
        model: directory whose files the model is.
    """

    def __init__(self, path: Path, model: Path) -> None:
        self._path = path
        self._model = _digest_of_files(model)
        self._kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, made_from: list[Any], score: Callable[[], np.ndarray]) -> np.ndarray:
        """Scores of a set: those of the file, or else new ones, which the file then has."""
        key = hashlib.sha256(repr([self._model, *map(_plain, made_from)]).encode()).hexdigest()
        if self._kept.get(name, {}).get("key") != key:
            self._kept[name] = {"key": key, "scores": score().tolist()}
            with atomic_file(self._path) as partial:
                partial.write_text(json.dumps(self._kept))
        return np.array(self._kept[name]["scores"])


def _digest_of_files(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in directory.rglob("*") if file.is_file()):
        digest.update(str(file.relative_to(directory)).encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Sets of ids in an order: that of a Python set changes from process to process."""
    if not isinstance(value, RetrievalSet):
        return value
    return value.queries, value.documents, {query: sorted(ids) for query, ids in value.relevant.items()}


# A score over all queries or pairs, and over RESAMPLES of them drawn with replacement: (1 + RESAMPLES,)
Draws = np.ndarray


def resampled(sets: EvaluationSets, scores: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Draws]]:
    """Every model's score on every set, in percent, and on the same resamples of it for all models.

    Queries are drawn together with those of the same document: they are no independent evidence.

    Args:
        sets: that were scored.
        scores: model -> set -> scores; a model may lack sets.

    Returns:
        Model -> set -> draws.
    """
    draws: dict[str, dict[str, Draws]] = {model: {} for model in scores}
    for name in [*sets.similarity, *sets.retrieval]:
        models = [model for model in scores if name in scores[model]]
        stacked = np.array([scores[model][name] for model in models])
        if name in sets.similarity:
            values = spearman_draws(stacked, np.array(sets.similarity[name].judged))
        else:
            each = sets.retrieval[name]
            values = mean_draws(stacked, [min(each.relevant[query]) for query in each.queries])
        for model, row in zip(models, values, strict=True):
            draws[model][name] = row
    return draws


def mean_draws(scores: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Means of scores (models, n), and of resamples of whole groups (n,): (models, 1 + RESAMPLES)."""
    names, group = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(group, weights=row) for row in scores])
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    counts = np.vstack([np.ones(len(names), dtype=int), drawn]).T
    return (sums @ counts) / (np.bincount(group) @ counts)


def spearman_draws(scores: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Spearman's correlations, in percent, of scores (models, n) with judgements (n,): (models, 1 + RESAMPLES)."""
    random, size = np.random.default_rng(0), len(judged)
    columns = [_spearman(scores, judged)]
    for _ in range(RESAMPLES):
        rows = random.integers(size, size=size)
        columns.append(_spearman(scores[:, rows], judged[rows]))
    return 100 * np.stack(columns, axis=1)


def _spearman(scores: np.ndarray, judged: np.ndarray) -> np.ndarray:
    ranks, judged_ranks = rankdata(scores, axis=1), rankdata(judged)
    ranks, judged_ranks = ranks - ranks.mean(axis=1, keepdims=True), judged_ranks - judged_ranks.mean()
    return ranks @ judged_ranks / (np.linalg.norm(ranks, axis=1) * np.linalg.norm(judged_ranks))


def interval(draws: Draws) -> tuple[float, float, float]:
    """The score or difference itself, and its 95 % interval."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)
