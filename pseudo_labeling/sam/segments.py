"""All segments of a case: what is kept of each, small enough for disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pseudo_labeling.clusters import nearest
from pseudo_labeling.sam.everything import Segment
from pseudo_labeling.settings import SegmentSettings
from pseudo_labeling.shape_prior import aspect_ratio, plausible
from pseudo_labeling.slice_labels import HEAD_LEVEL
from pseudo_labeling.slices import grey


@dataclass(frozen=True)
class Segments:
    """The segments of a case, slice by slice.

    Attributes:
        shape: `(y, x)` of a slice.
        slice: `(n,)` number of its slice.
        box: `(n, 4)` `x0, y0, x1, y1`, outermost pixels.
        area: `(n,)` pixels.
        brightness: `(n,)` mean grey value over that of the slice's pixels that are not air.
        features: `(n, d)` float32.
        bits: of the masks inside their boxes, row by row, eight pixels a byte, one mask after the other.
    """

    shape: tuple[int, int]
    slice: np.ndarray
    box: np.ndarray
    area: np.ndarray
    brightness: np.ndarray
    features: np.ndarray
    bits: np.ndarray

    def __len__(self) -> int:
        return len(self.slice)

    @property
    def aspect(self) -> np.ndarray:
        """`(n,)` width over height of each box."""
        return np.array([aspect_ratio(tuple(box)) for box in self.box.tolist()])

    def mask(self, number: int) -> np.ndarray:
        """One of the masks, `(y, x)` bool."""
        x0, y0, x1, y1 = self.box[number]
        height, width = y1 - y0 + 1, x1 - x0 + 1
        start = self._starts[number]
        inside = np.unpackbits(self.bits[start : self._starts[number + 1]], count=height * width)
        mask = np.zeros(self.shape, dtype=bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = inside.reshape(height, width)
        return mask

    def union(self, numbers: Sequence[int] | np.ndarray, depth: int) -> np.ndarray:
        """All of some masks together, `(z, y, x)` bool, of a case with `depth` slices."""
        mask = np.zeros((depth, *self.shape), dtype=bool)
        for number in numbers:
            mask[self.slice[number]] |= self.mask(number)
        return mask

    @cached_property
    def _starts(self) -> np.ndarray:
        edges = self.box[:, 2:] - self.box[:, :2] + 1
        return np.concatenate([[0], np.cumsum(-(-edges.prod(1) // 8))])

    def arrays(self) -> dict[str, np.ndarray]:
        """What :func:`from_arrays` takes."""
        return {
            "shape": np.array(self.shape),
            "slice": self.slice,
            "box": self.box,
            "area": self.area,
            "brightness": self.brightness,
            "features": self.features,
            "bits": self.bits,
        }


def from_arrays(arrays: Mapping[str, Any]) -> Segments:
    """The segments that :meth:`Segments.arrays` wrote."""
    values = {name: np.asarray(arrays[name]) for name in arrays}
    height, width = (int(edge) for edge in values.pop("shape"))
    return Segments((height, width), **values)


def plausible_segments(segments: Segments, settings: SegmentSettings) -> np.ndarray:
    """Numbers `(m,)` of the segments that keep to the shape prior (UM-SAM: Omega_v)."""
    pixels = segments.shape[0] * segments.shape[1]
    return np.flatnonzero(plausible(segments.area, segments.aspect, pixels, settings.area, settings.aspect))


def attribute_of(segments: Segments, name: str, pixel_mm: float) -> np.ndarray:
    """What a cluster is chosen by, `(n,)`: `aspect`, `area_mm2` or `brightness` of each segment."""
    if name == "area_mm2":
        return segments.area * pixel_mm**2
    return segments.aspect if name == "aspect" else segments.brightness


def object_segments(
    segments: Segments, settings: SegmentSettings, centroids: np.ndarray, chosen: int, *, one_per_slice: bool
) -> np.ndarray:
    """Numbers `(m,)` of the segments that are the object: plausible, and in the chosen cluster (UM-SAM, Eq. 5).

    Args:
        segments: of a case.
        settings: with the shape prior.
        centroids: `(k, d)` of the clusters.
        chosen: number of the object's cluster.
        one_per_slice: keep the nearest to the centroid of each slice instead of all.

    Raises:
        UserError: features of another width than the centroids'.
    """
    numbers = plausible_segments(segments, settings)
    if not len(numbers):
        return numbers
    features = segments.features[numbers]
    inside = nearest(features, centroids) == chosen
    numbers, features = numbers[inside], features[inside]
    if not one_per_slice:
        return numbers
    near = np.argsort(((features - centroids[chosen]) ** 2).sum(1), kind="stable")
    _, first = np.unique(segments.slice[numbers][near], return_index=True)
    return np.sort(numbers[near][first])


def segments_of(slices: np.ndarray, found: Sequence[Sequence[Segment]], features: np.ndarray) -> Segments:
    """The segments of all slices of a case in one.

    Args:
        slices: `(z, y, x)` or `(z, y, x, 3)` uint8.
        found: segments of each slice.
        features: `(n, d)` of all of them, in that order.
    """
    light = grey(slices)
    usual = [float(image[image > HEAD_LEVEL].mean()) if (image > HEAD_LEVEL).any() else 1.0 for image in light]
    numbers = [z for z, segments in enumerate(found) for _ in segments]
    every = [segment for segments in found for segment in segments]
    packed = []
    for each in every:
        x0, y0, x1, y1 = each.box
        packed.append(np.packbits(each.mask[y0 : y1 + 1, x0 : x1 + 1].ravel()))
    return Segments(
        (slices.shape[1], slices.shape[2]),
        np.array(numbers, dtype=np.int32),
        np.array([each.box for each in every], dtype=np.int32).reshape(-1, 4),
        np.array([each.area for each in every], dtype=np.int64),
        np.array(
            [light[z][each.mask].mean() / usual[z] for z, each in zip(numbers, every, strict=True)], dtype=np.float32
        ),
        np.asarray(features, dtype=np.float32),
        np.concatenate(packed) if packed else np.zeros(0, dtype=np.uint8),
    )
