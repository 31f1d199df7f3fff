"""sentence-transformers' evaluators from a few settings, on local files or hub data sets: for use while training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
import pyarrow as pa
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)

from evaluation.retrieval import RetrievalSet, retrieval_evaluator
from nomic_bert.finite_embeddings import require_finite
from nomic_bert.prompts import prefix_text
from textfiles.beir import beir_of_rows
from textfiles.hub_names import is_hub_name
from textfiles.rows import column_remedy, read_rows, require_columns
from textfiles.settings import is_number
from textfiles.texts import number_of, text_of

Kind = Literal["retrieval", "pairs", "similarity"]
_COLUMNS = {"pairs": ("query", "document"), "similarity": ("sentence1", "sentence2", "score")}
_PREFIXES = {"similarity": ("classification", "classification")}
_RETRIEVAL_METRICS = [f"cosine_{name}@10" for name in ("ndcg", "accuracy", "precision", "recall", "mrr", "map")]
_METRICS = {"similarity": ["spearman_cosine", "pearson_cosine"]}


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """One evaluation.

    Attributes:
        name: in front of its metrics, such as `cranfield_cosine_ndcg@10` or `sts_spearman_cosine`.
        kind: "retrieval": a directory in the BEIR layout, or a hub data set in that of MTEB (configurations `corpus`,
            `queries` and judgements). "pairs": rows of a query and its document, every row's document being searched.
            "similarity": rows of two texts and a score, for rank correlation.
        path: .jsonl, .tsv, .csv (plain or .gz) or .parquet file, BEIR directory, or hub data set (`owner/name`).
        subset: configuration of a hub data set; of judgements, for "retrieval".
        split: of a hub data set; of judgements, for "retrieval", also in a BEIR directory.
        columns: of "pairs" (by default query, document) and "similarity" (sentence1, sentence2, score).
        prefixes: task prefixes of queries and documents, or of the two texts; by default those of search, or twice
            `classification` for "similarity". "" for none.
        limit: first rows of "pairs" and "similarity" to use.
        batch_size: texts encoded at once.

    Raises:
        ValueError: a setting is invalid.
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
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}.")
        expected = _COLUMNS.get(self.kind, ())
        if self.columns is not None and len(self.columns) != len(expected):
            raise ValueError(f"columns must name {len(expected)} columns for {self.kind!r}, not {self.columns}.")
        if self.prefixes is not None and len(self.prefixes) != 2:
            raise ValueError(f"prefixes must be two, not {self.prefixes}.")
        for name, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and not (is_number(value) and value > 0):
                raise ValueError(f"{name} must be a positive whole number, not {value!r}.")

    @property
    def prompts(self) -> tuple[str, str]:
        """The texts put before queries and documents, or before the two texts."""
        first, second = self.prefixes or _PREFIXES.get(self.kind, ("search_query", "search_document"))
        return prefix_text(first), prefix_text(second)

    @property
    def metrics(self) -> list[str]:
        """Names of what is measured; the one to choose a model by comes first."""
        return [f"{self.name}_{metric}" for metric in _METRICS.get(self.kind, _RETRIEVAL_METRICS)]


def build_evaluator(settings: EvaluatorSettings) -> InformationRetrievalEvaluator | EmbeddingSimilarityEvaluator:
    """Read and check the data and make the evaluator.

    It is called with a SentenceTransformer and returns a dict of metrics. An embedding that is not finite is an error.

    Raises:
        FileNotFoundError: the path is neither here nor on the hub.
        ValueError: a file cannot be read, lacks a column or has no rows, or a value is not what its column must hold;
            names the evaluator, the path and the row.
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
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluator {settings.name!r}: {error}") from error
    except (ValueError, datasets.exceptions.DatasetGenerationError, pa.ArrowException) as error:
        cause = error if isinstance(error, ValueError) else error.__cause__ or error
        raise ValueError(f"evaluator {settings.name!r}, {settings.path}: {cause}") from error


class _FiniteSimilarityEvaluator(EmbeddingSimilarityEvaluator):
    def embed_inputs(self, *arguments: Any, **settings: Any) -> Any:
        return require_finite(super().embed_inputs(*arguments, **settings))


def _similarity(settings: EvaluatorSettings) -> EmbeddingSimilarityEvaluator:
    first, second = settings.prompts
    one, other, score = settings.columns or _COLUMNS["similarity"]
    rows = [
        (text_of(row, one, where), text_of(row, other, where), number_of(row, score, where))
        for where, row in _rows(settings, [one, other, score])
    ]
    scores = [row[2] for row in rows]
    if len(set(scores)) < 2:
        raise ValueError(f"all scores are {scores[0]:g}, so there is nothing to correlate with; give other rows.")
    return _FiniteSimilarityEvaluator(
        [first + row[0] for row in rows],
        [second + row[1] for row in rows],
        scores,
        main_similarity="cosine",
        similarity_fn_names=["cosine"],
        name=settings.name,
        batch_size=settings.batch_size,
        write_csv=False,
    )


def _retrieval_set(settings: EvaluatorSettings) -> RetrievalSet:
    if settings.kind == "pairs":
        query, document = settings.columns or _COLUMNS["pairs"]
        return RetrievalSet.from_pairs(
            {"query": text_of(row, query, where), "document": text_of(row, document, where)}
            for where, row in _rows(settings, [query, document])
        )
    if (directory := Path(settings.path).expanduser()).is_dir():
        return RetrievalSet.from_beir(directory, settings.split)
    parts = (("corpus", "corpus"), ("queries", "queries"), (settings.subset, settings.split))
    rows = (_hub_rows(settings.path, subset, split) for subset, split in parts)
    return RetrievalSet.from_beir_set(beir_of_rows(*rows), settings.path)


@column_remedy("the columns of the evaluator")
def _rows(settings: EvaluatorSettings, columns: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows to use, each after what to call it in an error."""
    file = Path(settings.path).expanduser()
    if file.is_dir():
        raise ValueError(f"it is a directory, and {settings.kind!r} reads a file or a hub data set; name one.")
    if file.is_file():
        rows: Iterator[tuple[str, Mapping[str, Any]]] = read_rows(file, columns)
    else:
        rows = _hub_rows(settings.path, settings.subset, settings.split, columns)
    found = list(islice(rows, settings.limit))
    if not found:
        raise ValueError("there are no rows.")
    return found


def _hub_rows(
    path: str, subset: str | None, split: str, columns: list[str] | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not is_hub_name(path):
        raise FileNotFoundError(f"{path} is neither a file or directory here nor a hub name (owner/name).")
    try:
        rows = datasets.load_dataset(path, subset, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{path} is not here, and could not be read from the hub ({error}); correct the path."
        ) from error
    place = ", ".join(part for part in (path, subset, split) if part)
    if columns is not None:
        require_columns(rows.column_names, columns, place)
        rows = rows.select_columns(columns)
    return ((f"{place}, row {number}", row) for number, row in enumerate(rows, start=1))
