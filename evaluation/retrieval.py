"""Retrieval scores of embedders and of BM25, on sets in the BEIR layout or made of held-out pairs.

Both are scored by the metrics of sentence-transformers' InformationRetrievalEvaluator, in percent. Judgements
are binary there: a document with any positive grade is relevant.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from nomic_bert.finite_embeddings import require_finite
from textfiles.beir import BeirSet, load_beir
from textfiles.texts import text_of

from .ranking import Bm25Index, best_first, join_scores

_CUTOFF = 10
_QUERIES_AT_ONCE = 128  # compared with all documents
_METRICS = ("ndcg", "recall", "mrr")


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents, and which of the documents answer which query.

    Attributes:
        queries: query id -> text.
        documents: document id -> text.
        relevant: query id -> ids of its relevant documents, at least one for every query.

    Raises:
        ValueError: the set is empty, a query is blank or has no relevant document, or an id is unknown.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, set[str]]

    def __post_init__(self) -> None:
        if not self.queries or not self.documents:
            raise ValueError(
                f"a retrieval set needs queries and documents; it has {len(self.queries)} and {len(self.documents)}."
            )
        if unknown := self.relevant.keys() - self.queries.keys():
            raise ValueError(f"relevant: unknown query id {min(unknown)!r}.")
        for query_id, query in self.queries.items():
            if not query.strip():
                raise ValueError(f"query {query_id!r} is blank; remove it.")
            if not self.relevant.get(query_id):
                raise ValueError(f"query {query_id!r} has no relevant document; remove it.")
            if unknown := self.relevant[query_id] - self.documents.keys():
                raise ValueError(f"relevant, query {query_id!r}: unknown document id {min(unknown)!r}.")

    @classmethod
    def from_pairs(cls, pairs: Iterable[Mapping[str, Any]]) -> "RetrievalSet":
        """Make a set of rows with `query` and `document`: every document of a query is relevant to it.

        Identical documents become one document, identical queries one query. Ids are the numbers of first rows.

        Raises:
            ValueError: there are no rows, or a value is not a text or is blank; the message names the row, counted
                from 0.
        """
        query_ids: dict[str, str] = {}
        document_ids: dict[str, str] = {}
        relevant: dict[str, set[str]] = {}
        for row, pair in enumerate(pairs):
            query, document = (text_of(pair, column, f"row {row}") for column in ("query", "document"))
            query_id = query_ids.setdefault(query, str(row))
            relevant.setdefault(query_id, set()).add(document_ids.setdefault(document, str(row)))
        return cls(
            queries={query_id: text for text, query_id in query_ids.items()},
            documents={document_id: text for text, document_id in document_ids.items()},
            relevant=relevant,
        )

    @classmethod
    def from_beir(cls, directory: str | Path, split: str = "test") -> "RetrievalSet":
        """Read a directory in the BEIR layout; see `textfiles.beir.load_beir`.

        A document is its title and its text with a space between, as in BEIR. Judgements of absent queries and
        documents are left out, and their number is printed.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a line cannot be read, or no query has a relevant document.
        """
        return cls.from_beir_set(load_beir(Path(directory), split), str(directory))

    @classmethod
    def from_beir_set(cls, beir: BeirSet, name: str) -> "RetrievalSet":
        """Make a set of one that was read; `name` is what to call it when judgements were left out."""
        if absent := beir.describe_absent():
            print(f"{name}: {absent}")
        return cls(
            beir.queries,
            {name: document.whole for name, document in beir.documents.items()},
            {query: {name for name, grade in found.items() if grade > 0} for query, found in beir.grades.items()},
        )


def evaluate_embedder(model: SentenceTransformer, retrieval_set: RetrievalSet) -> dict[str, float]:
    """Score an embedder: queries under its prompt "query", documents under its prompt "document".

    Args:
        model: the embedder; documents are ranked by its own similarity.
        retrieval_set: what to search.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.

    Raises:
        ValueError: an embedding is not finite.
    """
    scores = retrieval_evaluator(retrieval_set)(model)
    return {
        f"{metric}@{_CUTOFF}": 100 * float(scores[f"{model.similarity_fn_name}_{metric}@{_CUTOFF}"])
        for metric in _METRICS
    }


def evaluate_bm25(retrieval_set: RetrievalSet) -> dict[str, float]:
    """Score BM25 on the same metrics; see `rank_bm25` for the variant.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.
    """
    return score_hits(retrieval_set, rank_bm25(retrieval_set))


def score_hits(retrieval_set: RetrievalSet, ranked: Sequence[Sequence[tuple[str, float]]]) -> dict[str, float]:
    """Score a ranking that is no embedder's.

    Args:
        retrieval_set: that was searched.
        ranked: for each of its queries (document id, score), best first.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.
    """
    hits: list[object] = [[{"corpus_id": document, "score": score} for document, score in found] for found in ranked]
    metrics = retrieval_evaluator(retrieval_set).compute_metrics(hits)
    return {f"{metric}@{_CUTOFF}": 100 * float(metrics[f"{metric}@k"][_CUTOFF]) for metric in _METRICS}


def rank_bm25(retrieval_set: RetrievalSet) -> list[list[tuple[str, float]]]:
    """The ten best documents of every query by BM25, as (document id, score), by `evaluation.ranking.Bm25Index`."""
    return Bm25Index(retrieval_set.documents).search(list(retrieval_set.queries.values()), _CUTOFF)


def evaluate_fused(model: SentenceTransformer, retrieval_set: RetrievalSet) -> dict[str, float]:
    """Score an embedder and BM25 together, with the metrics and prompts of `evaluate_embedder`.

    Their scores are joined by `evaluation.ranking.join_scores`, for every document.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.

    Raises:
        ValueError: an embedding is not finite, or the model does not compare by cosine.
    """
    if model.similarity_fn_name != "cosine":
        raise ValueError(f"BM25 is joined with cosines, and this model compares by {model.similarity_fn_name}.")
    ids, queries = list(retrieval_set.documents), list(retrieval_set.queries.values())
    documents = require_finite(model.encode_document(list(retrieval_set.documents.values()), convert_to_tensor=True))
    asked = require_finite(model.encode_query(queries, convert_to_tensor=True))
    index = Bm25Index(retrieval_set.documents)
    ranked = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        similarities = model.similarity(asked[start : start + _QUERIES_AT_ONCE], documents).float().cpu().numpy()
        for query, row in zip(queries[start:], similarities, strict=False):
            scores = join_scores(row, index.scores(query))
            ranked.append([(ids[number], float(scores[number])) for number in best_first(scores, _CUTOFF)])
    return score_hits(retrieval_set, ranked)


def retrieval_evaluator(
    retrieval_set: RetrievalSet,
    *,
    batch_size: int = 32,
    name: str = "",
    prompts: tuple[str, str] | None = None,
    show_progress_bar: bool = True,
) -> InformationRetrievalEvaluator:
    """sentence-transformers' evaluator of a set, at 10 documents.

    Args:
        retrieval_set: what to search.
        batch_size: texts encoded at once.
        name: in front of its metrics.
        prompts: texts put before queries and documents; None: the model's prompts "query" and "document".
        show_progress_bar: whether encoding shows its progress.
    """
    query_prompt, corpus_prompt = prompts or (None, None)
    return _FiniteRetrievalEvaluator(
        dict(retrieval_set.queries),
        dict(retrieval_set.documents),
        retrieval_set.relevant,
        ndcg_at_k=[_CUTOFF],
        precision_recall_at_k=[_CUTOFF],
        mrr_at_k=[_CUTOFF],
        accuracy_at_k=[_CUTOFF],
        map_at_k=[_CUTOFF],
        name=name,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        write_csv=False,
        query_prompt=query_prompt,
        query_prompt_name="query" if prompts is None else None,
        corpus_prompt=corpus_prompt,
        corpus_prompt_name="document" if prompts is None else None,
    )


class _FiniteRetrievalEvaluator(InformationRetrievalEvaluator):
    def embed_inputs(self, *arguments: Any, **settings: Any) -> Any:
        return require_finite(super().embed_inputs(*arguments, **settings))
