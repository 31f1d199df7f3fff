"""Search the functions of installed Python packages by what they do.

python recipes/search.py outputs/quickstart/model "solve a banded linear system"
python recipes/search.py DIR QUERY [--top 5] [--packages scipy,sklearn] [--dense | --bm25]

Embeddings and BM25 rank together: words find names, embeddings what is said otherwise. The first search with a model
embeds the functions of the packages and keeps them in DIR/search_index, which the quickstart has done for its model.
Later ones take about a second.
"""

import argparse
from pathlib import Path

from textfiles.commands import one_line_errors, run_command

PACKAGES = ("networkx", "numpy", "pandas", "polars", "scipy", "sklearn")


def main(argv: list[str]) -> None:
    """Search as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", metavar="DIR", help="directory of an embedder")
    parser.add_argument("query", help="what the function should do")
    parser.add_argument("--top", type=int, default=5, help="how many to show")
    parser.add_argument("--packages", help=f"packages to index anew, by comma (default {','.join(PACKAGES)})")
    ranked_by = parser.add_mutually_exclusive_group()
    ranked_by.add_argument("--dense", dest="by", action="store_const", const="dense", help="rank by embeddings alone")
    ranked_by.add_argument("--bm25", dest="by", action="store_const", const="bm25", help="rank by BM25 alone")
    parser.set_defaults(by="both")
    args = parser.parse_args(argv)
    if not Path(args.model_dir, "config.json").is_file():
        parser.error(f"{args.model_dir} is not a model directory (no config.json); `make quickstart` makes one.")
    if not args.query.strip():
        parser.error("the query is blank.")
    if args.top < 1:
        parser.error(f"--top must be at least 1, not {args.top}.")
    from recipes.quickstart_text.index import INDEX, build_index, search  # --help does not need it

    with one_line_errors():
        if args.packages or not Path(args.model_dir, INDEX).is_dir():
            build_index(args.model_dir, args.packages.split(",") if args.packages else PACKAGES)
        found = search(args.model_dir, args.query, args.top, args.by)
    if not found:
        print("No name or summary has a word of the query. Search without --bm25 to rank by meaning too.")
    for score, name, summary in found:
        print(f"{score:.3f}  {name}\n       {summary}")


if __name__ == "__main__":
    run_command(main, "Rerun the command to search.")
