"""The layout keeps neighbours together, and is the same again."""

import numpy as np
import pytest

pytest.importorskip("openTSNE", reason="needs the extra: pip install -e '.[map]'")

from curation.atlas.projection import project


@pytest.fixture(scope="module")
def groups():
    """(vectors, group of each): five groups in 32 dimensions, each far narrower than their distances."""
    random = np.random.default_rng(0)
    group = random.integers(5, size=250)
    return random.normal(size=(5, 32))[group] + 0.1 * random.normal(size=(250, 32)), group


def share_of_neighbours_in_group(places, group):
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1:6]
    return (group[nearest] == group[:, None]).mean()


def test_groups_stay_together_whether_laid_out_or_placed_later(groups):
    vectors, group = groups
    whole = project(vectors, fitted_points=1_000, seed=0)
    assert whole.shape == (250, 2) and np.isfinite(whole).all()
    assert share_of_neighbours_in_group(whole, group) > 0.99
    partly = project(vectors, fitted_points=100, seed=0)
    assert share_of_neighbours_in_group(partly, group) > 0.99
    assert np.array_equal(project(vectors * 8, fitted_points=100, seed=0), partly)  # by direction alone; and again


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.eye(5), np.ones((20, 4)), np.zeros((9, 3)), np.ones((9, 1))])
def test_few_or_equal_vectors_have_places(vectors):
    places = project(vectors.astype(np.float32), fitted_points=100, seed=0)
    assert places.shape == (len(vectors), 2) and np.isfinite(places).all()
