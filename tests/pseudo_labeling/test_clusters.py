"""Shape prior, pooling and clusters of segments on arrays whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from pseudo_labeling.clusters import cluster_segments, nearest
from pseudo_labeling.shape_prior import aspect_ratio, plausible, pooled


def test_prior_bounds_share_and_aspect() -> None:
    assert aspect_ratio((10, 20, 19, 39)) == pytest.approx(0.5)
    kept = plausible(np.array([1, 10, 25, 26, 20]), np.array([1, 1, 1, 1, 2]), 100, (0.1, 0.25), (2 / 3, 1.5))
    assert kept.tolist() == [False, True, True, False, False]


def test_pooling_is_the_mean_over_the_mask_whatever_the_grids() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 4, 5))
    mask = rng.random((12, 10)) > 0.6
    fine = features.repeat(3, 1).repeat(2, 2)  # each cell's value at each of its pixels
    expected = fine[:, mask].mean(1)
    np.testing.assert_allclose(pooled(features, [mask])[0], expected / np.linalg.norm(expected), rtol=1e-5)
    dot = np.zeros((12, 10), bool)
    dot[7, 3] = True
    cell = features[:, 2, 1]
    np.testing.assert_allclose(pooled(features, [dot])[0], cell / np.linalg.norm(cell), rtol=1e-5)
    assert np.isfinite(pooled(features, [rng.random((7, 11)) > 0.5])).all()  # sizes that do not divide


def test_cluster_with_the_nearest_attribute_is_the_object() -> None:
    rng = np.random.default_rng(1)
    centres = np.eye(3)
    kind = np.repeat([0, 1, 2], 40)
    features = centres[kind] + rng.normal(0, 0.05, (120, 3))
    attribute = np.array([0.5, 1.0, 2.0])[kind] + rng.normal(0, 0.05, 120)
    case = np.tile(np.arange(20).astype(str), 6)
    found = cluster_segments(features, attribute, case, 3, 1.1, seed=0)
    assert (kind[found.member == found.chosen] == 1).all()
    assert found.attribute[found.chosen] == pytest.approx(1.0, abs=0.05)
    assert (nearest(features, found.centroids) == found.member).all()
    again = cluster_segments(features, attribute, case, 3, 1.1, seed=0)
    np.testing.assert_array_equal(again.member, found.member)


def test_cluster_of_few_cases_is_no_candidate() -> None:
    features = np.repeat(np.eye(2), [60, 3], axis=0)
    attribute = np.repeat([2.0, 1.0], [60, 3])
    case = np.array([str(i) for i in range(60)] + ["0"] * 3)
    found = cluster_segments(features, attribute, case, 2, 1.0, seed=0)
    assert found.attribute[found.chosen] == 2.0


def test_what_cannot_be_clustered_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"settings\.clusters\.count: 3 clusters of 2 segments"):
        cluster_segments(np.eye(2), np.ones(2), np.array(["a", "b"]), 3, 1.0, 0)
    with pytest.raises(UserError, match="features of 4 values, but the clusters have 3"):
        nearest(np.ones((2, 4)), np.ones((5, 3)))
