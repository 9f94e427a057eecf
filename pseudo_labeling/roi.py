"""CAM to region of interest: a threshold that no mask has chosen, then a clean-up in 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from pseudo_labeling.settings import RoiSettings
from pseudo_labeling.slices import grey

_NOISE_PX = 1.0  # sd in pixels of the Gaussian that keeps single bright pixels out of the brightness


def roi_from_cam(cam: np.ndarray, slices: np.ndarray, settings: RoiSettings) -> np.ndarray:
    """Binarise the CAMs of one case.

    The paper does not say how; the public code takes the threshold with the best Dice on ground truth. Here the
    threshold is Otsu's over the case's tumour slices, or a fixed share of the maximum. The clean-up is the public
    code's: opening with a cube, then 3D components of at least a third of the largest.

    With `settings.brightness` the CAM is first multiplied by the slice: a CAM is as coarse as a layer of the classifier
    and runs into the air around the head and into dark ventricles, where a tumour cannot be on FLAIR.

    Args:
        cam: `(z, y, x)` in [0, 1], 0 in slices labelled normal.
        slices: `(z, y, x)` uint8, windowed, or `(z, y, x, 3)`; read for the brightness only.
        settings: brightness, threshold, opening, components.

    Returns:
        `(z, y, x)` bool.
    """
    roi = np.zeros(cam.shape, dtype=bool)
    occupied = np.flatnonzero(cam.any(axis=(1, 2)))
    values = cam[occupied]
    if settings.brightness:
        values = values.astype(np.float32)
        for row, z in enumerate(occupied):
            brightness = grey(slices[z : z + 1])[0].astype(np.float32)
            values[row] *= ndimage.gaussian_filter(brightness, _NOISE_PX) / 255
        lit = values.any(axis=(1, 2))
        occupied, values = (occupied, values) if lit.all() else (occupied[lit], values[lit])
    if not len(occupied):
        return roi
    if settings.threshold == "otsu":
        threshold = threshold_otsu(values.astype(np.float32, copy=False))
    else:
        threshold = settings.threshold * float(values.max())
    roi[occupied] = (values > threshold) & (values > 0)
    del values
    if settings.opening > 1:
        roi = opened(roi, settings.opening)
    return large_components(roi, settings.keep_fraction)


class Region(NamedTuple):
    """Where SAM is to look in one case.

    Attributes:
        roi: `(z, y, x)` bool.
        maps: `(z, y, x)`, where sampled points are drawn from; without them from the region alone.
    """

    roi: np.ndarray
    maps: np.ndarray | None = None


def prompting_regions(
    roi: np.ndarray, cams: Sequence[np.ndarray], slices: np.ndarray, settings: RoiSettings, *, sampled: bool
) -> list[Region]:
    """The regions that prompt SAM in one case: the ROI of the first method, and those of the others.

    Args:
        roi: of the first, `(z, y, x)` bool; a person may have changed it.
        cams: `(z, y, x)` of each method, the first one's first; none where one method and no points from maps are used.
        slices, settings: as of :func:`roi_from_cam`.
        sampled: whether points are drawn from the maps.
    """
    rois = [roi, *(roi_from_cam(cam, slices, settings) for cam in cams[1:])]
    return [Region(each, cams[number] if sampled and cams else None) for number, each in enumerate(rois)]


def opened(roi: np.ndarray, edge: int) -> np.ndarray:
    """Opening with a cube of `edge` voxels; kept as it was where that would leave nothing.

    The volume's border is mirrored, since a lesion may run out of a thin stack.
    """
    if not roi.any():
        return roi
    box = box_around(roi, edge)
    padded = np.pad(roi[box], edge, mode="edge")
    inside = ndimage.binary_opening(padded, structure=np.ones((edge,) * 3))[(slice(edge, -edge),) * 3]
    if not inside.any():
        return roi
    result = np.zeros_like(roi)
    result[box] = inside
    return result


def large_components(roi: np.ndarray, keep_fraction: float) -> np.ndarray:
    """Keep the 3D components with at least `keep_fraction` of the largest one's voxels (26 neighbours)."""
    if not roi.any():
        return roi
    box = box_around(roi)
    labelled, sizes = components(roi[box], np.ones((3, 3, 3)))
    result = np.zeros_like(roi)
    result[box] = (sizes >= keep_fraction * sizes.max())[labelled] & roi[box]
    return result


def components(roi: np.ndarray, neighbours: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts of a 3D stack.

    Args:
        roi: `(z, y, x)` bool.
        neighbours: `(3, 3, 3)`, which voxels touch the middle one; by default its six nearest.

    Returns:
        The number of each voxel's part, 0 outside, and the size of each part by number, 0 for number 0.
    """
    labelled, count = ndimage.label(roi, neighbours)
    sizes = np.zeros(count + 1, dtype=np.int64)
    for each in labelled:
        sizes += np.bincount(each.ravel(), minlength=count + 1)
    sizes[0] = 0
    return labelled, sizes


def box_around(roi: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """The smallest box with all True voxels of an array, grown by `margin` voxels as far as the array goes.

    Most of a volume is empty, and numbers of components take four bytes a voxel.
    """
    box = []
    for axis in range(roi.ndim):
        found = np.flatnonzero(roi.any(axis=tuple({*range(roi.ndim)} - {axis})))
        box.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
    return tuple(box)
