"""Search the functions of installed Python packages by what they do.

python recipes/search.py outputs/quickstart/model "solve a banded linear system"
python recipes/search.py DIR QUERY [--top 5] [--packages scipy,sklearn]

The first search with a model embeds the packages' functions and keeps them in DIR/search_index; the quickstart has
done that for its model. Later ones take seconds, most of them Python's imports.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nomic_bert import NomicBertModel
from nomic_bert.prompts import prefix_text

PACKAGES = ("networkx", "numpy", "pandas", "polars", "scipy", "sklearn")
INDEX = "search_index"


def build_index(model_dir: str | Path, packages: Sequence[str], max_seq_length: int = 96) -> Path:
    """Embed the functions of packages and keep them with the model.

    Args:
        model_dir: directory of an embedder.
        packages: import names of installed packages.
        max_seq_length: tokens of a documentation string that are read.

    Returns:
        The index: `functions.json`, a list of [name, summary], and `embeddings.npy`, float32 (functions, dim).
    """
    # here, because these imports take longer than a whole search in a finished index
    from nomic_bert.embedder import load_embedder
    from nomic_bert.encoding import encode_by_tokens
    from recipes.quickstart_text.docstrings import docstring_pairs, read_docstrings
    from textfiles.atomic import atomic_directory

    pairs = docstring_pairs(read_docstrings(packages))
    embedder = load_embedder(model_dir, max_seq_length=max_seq_length)
    texts = [f"{pair['query']}\n\n{pair['document']}" for pair in pairs]
    embeddings = encode_by_tokens(embedder, texts, prompt=prefix_text("search_document"), description="index")
    index = Path(model_dir, INDEX)
    with atomic_directory(index) as directory:
        np.save(directory / "embeddings.npy", embeddings)
        (directory / "functions.json").write_text(json.dumps([[pair["name"], pair["query"]] for pair in pairs]))
    return index


def search(model_dir: str | Path, query: str, top: int = 5) -> list[tuple[float, str, str]]:
    """The functions nearest to a query as (cosine, name, summary), best first.

    Args:
        model_dir: directory of an embedder with an index.
        query: what the function should do.
        top: how many.
    """
    index = Path(model_dir, INDEX)
    functions = json.loads((index / "functions.json").read_text())
    scores = np.load(index / "embeddings.npy") @ _embed_query(model_dir, query)
    best = np.argsort(-scores, kind="stable")[:top]
    return [(float(scores[i]), *functions[i]) for i in best]


@torch.no_grad()
def _embed_query(model_dir: str | Path, query: str) -> np.ndarray:
    """As `load_embedder(model_dir).encode_query(query)`, without the seconds of importing sentence-transformers."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model_dir)(prefix_text("search_query") + query, return_tensors="pt")
    hidden = NomicBertModel.from_pretrained(model_dir).eval()(tokens["input_ids"]).last_hidden_state
    return torch.nn.functional.normalize(hidden[0].mean(dim=0), dim=0).numpy()


def main(argv: list[str]) -> None:
    """Search as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", metavar="DIR", help="directory of an embedder")
    parser.add_argument("query", help="what the function should do")
    parser.add_argument("--top", type=int, default=5, help="how many to show")
    parser.add_argument("--packages", help=f"packages to index anew, by comma (default {','.join(PACKAGES)})")
    args = parser.parse_args(argv)
    if not Path(args.model_dir, "config.json").is_file():
        parser.error(f"{args.model_dir} is not a model directory (no config.json); `make quickstart` makes one.")
    if not args.query.strip():
        parser.error("the query is blank.")
    if args.packages or not Path(args.model_dir, INDEX).is_dir():
        build_index(args.model_dir, args.packages.split(",") if args.packages else PACKAGES)
    for score, name, summary in search(args.model_dir, args.query, args.top):
        print(f"{score:.3f}  {name}\n       {summary}")


if __name__ == "__main__":
    main(sys.argv[1:])
