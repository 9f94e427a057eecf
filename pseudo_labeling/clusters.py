"""Segments of all cases in groups by what they look like, and the group that is the object (UM-SAM, Eq. 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_conversion.errors import UserError

SMALLEST_SHARE = 0.05  # of the cases; a cluster that fewer of them have cannot be what all of them show


@dataclass(frozen=True)
class Clusters:
    """What was learned from the segments of a training set.

    Attributes:
        centroids: `(k, d)`.
        member: `(n,)` cluster of each segment.
        attribute: `(k,)` mean of the prior's attribute over the segments of each cluster.
        cases: `(k,)` share of the cases that have a segment of it.
        chosen: the cluster that is the object.
    """

    centroids: np.ndarray
    member: np.ndarray
    attribute: np.ndarray
    cases: np.ndarray
    chosen: int


def cluster_segments(
    features: np.ndarray, attribute: np.ndarray, case: np.ndarray, count: int, prior: float, seed: int
) -> Clusters:
    """K-means over all segments, and the cluster whose mean attribute is nearest to a prior value (UM-SAM, Eq. 4).

    Args:
        features: `(n, d)` of unit length.
        attribute: `(n,)` e.g. aspect ratio or area in mm².
        case: `(n,)` name of the case of each.
        count: K.
        prior: the object's attribute, as one knows it without any mask.
        seed: of K-means.

    Raises:
        UserError: fewer segments than clusters, or no cluster that is in enough cases.
    """
    if len(features) < count:
        raise UserError(
            f"settings.clusters.count: {count} clusters of {len(features)} segments; lower it, or widen the shape prior"
        )
    from sklearn.cluster import KMeans  # only here: half a second that the other route need not wait

    found = KMeans(count, n_init=10, random_state=seed).fit(features)
    member = np.asarray(found.labels_)
    sizes = np.bincount(member, minlength=count)
    means = np.bincount(member, attribute, minlength=count) / np.maximum(sizes, 1)
    cases = np.array([len(np.unique(case[member == k])) for k in range(count)]) / len(np.unique(case))
    candidates = np.flatnonzero(cases >= SMALLEST_SHARE)
    if not len(candidates):
        raise UserError(f"settings.clusters.count: no cluster is in {SMALLEST_SHARE:.0%} of the cases; lower it")
    chosen = int(candidates[np.abs(means[candidates] - prior).argmin()])
    return Clusters(np.asarray(found.cluster_centers_), member, means, cases, chosen)


def stability(
    found: Clusters,
    features: np.ndarray,
    attribute: np.ndarray,
    case: np.ndarray,
    prior: float,
    seeds: Sequence[int],
) -> float:
    """How far other seeds choose the same segments: mean Jaccard index of the chosen sets, in [0, 1].

    Args:
        found: the clusters in question.
        features, attribute, case, prior: as of :func:`cluster_segments`.
        seeds: of the other K-means.
    """
    chosen = found.member == found.chosen
    each = []
    for seed in seeds:
        other = cluster_segments(features, attribute, case, len(found.centroids), prior, seed)
        same = other.member == other.chosen
        each.append((chosen & same).sum() / (chosen | same).sum())
    return float(np.mean(each))


def error_curve(features: np.ndarray, counts: Sequence[int], seed: int) -> dict[int, float]:
    """Sum of squared distances to the nearest centroid for each number of clusters (UM-SAM: K by SSE).

    Args:
        features: `(n, d)`.
        counts: numbers of clusters; those above n are left out.
        seed: of K-means.
    """
    from sklearn.cluster import KMeans

    fitting = [count for count in counts if count <= len(features)]
    return {count: float(KMeans(count, n_init=3, random_state=seed).fit(features).inertia_) for count in fitting}


def nearest(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Cluster of new segments, `(n,)`: the nearest centroid (UM-SAM, Eq. 5 on test pictures).

    Args:
        features: `(n, d)` of unit length.
        centroids: `(k, d)`.

    Raises:
        UserError: features of another width.
    """
    if features.shape[1] != centroids.shape[1]:
        raise UserError(
            f"segments: features of {features.shape[1]} values, but the clusters have {centroids.shape[1]}; use the "
            "features that the clusters were made from"
        )
    member: np.ndarray = ((features[:, None] - centroids[None]) ** 2).sum(2).argmin(1)
    return member
