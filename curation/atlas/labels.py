"""Labels for the regions of a map: words that are frequent there and rare elsewhere."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

_REGIONS = 4, 28
_SAMPLE = 50_000  # points that regions are found among and words are counted in
_WORDS = 2
_LETTERS = r"(?u)\b[^\W\d_]{3,}\b"
_WIDTH, _HEIGHT = 900, 700  # pixels that a map is likely to have, for what would overlap
_LETTER, _LINE = 8, 26  # pixels


class Label(NamedTuple):
    """Words at a place."""

    x: float
    y: float
    text: str


def region_labels(texts: Sequence[str], places: np.ndarray, seed: int) -> list[Label]:
    """Label the regions of a map, those with most points first; labels that would overlap such are left out.

    Regions are k-means clusters of the places; a region's words are those of highest TF-IDF, each region taken for one
    text. English stop words are left out.

    Args:
        texts: of the n points.
        places: (n, 2).
        seed: of the regions.
    """
    chosen = np.random.default_rng(seed).permutation(len(texts))[:_SAMPLE]
    count = min(
        max(round(math.sqrt(len(chosen)) / 4), _REGIONS[0]), _REGIONS[1], len(np.unique(places[chosen], axis=0))
    )
    found = KMeans(count, n_init=1, random_state=seed).fit(places[chosen])
    whole = [" ".join(texts[i] for i in chosen[found.labels_ == region]) for region in range(count)]
    counter = CountVectorizer(stop_words="english", token_pattern=_LETTERS, max_features=20_000)
    try:
        weights = TfidfTransformer(sublinear_tf=True).fit_transform(counter.fit_transform(whole)).toarray()
    except ValueError:  # no text has a word
        return []
    words = counter.get_feature_names_out()
    sizes = np.bincount(found.labels_, minlength=count)
    labels = []
    for region in np.argsort(-sizes, kind="stable"):
        best = np.argsort(-weights[region], kind="stable")[:_WORDS]
        text = ", ".join(words[i] for i in best if weights[region, i] > 0)
        if text:
            labels.append(Label(*_middle(places[chosen[found.labels_ == region]]), text))
    return _apart(labels, places)


def _middle(places: np.ndarray) -> tuple[float, float]:
    """The place nearest to the mean of all: a region that is bent has nothing at its mean."""
    x, y = places[np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()]
    return float(x), float(y)


def _apart(labels: list[Label], places: np.ndarray) -> list[Label]:
    """The labels that do not overlap an earlier one where the whole map is seen."""
    across, up = np.maximum(np.ptp(places, axis=0), 1e-9) / (_WIDTH, _HEIGHT)  # of a pixel
    kept: list[Label] = []
    for label in labels:
        clear = all(
            abs(label.x - other.x) / across > (len(label.text) + len(other.text)) * _LETTER / 2
            or abs(label.y - other.y) / up > _LINE
            for other in kept
        )
        if clear:
            kept.append(label)
    return kept
