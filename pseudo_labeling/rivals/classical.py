"""A tumour on FLAIR without any network: head mask, multi-Otsu, largest component."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu, threshold_otsu

from pseudo_labeling.roi import components, large_components
from pseudo_labeling.slice_labels import HEAD_LEVEL

CLASSES = 4  # of the head's voxels, darkest to brightest: CSF, white matter, grey matter, lesion
EDGE_MM = 14.0  # from the head's edge, within a slice: scalp and skull, whose fat is as bright as a lesion


def head_mask(slices: np.ndarray) -> np.ndarray:
    """The head in every slice: what is not air, with holes filled.

    Args:
        slices: `(z, y, x)` uint8, windowed.

    Returns:
        `(z, y, x)` bool, the largest component.
    """
    return _filled(large_components(slices > HEAD_LEVEL, 1.0))


def classical_mask(slices: np.ndarray, pixel_mm: tuple[float, float], classes: int = CLASSES) -> np.ndarray:
    """The largest bright thing inside one head.

    Only the in-plane distance to the head's edge counts: stacks are thin and may end inside the head.

    Args:
        slices: `(z, y, x)` uint8, windowed.
        pixel_mm: `(y, x)` spacing within a slice.
        classes: of multi-Otsu; the brightest is taken.

    Returns:
        `(z, y, x)` bool; empty where the head has no two grey levels.
    """
    head = head_mask(slices)
    inside = np.stack(
        [ndimage.distance_transform_edt(np.pad(each, 1), sampling=pixel_mm)[1:-1, 1:-1] > EDGE_MM for each in head]
    )
    region = inside if inside.any() else head
    smooth = ndimage.gaussian_filter(slices.astype(np.float32), (0, 1, 1))
    values = smooth[region]
    if values.size == 0 or np.ptp(values) == 0:
        return np.zeros(slices.shape, dtype=bool)
    try:
        threshold = float(threshold_multiotsu(values, classes=classes)[-1])
    except ValueError:  # fewer grey levels than classes
        threshold = float(threshold_otsu(values))
    return largest_component(region & (smooth > threshold))


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 3D component (6 neighbours: a thin bridge of noise joins nothing), holes filled slice by slice."""
    opened = ndimage.binary_opening(mask, structure=np.ones((1, 3, 3)))
    labelled, sizes = components(opened if opened.any() else mask)
    return _filled((labelled > 0) & (labelled == sizes.argmax()))


def _filled(mask: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.binary_fill_holes(each) for each in mask])
