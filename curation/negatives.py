"""Hard negatives: documents close to a query that are not its own (paper §4.2.4)."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import datasets
from sentence_transformers import SentenceTransformer
from torch import Tensor

from curation.duplicates import normalize_text
from curation.search import top_k

logger = logging.getLogger(__name__)


def mine_hard_negatives(
    pairs: datasets.Dataset,
    embedder: SentenceTransformer,
    *,
    query_prompt: str,
    document_prompt: str,
    num_negatives: int = 20,
    batch_size: int = 32,
    max_relative_score: float | None = None,
) -> datasets.Dataset:
    """Give every pair of one source the documents of that source that are nearest to its query.

    Left out are the pair's own document, the other documents that stand with the same query, and copies of
    any of these; queries and documents count as the same when `normalize_text` makes them equal.

    Args:
        pairs: Data set with the columns `query` and `document`, all of one source.
        embedder: Model that judges nearness, by cosine.
        query_prompt: Text put before every query, such as "search_query: ", or "".
        document_prompt: Text put before every document, likewise.
        num_negatives: Hard negatives per pair.
        batch_size: Texts encoded at once.
        max_relative_score: Drop candidates that score above this times the score of the pair's own document:
            they are likely to be answers too. Nothing takes their place. None (the paper): keep all.

    Returns:
        The pairs with a column `negatives`, nearest first. A pair for which too few documents remain has a
        shorter list, perhaps an empty one; their number is logged.

    Raises:
        ValueError: The pairs are empty, lack a column or have negatives already.
    """
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, not {num_negatives}.")
    _check_columns(pairs)
    query_ids, queries = _number(pairs["query"])
    # A query is encoded as it is written; what stands with it is gathered over all its ways of writing.
    query_keys = [normalize_text(query) for query in pairs["query"]]
    document_ids, documents = _number(pairs["document"], key=normalize_text)
    positives: dict[str, set[int]] = defaultdict(set)
    for key, document in zip(query_keys, document_ids, strict=True):
        positives[key].add(document)

    query_embeddings = _encode(embedder, queries, query_prompt, batch_size)
    document_embeddings = _encode(embedder, documents, document_prompt, batch_size)
    excluded = [positives[normalize_text(query)] for query in queries]
    nearest = _nearest_documents(query_embeddings, document_embeddings, excluded, num_negatives)

    bounds = [math.inf] * len(pairs)
    if max_relative_score is not None:
        own_scores = (query_embeddings[query_ids] * document_embeddings[document_ids]).sum(dim=1)
        bounds = (max_relative_score * own_scores).tolist()
    negatives = [
        [documents[document] for score, document in nearest[query] if score <= bound]
        for query, bound in zip(query_ids, bounds, strict=True)
    ]
    logger.info(
        "Mined negatives for %d pairs of %d documents; %d pairs have fewer than %d, %d of them none.",
        len(pairs),
        len(documents),
        sum(len(texts) < num_negatives for texts in negatives),
        num_negatives,
        sum(not texts for texts in negatives),
    )
    return pairs.add_column("negatives", negatives, feature=datasets.List(datasets.Value("string")))


def _check_columns(pairs: datasets.Dataset) -> None:
    for column in ("query", "document"):
        if column not in pairs.column_names:
            raise ValueError(f"no column {column!r}; the columns are {', '.join(pairs.column_names) or '(none)'}.")
    if "negatives" in pairs.column_names:
        raise ValueError('the pairs have negatives already; to mine new ones call remove_columns("negatives") first.')
    if len(pairs) == 0:
        raise ValueError("there are no pairs to mine negatives for.")


def _number(texts: Iterable[str], key: Callable[[str], str] = str) -> tuple[list[int], list[str]]:
    """Number of every text among the distinct ones, and the distinct ones: the first of each key."""
    numbers: dict[str, int] = {}
    distinct: list[str] = []
    ids = []
    for text in texts:
        number = numbers.setdefault(key(text), len(distinct))
        if number == len(distinct):
            distinct.append(text)
        ids.append(number)
    return ids, distinct


def _encode(embedder: SentenceTransformer, texts: list[str], prompt: str, batch_size: int) -> Tensor:
    return embedder.encode(
        texts,
        prompt=prompt,
        batch_size=batch_size,
        convert_to_tensor=True,
        normalize_embeddings=True,
        show_progress_bar=True,
    )


def _nearest_documents(
    queries: Tensor, documents: Tensor, excluded: list[set[int]], num_documents: int
) -> list[list[tuple[float, int]]]:
    """(cosine, document) of the nearest documents of every query that are not excluded for it, nearest first."""
    nearest: list[list[tuple[float, int]]] = [[] for _ in excluded]
    # The search must reach past the excluded documents. Queries are grouped by how many they have, in powers
    # of two, so that one query with thousands of documents does not deepen the search of all.
    groups: dict[int, list[int]] = defaultdict(list)
    for query, own in enumerate(excluded):
        groups[1 << (len(own) - 1).bit_length()].append(query)
    for margin, members in sorted(groups.items()):
        scores, indices = top_k(queries[members], documents, min(num_documents + margin, len(documents)))
        for query, row_scores, row in zip(members, scores.tolist(), indices.tolist(), strict=True):
            kept = [(score, doc) for score, doc in zip(row_scores, row, strict=True) if doc not in excluded[query]]
            nearest[query] = kept[:num_documents]
    return nearest
