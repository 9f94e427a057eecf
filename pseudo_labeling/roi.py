"""CAM to region of interest: a threshold that no mask has chosen, then a clean-up in 3D."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from pseudo_labeling.settings import RoiSettings

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
        slices: `(z, y, x)` uint8, windowed; read for the brightness only.
        settings: brightness, threshold, opening, components.

    Returns:
        `(z, y, x)` bool.
    """
    if settings.brightness:
        smooth = ndimage.gaussian_filter(slices.astype(np.float32), (0, _NOISE_PX, _NOISE_PX))
        cam = cam.astype(np.float32) * (smooth / 255)
    occupied = cam.any(axis=(1, 2))
    if not occupied.any():
        return np.zeros(cam.shape, dtype=bool)
    values = cam[occupied].astype(np.float32)
    threshold = threshold_otsu(values) if settings.threshold == "otsu" else settings.threshold * float(values.max())
    roi = (cam > threshold) & (cam > 0)
    if settings.opening > 1:
        roi = opened(roi, settings.opening)
    return large_components(roi, settings.keep_fraction)


def opened(roi: np.ndarray, edge: int) -> np.ndarray:
    """Opening with a cube of `edge` voxels; kept as it was where that would leave nothing.

    The volume's border is mirrored, since a lesion may run out of a thin stack.
    """
    padded = np.pad(roi, edge, mode="edge")
    result = ndimage.binary_opening(padded, structure=np.ones((edge,) * 3))[(slice(edge, -edge),) * 3]
    return result if result.any() else roi


def large_components(roi: np.ndarray, keep_fraction: float) -> np.ndarray:
    """Keep the 3D components with at least `keep_fraction` of the largest one's voxels (26 neighbours)."""
    labelled, count = ndimage.label(roi, structure=np.ones((3, 3, 3)))
    if count == 0:
        return roi
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    return (sizes >= keep_fraction * sizes.max())[labelled] & roi
