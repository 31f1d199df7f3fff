"""Noise put into filtered sources on purpose, and how much of it each rule catches."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from curation.files import write_jsonl
from curation.filtering.consistency import EmbeddedPairs, Samples
from curation.shards import SETTINGS
from curation.sources import Source, open_pairs
from nomic_bert.files import atomic_directory

TOP_KS = (1, 2, 3, 5, 10, 20, 50, 200, 1_000)
THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(51))
TOP_K = 2  # paper §4.2.1
SAMPLE_SIZES = (300, 1_000, 3_000)
ARMS = {
    "clean": "no noise, nothing filtered",
    "noisy": "with noise, nothing filtered",
    "top_k": f"with noise, filtered by top-{TOP_K}",
    "threshold": "with noise, filtered by the one threshold that keeps as many rows",
}


@dataclass(frozen=True)
class NoisySource:
    """A filtered source of which some rows have the documents of other rows.

    Attributes:
        source: where its rows are.
        rows: numbers of the rows (n,).
        document_rows: for each the row whose document it has now (n,); its own, but for the noise.
        noise: which have another document (n,).
        ranks: of the documents (n,).
        similarities: of query and document (n,).
        ranks_in_samples: size of a sample -> ranks (n,) where rows are dealt out to samples of at most that size.
    """

    source: Source
    rows: np.ndarray
    document_rows: np.ndarray
    noise: np.ndarray
    ranks: np.ndarray
    similarities: np.ndarray
    ranks_in_samples: Mapping[int, np.ndarray]


def read_noisy(directory: Path, share: float, seed: int) -> NoisySource:
    """Judge again what recipes/filter_pairs.py judged with `keep_embeddings`, after moving documents between rows.

    The documents stay the same as a set, so only the moved ones are to be embedded anew, and they are embedded already.

    Args:
        directory: of one source, in one sample.
        share: of the rows whose documents are dealt out anew among them.
        seed: of the choice.

    Raises:
        ValueError: the source has no embeddings, or several samples.
    """
    files = sorted((directory / "embeddings").glob("*.npz"))
    if len(files) != 1:
        raise ValueError(
            f"{directory}: {len(files)} files of embeddings; filter with --keep_embeddings true, and a sample_size "
            "that makes one sample of the source."
        )
    embedded = EmbeddedPairs.load(files[0])
    moved, sources = shuffle_documents(embedded, share, np.random.default_rng(seed))
    found, similarities = moved.judge()
    settings = json.loads((directory / SETTINGS).read_text())["source"]
    return NoisySource(
        source=Source(**{key: value for key, value in settings.items() if key != "files"}),
        rows=embedded.rows,
        document_rows=embedded.rows[sources],
        noise=moved.document_ids != embedded.document_ids,
        ranks=found.numpy(),
        similarities=similarities.numpy(),
        ranks_in_samples={size: _ranks_in_samples(moved, size, seed) for size in SAMPLE_SIZES},
    )


def _ranks_in_samples(pairs: EmbeddedPairs, size: int, seed: int) -> np.ndarray:
    found = np.empty(len(pairs.rows), dtype=np.int64)
    for places in Samples(len(pairs.rows), size, seed).rows():
        documents, ids = np.unique(pairs.document_ids[places], return_inverse=True)
        sample = replace(
            pairs,
            rows=pairs.rows[places],
            query_ids=pairs.query_ids[places],
            document_ids=ids,
            documents=pairs.documents[documents],
        )
        found[places] = sample.judge()[0].numpy()
    return found


def shuffle_documents(
    embedded: EmbeddedPairs, share: float, random: np.random.Generator
) -> tuple[EmbeddedPairs, np.ndarray]:
    """The pairs with the documents of some rows moved on by one row among them, and each row's document's place."""
    chosen = random.permutation(len(embedded.rows))[: round(share * len(embedded.rows))]
    places = np.arange(len(embedded.rows))
    places[chosen] = np.roll(chosen, 1)
    return replace(embedded, document_ids=embedded.document_ids[places]), places


def caught_and_lost(noise: np.ndarray, dropped: np.ndarray) -> tuple[float, float]:
    """Share of the noise that is dropped, and share of the other rows."""
    return float(dropped[noise].mean()), float(dropped[~noise].mean())


def thresholds_of_sources(sources: Sequence[NoisySource], lost: Sequence[float]) -> np.ndarray:
    """What is dropped where each source has a threshold of its own that loses a given share of its other rows."""
    dropped = []
    for each, share in zip(sources, lost, strict=True):
        clean = np.sort(each.similarities[~each.noise])
        bound = clean[min(round(share * len(clean)), len(clean) - 1)]
        dropped.append(each.similarities < bound)
    return np.concatenate(dropped)


def figures(sources: Sequence[NoisySource]) -> dict[str, Any]:
    """All that is reported, as JSON values: each rule's (caught, lost) over all rows, and at top-2's loss by source."""
    noise = np.concatenate([each.noise for each in sources])
    ranks = np.concatenate([each.ranks for each in sources])
    similarities = np.concatenate([each.similarities for each in sources])
    lost = [caught_and_lost(each.noise, each.ranks > TOP_K)[1] for each in sources]
    bound = _threshold_that_loses(similarities[~noise], caught_and_lost(noise, ranks > TOP_K)[1])
    own = thresholds_of_sources(sources, lost)
    ends = np.cumsum([len(each.rows) for each in sources])
    by_source = {
        each.source.name: {
            "rows": len(each.rows),
            "noise": int(each.noise.sum()),
            "top_k": caught_and_lost(each.noise, each.ranks > TOP_K),
            "threshold": caught_and_lost(each.noise, each.similarities < bound),
            "own_threshold": caught_and_lost(each.noise, own[end - len(each.rows) : end]),
        }
        for each, end in zip(sources, ends, strict=True)
    }
    steps = np.linspace(0, 0.6, 61)
    return {
        "threshold": bound,
        "sources": by_source,
        "all": {
            "rows": len(noise),
            "noise": int(noise.sum()),
            "top_k": caught_and_lost(noise, ranks > TOP_K),
            "threshold": caught_and_lost(noise, similarities < bound),
            "own_threshold": caught_and_lost(noise, own),
        },
        "sample_sizes": {
            str(size): caught_and_lost(noise, np.concatenate([each.ranks_in_samples[size] for each in sources]) > TOP_K)
            for size in SAMPLE_SIZES
        },
        "top_ks": {str(k): caught_and_lost(noise, ranks > k) for k in TOP_KS},
        "thresholds": {str(t): caught_and_lost(noise, similarities < t) for t in THRESHOLDS},
        "own_thresholds": [
            caught_and_lost(noise, thresholds_of_sources(sources, [share] * len(sources))) for share in steps
        ],
    }


def _threshold_that_loses(clean: np.ndarray, share: float) -> float:
    ordered = np.sort(clean)
    return float(ordered[min(round(share * len(ordered)), len(ordered) - 1)])


def write_arms(sources: Sequence[NoisySource], output_dir: Path) -> dict[str, dict[str, int]]:
    """Write the rows that each arm trains on, `ARM/NAME.jsonl.gz`, and `ARM.yaml` with its sources.

    Returns:
        Arm -> source -> rows.
    """
    kept = {"noisy": [np.ones(len(each.rows), dtype=bool) for each in sources]}
    kept["top_k"] = [each.ranks <= TOP_K for each in sources]
    similarities = np.sort(np.concatenate([each.similarities for each in sources]))[::-1]
    bound = similarities[sum(int(rows.sum()) for rows in kept["top_k"]) - 1]
    kept["threshold"] = [each.similarities >= bound for each in sources]
    counts: dict[str, dict[str, int]] = {arm: {} for arm in ARMS}
    overlays: Mapping[str, list[dict[str, str]]] = {arm: [] for arm in ARMS}
    with atomic_directory(output_dir) as files:
        for number, each in enumerate(sources):
            pairs = open_pairs(each.source)
            for arm in ARMS:
                rows = each.rows if arm == "clean" else each.rows[kept[arm][number]]
                documents = rows if arm == "clean" else each.document_rows[kept[arm][number]]
                texts = zip(pairs[rows.tolist()]["query"], pairs[documents.tolist()]["document"], strict=True)
                name = f"{each.source.name}.jsonl.gz"
                written = ({"query": query, "document": document} for query, document in texts)
                counts[arm][each.source.name] = write_jsonl(written, files / arm / name)
                overlays[arm].append({
                    "name": each.source.name,
                    "path": str(output_dir.resolve() / arm / name),
                    "query_prefix": each.source.query_prefix,
                    "document_prefix": each.source.document_prefix,
                })  # fmt: skip
        for arm, entries in overlays.items():
            (files / f"{arm}.yaml").write_text(yaml.safe_dump({"sources": entries}, sort_keys=False))
    return counts
