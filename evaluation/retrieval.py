"""Retrieval scores of embedders and of BM25, on sets in the BEIR layout or made of held-out pairs.

Both are scored by the metrics of sentence-transformers' InformationRetrievalEvaluator, in percent. Judgements
are binary there: a document with any positive grade is relevant.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from evaluation.rows import read_rows

_CUTOFF = 10
_METRICS = ("ndcg", "recall", "mrr")


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents, and which of the documents answer which query.

    Attributes:
        queries: Query id -> text.
        documents: Document id -> text.
        relevant: Query id -> ids of its relevant documents; one at least for every query.

    Raises:
        ValueError: The set is empty, a query is blank or has no relevant document, or an id is unknown.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, set[str]]

    def __post_init__(self) -> None:
        """Check that the three mappings belong together."""
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
    def from_pairs(cls, pairs: Iterable[Mapping[str, str]]) -> "RetrievalSet":
        """Make a set of rows with `query` and `document`: every document of a query is relevant to it.

        Identical documents become one document, identical queries one query. Ids are the numbers of first
        rows.

        Raises:
            ValueError: There are no rows, or a text is blank; the message names the row, counted from 0.
        """
        query_ids: dict[str, str] = {}
        document_ids: dict[str, str] = {}
        relevant: dict[str, set[str]] = {}
        for row, pair in enumerate(pairs):
            for column in ("query", "document"):
                if not pair[column].strip():
                    raise ValueError(f"row {row}, column {column!r}: the text is blank; remove the row.")
            query_id = query_ids.setdefault(pair["query"], str(row))
            document_id = document_ids.setdefault(pair["document"], str(row))
            relevant.setdefault(query_id, set()).add(document_id)
        return cls(
            queries={query_id: text for text, query_id in query_ids.items()},
            documents={document_id: text for text, document_id in document_ids.items()},
            relevant=relevant,
        )

    @classmethod
    def from_beir(cls, directory: str | Path) -> "RetrievalSet":
        """Read a directory in the BEIR layout: corpus.jsonl, queries.jsonl and qrels.tsv, plain or gzipped.

        A document is its title and its text with a space between, as in BEIR. Queries without a positive
        judgement are left out.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A line cannot be read, or the judgements name an unknown query or document.
        """
        directory = Path(directory)
        corpus = list(_read_rows(directory, "corpus.jsonl", ("_id", "text")))
        queries = list(_read_rows(directory, "queries.jsonl", ("_id", "text")))
        judged = list(_read_rows(directory, "qrels.tsv", ("query-id", "corpus-id", "score")))
        try:
            return cls.from_rows(corpus, queries, judged)
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from error

    @classmethod
    def from_rows(
        cls,
        corpus: Iterable[Mapping[str, Any]],
        queries: Iterable[Mapping[str, Any]],
        judged: Iterable[Mapping[str, Any]],
    ) -> "RetrievalSet":
        """Make a set of rows with the columns of BEIR; see `from_beir`.

        Raises:
            ValueError: The judgements name an unknown query or document.
        """
        documents = {str(row["_id"]): f"{row.get('title') or ''} {row['text']}".strip() for row in corpus}
        texts = {str(row["_id"]): row["text"] for row in queries}
        relevant: dict[str, set[str]] = {}
        for row in judged:
            if float(row["score"]) > 0:
                relevant.setdefault(str(row["query-id"]), set()).add(str(row["corpus-id"]))
        if unknown := relevant.keys() - texts.keys():
            raise ValueError(f"qrels.tsv judges the unknown query {min(unknown)!r}.")
        return cls({query: text for query, text in texts.items() if query in relevant}, documents, relevant)


def evaluate_embedder(
    model: SentenceTransformer, retrieval_set: RetrievalSet, *, batch_size: int = 32
) -> dict[str, float]:
    """Score an embedder: queries under its prompt "query", documents under its prompt "document".

    Args:
        model: The embedder; documents are ranked by its own similarity.
        retrieval_set: What to search.
        batch_size: Texts encoded at once.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.
    """
    scores = retrieval_evaluator(retrieval_set, batch_size=batch_size)(model)
    return {
        f"{metric}@{_CUTOFF}": 100 * float(scores[f"{model.similarity_fn_name}_{metric}@{_CUTOFF}"])
        for metric in _METRICS
    }


def evaluate_bm25(retrieval_set: RetrievalSet) -> dict[str, float]:
    """Score BM25 on the same metrics; see `rank_bm25` for the variant.

    Returns:
        `ndcg@10`, `recall@10` and `mrr@10`, in percent.
    """
    hits: list[object] = [
        [{"corpus_id": document, "score": score} for document, score in found] for found in rank_bm25(retrieval_set)
    ]
    metrics = retrieval_evaluator(retrieval_set).compute_metrics(hits)
    return {f"{metric}@{_CUTOFF}": 100 * float(metrics[f"{metric}@k"][_CUTOFF]) for metric in _METRICS}


def rank_bm25(retrieval_set: RetrievalSet) -> list[list[tuple[str, float]]]:
    """The ten best documents of every query by BM25, as (document id, score); see `Bm25Index` for the variant."""
    return Bm25Index(retrieval_set.documents).search(list(retrieval_set.queries.values()), _CUTOFF)


class Bm25Index:
    """BM25 over some documents: Lucene's variant with k1 1.5 and b 0.75.

    Words are lower-case, without English stop words, and not stemmed.

    Args:
        documents: Document id -> text.
    """

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._ids = list(documents)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._index.index(bm25s.tokenize(list(documents.values()), stopwords="english", show_progress=False))

    def search(self, queries: Sequence[str], top_k: int) -> list[list[tuple[str, float]]]:
        """The best documents of each query as (document id, score), the best first, at most `top_k`.

        A document that shares no word with a query is not retrieved for it.
        """
        tokens = bm25s.tokenize(list(queries), stopwords="english", show_progress=False)
        found, scores = self._index.retrieve(
            tokens, k=min(top_k, len(self._ids)), backend_selection="numpy", show_progress=False
        )
        ranked = []
        for row, row_scores in zip(found.tolist(), scores.tolist(), strict=True):
            hits = [(self._ids[document], score) for document, score in zip(row, row_scores, strict=True) if score > 0]
            ranked.append(sorted(hits, key=lambda hit: (-hit[1], hit[0])))  # ties as the evaluator breaks them
        return ranked


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
        retrieval_set: What to search.
        batch_size: Texts encoded at once.
        name: In front of its metrics.
        prompts: Texts put before queries and documents; None: the model's prompts "query" and "document".
        show_progress_bar: Whether encoding shows its progress.
    """
    query_prompt, corpus_prompt = prompts or (None, None)
    return InformationRetrievalEvaluator(
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


def _read_rows(directory: Path, name: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of a file of the BEIR layout, with the columns that are needed checked."""
    path = next((path for path in (directory / name, directory / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{directory}: neither {name} nor {name}.gz is there; see BEIR for the layout.")
    for _, row in read_rows(path, columns):
        yield row
