"""Smooth random fields and blurs as small matrix products: the numerical floor under the phantoms."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def _spline_basis(size: int, cells: int) -> np.ndarray:
    """Cubic B-spline weights `(size, cells + 3)` with unit sum of squares a row, so that fields have unit variance."""
    position = (np.arange(size) + 0.5) / size * cells
    offset = position[:, None] + 1 - np.arange(cells + 3)[None, :]
    distance = np.abs(offset)
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)


class Field:
    """A smooth random function of `(level, y, x)` with zero mean and unit variance.

    Args:
        rng: source of randomness.
        cells: independent values across the frame; more cells give a finer texture.
        planes: independent values across the levels; 1 gives a field that does not change with the level.
    """

    def __init__(self, rng: np.random.Generator, cells: int, planes: int = 1) -> None:
        self.cells = cells
        self.grid = rng.standard_normal((planes, cells + 3, cells + 3), dtype=np.float32)

    def at(self, level: float, size: int) -> np.ndarray:
        """The field on one axial slice, `(size, size)` float32; `level` in [0, 1]."""
        position = np.clip(level, 0, 1) * (len(self.grid) - 1)
        below = min(int(position), len(self.grid) - 1)
        above = min(below + 1, len(self.grid) - 1)
        share = float(position - below)
        plane = self.grid[below]
        if share > 0:
            plane = ((1 - share) * plane + share * self.grid[above]) / np.hypot(1 - share, share)
        basis = _spline_basis(size, self.cells)
        return basis @ plane.astype(np.float32) @ basis.T


@lru_cache(maxsize=512)
def _blur_matrix(size: int, tenths: int) -> np.ndarray:
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    weights = np.exp(-0.5 * (distance / max(tenths / 10, 1e-3)) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a square `(n, n)` image; `sigma` in pixels, rounded to a tenth."""
    tenths = round(sigma * 10)
    if tenths < 2:
        return image
    matrix = _blur_matrix(image.shape[0], tenths)
    return matrix @ image @ matrix.T


def ramp(value: np.ndarray, start: float, stop: float) -> np.ndarray:
    """0 below `start`, 1 above `stop`, smooth between (cubic smoothstep)."""
    share = np.clip((value - start) / (stop - start), 0, 1)
    return share * share * (3 - 2 * share)
