"""From embeddings to places on a plane, by openTSNE."""

import numpy as np
from openTSNE import TSNEEmbedding, affinity, initialization
from sklearn.decomposition import PCA
from tqdm.auto import tqdm

_DIMENSIONS = 50  # that t-SNE is given: principal components leave out mostly noise, and neighbours are found fast
_PHASES = ((250, 12.0, 0.5), (500, 1.0, 0.8))  # iterations, exaggeration, momentum: openTSNE's own
_NEIGHBOURS = 15
_FFT_FROM = 10_000  # points; below, the tree of Barnes and Hut is faster
_THREADS_FROM = 3_000  # points; below, threads wait for one another longer than they compute
_SMALLEST = 8  # points that have neighbourhoods; fewer stand in a circle
_EVERY = 10  # iterations between two moves of the bar
_ROWS_AT_ONCE = 100_000


def project(vectors: np.ndarray, *, fitted_points: int, seed: int) -> np.ndarray:
    """Places on a plane at which near vectors are near; distances between far ones mean little.

    t-SNE of the first 50 principal components, started from the first two. Of more than `fitted_points` vectors, that
    many are laid out, drawn at random, and each other one is put among its nearest neighbours of these. The result is
    the same again on the same machine with the same number of cores.

    Args:
        vectors: (n, dim), compared by cosine.
        fitted_points: most points to lay out.
        seed: of everything random.

    Returns:
        (n, 2) in float64.
    """
    if len(vectors) < _SMALLEST:
        return np.stack([np.cos(angles := np.arange(len(vectors)) * 2 * np.pi / _SMALLEST), np.sin(angles)], axis=1)
    components = _components(vectors, seed)
    order = np.random.default_rng(seed).permutation(len(components))
    fitted, others = np.sort(order[:fitted_points]), np.sort(order[fitted_points:])
    embedding = _lay_out(components[fitted], seed)
    places = np.empty((len(components), 2))
    places[fitted] = embedding
    starts = range(0, len(others), _ROWS_AT_ONCE)
    for start in tqdm(starts, "Placing others", unit_scale=_ROWS_AT_ONCE, unit="point", disable=not len(others)):
        numbers = others[start : start + _ROWS_AT_ONCE]
        places[numbers] = embedding.prepare_partial(components[numbers], k=_NEIGHBOURS)
    return places


def _components(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the vectors at unit length (n, at most 50), in float64 as openTSNE computes."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    sample = np.random.default_rng(seed).permutation(len(vectors))[:_ROWS_AT_ONCE]
    count = min(_DIMENSIONS, *vectors.shape)
    pca = PCA(count, svd_solver="covariance_eigh").fit(vectors[sample] / norms[sample])
    parts = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(vectors), _ROWS_AT_ONCE)]
    return np.concatenate([pca.transform(vectors[part] / norms[part]) for part in parts]).astype(np.float64)


def _lay_out(components: np.ndarray, seed: int) -> TSNEEmbedding:
    count = len(components)
    jobs = -1 if count >= _THREADS_FROM else 1
    with tqdm(desc="Finding neighbours", total=count, unit="point") as progress:
        neighbours = affinity.PerplexityBasedNN(
            components, perplexity=min(30, (count - 1) // 3), method="annoy", n_jobs=jobs, random_state=seed
        )
        progress.update(count)
    spread = components.shape[1] > 1 and np.ptp(components[:, 0]) > 0
    start = initialization.rescale(components[:, :2]) if spread else initialization.random(count, random_state=seed)
    embedding = TSNEEmbedding(
        start,
        neighbours,
        negative_gradient_method="fft" if count >= _FFT_FROM else "bh",
        n_jobs=jobs,
        random_state=seed,
    )
    with tqdm(desc="Laying out", total=sum(phase[0] for phase in _PHASES), unit="iteration") as progress:
        for iterations, exaggeration, momentum in _PHASES:
            embedding = embedding.optimize(
                iterations,
                exaggeration=exaggeration,
                momentum=momentum,
                callbacks=lambda *_: bool(progress.update(_EVERY)) and False,  # true would end it
                callbacks_every_iters=_EVERY,
            )
    return embedding
