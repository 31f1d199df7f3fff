"""The search of functions by what they do, with the model that the quickstart trained."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from curation.atlas.points import Points
from evaluation.ranking import Bm25Index, best_first, join_scores
from recipes.quickstart_text.query import embed_query
from textfiles.arrays import write_array
from textfiles.replacing import refuse_changed, replaceable_directory, require_replaceable

INDEX = "search_index"


def build_index(model_dir: str | Path, packages: Sequence[str], max_seq_length: int = 96) -> Path:
    """Embed the functions of packages and keep them with the model.

    Args:
        model_dir: directory of an embedder.
        packages: import names of installed packages.
        max_seq_length: tokens of a documentation string that are read.

    Returns:
        The index: `functions.json`, a list of [name, summary], and `embeddings.npy`, float32 (functions, dim).

    Raises:
        FileExistsError: a directory of that name has files of something else.
    """
    # here, because these imports take longer than a whole search in a finished index
    from nomic_bert.embedder import load_embedder
    from nomic_bert.encoding import encode_by_tokens
    from nomic_bert.finite_embeddings import require_finite
    from nomic_bert.prompts import prefix_text
    from recipes.quickstart_text.docstrings import docstring_pairs, read_docstrings

    index = Path(model_dir, INDEX)
    require_replaceable(index)
    pairs = docstring_pairs(read_docstrings(packages))
    embedder = load_embedder(model_dir, max_seq_length=max_seq_length)
    texts = [f"{pair['query']}\n\n{pair['document']}" for pair in pairs]
    embeddings = encode_by_tokens(
        embedder, texts, prompt=prefix_text("search_document"), description="Embedding functions"
    )
    require_finite(embeddings)
    with replaceable_directory(index) as directory:
        write_array(directory / "embeddings.npy", embeddings)
        (directory / "functions.json").write_text(json.dumps([[pair["name"], pair["query"]] for pair in pairs]))
    return index


def search(
    model_dir: str | Path, query: str, top: int = 5, by: Literal["dense", "bm25", "both"] = "both"
) -> list[tuple[float, str, str]]:
    """The functions that answer a query best as (score, name, summary), best first.

    Args:
        model_dir: directory of an embedder with an index.
        query: what the function should do.
        top: how many.
        by: "dense", whose score is the cosine; "bm25", over names and summaries, which finds only functions that have a
            word of the query; or "both", whose score is that of `evaluation.ranking.join_scores`.

    Raises:
        ValueError: a file of the index or of the model is damaged.
    """
    index = Path(model_dir, INDEX)
    refuse_changed(index, "*")
    functions = [tuple(each) for each in json.loads((index / "functions.json").read_text())]
    similarities = by_words = np.zeros(len(functions), dtype=np.float32)
    if by != "bm25":
        similarities = np.load(index / "embeddings.npy") @ embed_query(model_dir, query)
    if by != "dense":
        texts = [f"{name.replace('.', ' ').replace('_', ' ')} {summary}" for name, summary in functions]
        by_words = Bm25Index({str(number): text for number, text in enumerate(texts)}).scores(query)
    scores = {"dense": similarities, "bm25": by_words, "both": join_scores(similarities, by_words)}[by]
    found = [(float(scores[number]), *functions[number]) for number in best_first(scores, top)]
    return found if by != "bm25" else [each for each in found if each[0] > 0]


def indexed_points(model_dir: str | Path) -> tuple[Points, np.ndarray]:
    """The functions of an index as points of a map, by package, and their embeddings (functions, dim)."""
    index = Path(model_dir, INDEX)
    names, summaries = zip(*json.loads((index / "functions.json").read_text()), strict=True)
    columns: dict[str, list] = {"package": [name.partition(".")[0] for name in names], "function": list(names)}
    return Points(list(summaries), columns), np.load(index / "embeddings.npy")
