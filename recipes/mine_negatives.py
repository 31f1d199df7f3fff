"""Mine hard negatives for pairs with an embedder (paper §4.2.4).

python recipes/mine_negatives.py --config recipes/configs/mine_negatives.yaml
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from sentence_transformers import SentenceTransformer

from curation.files import write_jsonl
from curation.negatives import mine_hard_negatives
from curation.sources import Source, open_pairs
from nomic_bert.prompts import prefix_text
from recipes.arguments import parse_arguments


@dataclass(kw_only=True)
class MineArguments:
    """What to mine, with what.

    Attributes:
        model_name_or_path: the embedder: any directory or hub name that sentence-transformers opens, ours among them.
        sources: one mapping for each source of pairs; negatives come from the source's own documents.
        output_dir: directory for `NAME.jsonl.gz` with query, document and negatives, one file for each source.
        num_negatives: hard negatives for each pair.
        max_relative_score: drop candidates scoring above this times the pair's own document; null: keep all.
        max_seq_length: tokens after which texts are cut for mining; null: the model's limit.
        batch_size: texts encoded at once.
    """

    model_name_or_path: str
    sources: list
    output_dir: str
    num_negatives: int = 20  # paper §4.2.4
    max_relative_score: float | None = None
    max_seq_length: int | None = None
    batch_size: int = 32


def main(argv: list[str]) -> None:
    """Mine as the command line says; sources that have their file already are skipped."""
    (args,) = parse_arguments(__doc__, (MineArguments,), argv)
    try:
        sources = [Source.from_dict(entry, f"sources[{i}]") for i, entry in enumerate(args.sources)]
        todo = [source for source in sources if not _output(args, source).exists()]
        print(f"{len(sources) - len(todo)} of {len(sources)} sources are mined already.", flush=True)
        embedder = _open(args) if todo else None
        for source in todo:
            assert embedder is not None
            mined = mine_hard_negatives(
                open_pairs(source),
                embedder,
                query_prompt=prefix_text(source.query_prefix),
                document_prompt=prefix_text(source.document_prefix),
                num_negatives=args.num_negatives,
                batch_size=args.batch_size,
                max_relative_score=args.max_relative_score,
            )
            kept = [row for row in mined if row["negatives"]]
            write_jsonl(kept, _output(args, source))
            print(f"{source.name}: {len(kept):,} rows; {len(mined) - len(kept):,} without negatives left out.")
    except (ValueError, OSError) as error:  # OSError: no such file, or no such model
        raise SystemExit(f"error: {error}") from error


def _output(args: MineArguments, source: Source) -> Path:
    return Path(args.output_dir, f"{source.name}.jsonl.gz")


def _open(args: MineArguments) -> SentenceTransformer:
    embedder = SentenceTransformer(args.model_name_or_path)
    if args.max_seq_length is not None:
        embedder.max_seq_length = args.max_seq_length
    return embedder


if __name__ == "__main__":
    main(sys.argv[1:])
