"""The quickstart's data: documentation strings of installed packages, split, without what is held out."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.duplicates import overlapping_rows
from recipes.quickstart_text.docstrings import Docstring, DocstringPair, docstring_pairs, read_docstrings
from recipes.quickstart_text.weak_pairs import weak_pairs
from textfiles.atomic import atomic_directory
from textfiles.writing import write_jsonl


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Which packages, and what is held out of training.

    Attributes:
        packages: import names that are trained on; each is a source, the small ones together are one.
        more_packages: import names that are trained on too, and of which nothing is held out; "stdlib": Python's own.
        unseen_packages: import names that only the evaluation reads.
        held_out_pairs: pairs of `packages` that are held out.
        limit: pairs and documents of a package that are used, the first ones after shuffling; null: all.
        weak_pairs: most pairs of each kind of `quickstart_text.weak_pairs` and package that stage 2 trains on too.
        stage3_share: share of the pairs that stage 2 leaves to stage 3: pairs that it has fitted already teach little.
        smallest_source: training pairs of a package below which it joins the source "others".
        vocab_size: words of the tokenizer.
        seed: of the split.

    Raises:
        ValueError: a package is named twice: what is held out or unseen must not be trained on.
    """

    packages: list
    more_packages: list
    unseen_packages: list
    held_out_pairs: int
    weak_pairs: int
    stage3_share: float
    smallest_source: int
    vocab_size: int
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        named = Counter([*self.packages, *self.more_packages, *self.unseen_packages])
        if twice := [name for name, count in named.items() if count > 1]:
            raise ValueError(
                f"{', '.join(twice)}: named twice in packages, more_packages and unseen_packages; name each once."
            )


def build_corpus(settings: CorpusSettings, directory: Path, weak_seed: int = 0) -> None:
    """Write `documents.jsonl.gz`, `stage2/SOURCE.jsonl.gz`, `stage3/SOURCE.jsonl.gz` and `held_out_(un)seen.jsonl.gz`.

    `weak_seed` says where weak pairs are cut out.

    Exact and near duplicates of held-out texts are removed from what is trained on: scipy and numpy repeat each other.

    Raises:
        ValueError: a package is not installed, or has no documentation under this import name.
    """
    records = _shuffled_records(settings, [*settings.packages, *settings.unseen_packages])
    unseen_names = set(settings.unseen_packages)
    pairs = docstring_pairs(records)
    unseen = [pair for pair in pairs if pair["package"] in unseen_names]
    seen = [pair for pair in pairs if pair["package"] not in unseen_names]
    held_out = seen[: settings.held_out_pairs]
    own = [record for record in records if record["package"] not in unseen_names]
    own += _shuffled_records(settings, settings.more_packages)
    candidates = len(docstring_pairs(own)) - len(held_out)
    kept = _without_overlap(own, held_out + unseen)
    train = docstring_pairs(kept)
    weak = weak_pairs(kept, settings.weak_pairs, weak_seed)
    with atomic_directory(directory) as files:
        write_jsonl(({"text": record["text"]} for record in kept), files / "documents.jsonl.gz")
        for source, rows in _by_source(train, settings.smallest_source).items():
            split = round(settings.stage3_share * len(rows))
            write_jsonl(rows[split:], files / "stage2" / f"{source}.jsonl.gz")
            write_jsonl(rows[:split], files / "stage3" / f"{source}.jsonl.gz")
        for source, rows in _by_source(weak, settings.smallest_source).items():
            write_jsonl(rows, files / "stage2" / f"{source}_weak.jsonl.gz")
        write_jsonl(held_out, files / "held_out_seen.jsonl.gz")
        write_jsonl(unseen, files / "held_out_unseen.jsonl.gz")
        counts = {
            "documents": len(kept),
            "pairs": len(train),
            "weak_pairs": len(weak),
            "held_out_seen": len(held_out),
            "held_out_unseen": len(unseen),
            "pairs_removed_as_duplicates_of_held_out": candidates - len(train),
        }
        (files / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    print("Corpus: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()), flush=True)


def _shuffled_records(settings: CorpusSettings, packages: Sequence[str]) -> list[Docstring]:
    # a distribution may install more than the package of its name
    try:
        records = [record for record in read_docstrings(sorted(packages)) if record["package"] in packages]
    except ValueError as error:
        raise ValueError(f"{error} `make quickstart` installs what the quickstart reads.") from error
    if empty := sorted({*packages} - {record["package"] for record in records}):
        raise ValueError(f"{', '.join(empty)}: no documentation is found; write the import name (sklearn).")
    random.Random(settings.seed).shuffle(records)
    return records if settings.limit is None else _first_of_each(records, settings.limit)


def _first_of_each(records: list[Docstring], limit: int) -> list[Docstring]:
    taken: Counter[str] = Counter()
    kept = []
    for record in records:
        taken[record["package"]] += 1
        if taken[record["package"]] <= limit:
            kept.append(record)
    return kept


def _by_source(pairs: list[DocstringPair], smallest: int) -> dict[str, list[DocstringPair]]:
    counts = Counter(pair["package"] for pair in pairs)
    sources: dict[str, list[DocstringPair]] = defaultdict(list)
    for pair in pairs:
        sources[pair["package"] if counts[pair["package"]] >= smallest else "others"].append(pair)
    return sources


def _without_overlap(records: list[Docstring], held_out: Sequence[DocstringPair]) -> list[Docstring]:
    """What may be trained on: no summary, body or whole text close to one that is held out."""
    queries, bodies = ([pair[key] for pair in held_out] for key in ("query", "document"))
    whole = [f"{query}\n\n{body}" for query, body in zip(queries, bodies, strict=True)]
    close = [
        overlapping_rows([record["summary"] for record in records], queries),
        overlapping_rows([record["body"] for record in records], bodies),
        overlapping_rows([record["text"] for record in records], whole),
    ]
    return [record for record, *found in zip(records, *close, strict=True) if not any(found)]
