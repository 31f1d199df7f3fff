"""BM25 as mteb calls a search engine, for comparison with embedders on the same retrieval tasks."""

from typing import Any

from datasets import Dataset
from mteb.models import ModelMeta

from evaluation.ranking import Bm25Index

NAME = "baseline/bm25"


class Bm25Search:
    """The variant of `evaluation.ranking.Bm25Index`, for retrieval tasks, in the form that `mteb.evaluate` takes."""

    def __init__(self) -> None:
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": NAME, "revision": "lucene-k1_1.5-b_0.75"})
        self._index: Bm25Index | None = None

    def index(self, corpus: Dataset, **context: Any) -> None:
        """Index documents: title and text, as mteb joins them for embedders.

        Args:
            corpus: rows with `id`, `text` and perhaps `title`.
            **context: what else mteb says about the task; not needed.
        """
        self._index = Bm25Index({row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in corpus})

    def search(self, queries: Dataset, *, top_k: int, top_ranked: Any = None, **context: Any) -> dict:
        """The best documents: query id -> document id -> score.

        Raises:
            ValueError: the task asks to rank given documents, which this does not do.
        """
        if top_ranked is not None:
            raise ValueError("BM25 is for retrieval, not for reranking; leave the task out.")
        assert self._index is not None, "mteb indexes before it searches"
        found = self._index.search(list(queries["text"]), top_k)
        return {query: dict(hits) for query, hits in zip(queries["id"], found, strict=True)}
