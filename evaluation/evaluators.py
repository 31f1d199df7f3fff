"""sentence-transformers' evaluators from a few settings, on local files or hub data sets: for use while training."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import datasets
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)

from evaluation.retrieval import RetrievalSet, retrieval_evaluator
from evaluation.rows import read_rows
from nomic_bert.prompts import prefix_text

Kind = Literal["retrieval", "pairs", "similarity"]
_COLUMNS = {"pairs": ("query", "document"), "similarity": ("sentence1", "sentence2", "score")}
_PREFIXES = {"similarity": ("classification", "classification")}


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """One evaluation.

    Attributes:
        name: in front of its metrics, such as `cranfield_cosine_ndcg@10` or `sts_spearman_cosine`.
        kind: "retrieval": a directory in the BEIR layout, or a hub data set in that of MTEB (configurations `corpus`,
            `queries` and judgements). "pairs": rows of a query and its document, every row's document being searched.
            "similarity": rows of two texts and a score, for rank correlation.
        path: .jsonl, .tsv, .csv (each perhaps .gz) or .parquet file, BEIR directory, or hub data set (`owner/name`).
        subset: configuration of a hub data set; of judgements, for "retrieval".
        split: of a hub data set; of judgements, for "retrieval".
        columns: of "pairs" (by default query, document) and "similarity" (sentence1, sentence2, score).
        prefixes: task prefixes of queries and documents, or of the two texts; by default those of search, or twice
            `classification` for "similarity". "" for none.
        limit: first rows of "pairs" and "similarity" to use.
        batch_size: texts encoded at once.

    Raises:
        ValueError: a setting that cannot be meant.
    """

    name: str
    kind: Kind
    path: str
    subset: str | None = None
    split: str = "test"
    columns: list[str] | None = None
    prefixes: list[str] | None = None
    limit: int | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}.")
        expected = _COLUMNS.get(self.kind, ())
        if self.columns is not None and len(self.columns) != len(expected):
            raise ValueError(f"columns must name {len(expected)} columns for {self.kind!r}, not {self.columns}.")
        if self.prefixes is not None and len(self.prefixes) != 2:
            raise ValueError(f"prefixes must be two, not {self.prefixes}.")

    @property
    def prompts(self) -> tuple[str, str]:
        """The texts put before queries and documents, or before the two texts."""
        first, second = self.prefixes or _PREFIXES.get(self.kind, ("search_query", "search_document"))
        return prefix_text(first), prefix_text(second)


def build_evaluator(settings: EvaluatorSettings) -> InformationRetrievalEvaluator | EmbeddingSimilarityEvaluator:
    """Read the data and make the evaluator; it is called with a SentenceTransformer and returns a dict of metrics.

    Raises:
        FileNotFoundError: the path is neither here nor on the hub.
        ValueError: the data cannot be read, or lack a column; names the evaluator and the path.
    """
    try:
        if settings.kind == "similarity":
            return _similarity(settings)
        return retrieval_evaluator(
            _retrieval_set(settings),
            batch_size=settings.batch_size,
            name=settings.name,
            prompts=settings.prompts,
            show_progress_bar=False,
        )
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error if isinstance(error, ValueError) else error.__cause__ or error
        raise ValueError(f"evaluator {settings.name!r}, {settings.path}: {cause}") from error


def _similarity(settings: EvaluatorSettings) -> EmbeddingSimilarityEvaluator:
    one, other, scores = _columns(settings)
    first, second = settings.prompts
    return EmbeddingSimilarityEvaluator(
        [first + text for text in one],
        [second + text for text in other],
        [float(score) for score in scores],
        main_similarity="cosine",
        similarity_fn_names=["cosine"],
        name=settings.name,
        batch_size=settings.batch_size,
        write_csv=False,
    )


def _retrieval_set(settings: EvaluatorSettings) -> RetrievalSet:
    if settings.kind == "pairs":
        pairs = zip(*_columns(settings), strict=True)
        return RetrievalSet.from_pairs({"query": query, "document": document} for query, document in pairs)
    if Path(settings.path).expanduser().is_dir():
        return RetrievalSet.from_beir(Path(settings.path).expanduser())
    parts = (("corpus", "corpus"), ("queries", "queries"), (settings.subset, settings.split))
    return RetrievalSet.from_rows(*(_hub_split(settings.path, subset, split) for subset, split in parts))


def _columns(settings: EvaluatorSettings) -> list[list]:
    path = Path(settings.path).expanduser()
    columns = settings.columns or _COLUMNS[settings.kind]
    if path.is_file():
        found = [row for _, row in islice(read_rows(path, columns), settings.limit)]
        return [[row[column] for row in found] for column in columns]
    rows = _hub_split(settings.path, settings.subset, settings.split)
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(f"no column {column!r}; there are {', '.join(rows.column_names)}.")
    rows = rows.select(range(min(len(rows), settings.limit or len(rows))))
    return [list(rows[column]) for column in columns]


def _hub_split(path: str, subset: str | None, split: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(path, subset, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{path} is no local path, nor could it be read from the hub ({error}); correct the path."
        ) from error
