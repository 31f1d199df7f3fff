"""The quickstart's data: documentation strings of installed packages, split, without what is held out."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.duplicates import overlapping_rows
from recipes.quickstart_text.docstrings import DocstringPair, docstring_pairs, read_docstrings
from textfiles.atomic import atomic_directory
from textfiles.writing import write_jsonl


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Which packages, and what is held out of training.

    Attributes:
        packages: import names that are trained on; each is a source, the small ones together are one.
        unseen_packages: import names that only the evaluation reads.
        held_out_pairs: pairs of `packages` that are held out.
        limit: pairs and documents of a package that are used, the first ones after shuffling; null: all.
        stage3_share: share of the pairs that stage 2 leaves to stage 3: pairs that it has fitted already teach little.
        smallest_source: training pairs of a package below which it joins the source "others".
        vocab_size: words of the tokenizer.
        seed: of the split.
    """

    packages: list
    unseen_packages: list
    held_out_pairs: int
    stage3_share: float
    smallest_source: int
    vocab_size: int
    limit: int | None = None
    seed: int = 0


def build_corpus(settings: CorpusSettings, directory: Path) -> None:
    """Write `documents.jsonl.gz`, `stage2/SOURCE.jsonl.gz`, `stage3/SOURCE.jsonl.gz` and `held_out_(un)seen.jsonl.gz`.

    Exact and near duplicates of held-out texts are removed from what is trained on: scipy and numpy repeat each other.
    """
    names = {*settings.packages, *settings.unseen_packages}
    # a distribution may install more than the package of its name
    records = [record for record in read_docstrings(sorted(names)) if record["package"] in names]
    shuffle = random.Random(settings.seed).shuffle
    shuffle(records)
    if settings.limit is not None:
        taken: dict[str, int] = defaultdict(int)
        kept = []
        for record in records:
            taken[record["package"]] += 1
            if taken[record["package"]] <= settings.limit:
                kept.append(record)
        records = kept
    unseen_names = set(settings.unseen_packages)
    pairs = docstring_pairs(records)
    unseen = [pair for pair in pairs if pair["package"] in unseen_names]
    seen = [pair for pair in pairs if pair["package"] not in unseen_names]
    held_out, seen = seen[: settings.held_out_pairs], seen[settings.held_out_pairs :]
    documents = [record["text"] for record in records if record["package"] not in unseen_names]
    train, documents = _without_overlap(seen, documents, held_out + unseen)
    with atomic_directory(directory) as files:
        write_jsonl(({"text": text} for text in documents), files / "documents.jsonl.gz")
        for source, rows in _by_source(train, settings.smallest_source).items():
            split = round(settings.stage3_share * len(rows))
            write_jsonl(rows[split:], files / "stage2" / f"{source}.jsonl.gz")
            write_jsonl(rows[:split], files / "stage3" / f"{source}.jsonl.gz")
        write_jsonl(held_out, files / "held_out_seen.jsonl.gz")
        write_jsonl(unseen, files / "held_out_unseen.jsonl.gz")
        counts = {
            "documents": len(documents),
            "pairs": len(train),
            "held_out_seen": len(held_out),
            "held_out_unseen": len(unseen),
            "pairs_removed_as_duplicates_of_held_out": len(seen) - len(train),
        }
        (files / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    print("Corpus: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()), flush=True)


def _by_source(pairs: list[DocstringPair], smallest: int) -> dict[str, list[DocstringPair]]:
    counts = Counter(pair["package"] for pair in pairs)
    sources: dict[str, list[DocstringPair]] = defaultdict(list)
    for pair in pairs:
        sources[pair["package"] if counts[pair["package"]] >= smallest else "others"].append(pair)
    return sources


def _without_overlap(
    seen: list[DocstringPair], documents: list[str], held_out: Sequence[DocstringPair]
) -> tuple[list[DocstringPair], list[str]]:
    """What may be trained on: no query, document or whole text close to one that is held out."""
    queries, bodies = ([pair[key] for pair in held_out] for key in ("query", "document"))
    close_query = overlapping_rows([pair["query"] for pair in seen], queries)
    close_body = overlapping_rows([pair["document"] for pair in seen], bodies)
    train = [pair for pair, *close in zip(seen, close_query, close_body, strict=True) if not any(close)]
    whole = [f"{query}\n\n{body}" for query, body in zip(queries, bodies, strict=True)]
    close_document = overlapping_rows(documents, whole)
    return train, [text for text, close in zip(documents, close_document, strict=True) if not close]
