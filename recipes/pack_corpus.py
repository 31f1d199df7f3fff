"""Pack documents into blocks for stage 1 (paper §4.1.1).

python recipes/pack_corpus.py --config recipes/configs/pack_corpus.yaml
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from curation.packing import pack_documents
from curation.sources import load_documents
from nomic_bert.embedder import atomic_directory
from recipes.arguments import parse_arguments


@dataclass(kw_only=True)
class PackArguments:
    """What to pack.

    Attributes:
        documents: files, directories or patterns of .txt, .jsonl(.gz) or .parquet, with the column `text`.
        tokenizer: directory or hub name.
        output_dir: directory for the blocks.
        block_size: tokens in a block.
        seed: of the order of the documents; null keeps the order of the files.
    """

    documents: list
    tokenizer: str
    output_dir: str
    block_size: int = 2048  # paper §4.1.1
    seed: int | None = 0


def main(argv: list[str]) -> None:
    """Pack as the command line says."""
    (args,) = parse_arguments(__doc__, (PackArguments,), argv)
    if Path(args.output_dir).exists():
        raise SystemExit(f"error: {args.output_dir} exists. Choose another output_dir or remove it.")
    try:
        texts = list(load_documents(args.documents))
        if args.seed is not None:
            random.Random(args.seed).shuffle(texts)
        blocks = pack_documents(texts, AutoTokenizer.from_pretrained(args.tokenizer), args.block_size)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    with atomic_directory(args.output_dir) as directory:
        blocks.save_to_disk(directory)
        manifest = {**vars(args), "num_documents": len(texts), "num_blocks": len(blocks)}
        (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
