"""Which segments may be the object by their shape (UM-SAM: area and aspect ratio), in pixels of 1 : 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def aspect_ratio(box: tuple[int, int, int, int]) -> float:
    """Width over height of a box `x0, y0, x1, y1` of outermost pixels; slices are at square pixels, so in mm too."""
    x0, y0, x1, y1 = box
    return (x1 - x0 + 1) / (y1 - y0 + 1)


def plausible(
    areas: np.ndarray, aspects: np.ndarray, pixels: int, area: tuple[float, float], aspect: tuple[float, float]
) -> np.ndarray:
    """Segments that keep to a prior: `V in [V_min, V_max]` and `A in [A_min, A_max]`.

    Args:
        areas: `(n,)` pixels.
        aspects: `(n,)` from :func:`aspect_ratio`.
        pixels: of the slice.
        area: bounds of the share of the slice (paper: 0.01 to 0.25 for the fetal brain).
        aspect: bounds of the ratio (paper: 2/3 to 1.5).

    Returns:
        `(n,)` bool.
    """
    share = np.asarray(areas) / pixels
    ratio = np.asarray(aspects)
    return (share >= area[0]) & (share <= area[1]) & (ratio >= aspect[0]) & (ratio <= aspect[1])


def pooled(features: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Mean feature of each segment, of unit length; a segment smaller than a cell takes that cell's.

    Args:
        features: `(d, h, w)` over the whole slice.
        masks: `(y, x)` bool each.

    Returns:
        `(n, d)` float32.
    """
    depth, height, width = features.shape
    flat = features.reshape(depth, -1).astype(np.float64)
    found = np.empty((len(masks), depth))
    for row, mask in enumerate(masks):
        cover = _by_area(mask, height, width).ravel()
        found[row] = flat @ (cover / cover.sum())
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.maximum(lengths, 1e-12)).astype(np.float32)


def _by_area(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """How much of each cell of a coarser grid a mask covers, `(h, w)` in [0, 1]; exact for any sizes."""
    rows, columns = (_overlap(length, cells) for length, cells in zip(mask.shape, (height, width), strict=True))
    cover: np.ndarray = rows @ mask.astype(np.float64) @ columns.T
    return cover


def _overlap(pixels: int, cells: int) -> np.ndarray:
    """`(cells, pixels)`: share of each cell that each pixel fills."""
    edges = np.arange(cells + 1) * pixels / cells
    pixel = np.arange(pixels)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.clip(covered, 0, None) * cells / pixels
