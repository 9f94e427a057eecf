"""Regions of interest to SAM prompts: one bounding box, and points, for each slice (paper 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pseudo_labeling.roi import box_around
from pseudo_labeling.settings import PromptSettings
from pseudo_labeling.slices import grey

INTENSITY_POINTS = 5  # as many as the public code ranks


@dataclass(frozen=True)
class Prompt:
    """What SAM is told about one slice; pixel coordinates, x to the right and y down.

    Attributes:
        box: `(4,)` float32 `x0, y0, x1, y1`, or None.
        points: `(n, 2)` float32 `x, y`, or None.
        point_labels: `(n,)` int64, 1 = tumour, 0 = background, or None.
    """

    box: np.ndarray | None = None
    points: np.ndarray | None = None
    point_labels: np.ndarray | None = None


def prompts_from_roi(
    roi: np.ndarray,
    images: np.ndarray,
    settings: PromptSettings,
    pixel_mm: float,
    *,
    maps: np.ndarray | None = None,
    seed: int = 0,
) -> list[Prompt | None]:
    """Turn the ROI of every slice into a prompt.

    The first pass calls this with CAM regions, the S3F round with the network's prediction.

    Args:
        roi: `(z, y, x)` bool, at square pixels.
        images: `(z, y, x)` or `(z, y, x, 3)` uint8; read only for intensity points.
        settings: kind of prompt, kind of points, margin in mm, padding.
        pixel_mm: edge of a pixel.
        maps: `(z, y, x)`, read only for sampled points: a pixel of the ROI is drawn by its value's power; without maps
            every one is as likely, as for a region that is no CAM's.
        seed: of sampled points; each slice has its own chance.

    Returns:
        One prompt for each slice, None where the ROI is empty.
    """
    prompts: list[Prompt | None] = []
    for z, (region, image) in enumerate(zip(roi, grey(images), strict=True)):
        weight = region if maps is None else np.where(region, maps[z], 0)
        rng = np.random.default_rng([seed, z])
        prompts.append(_slice_prompt(region, image, weight, settings, pixel_mm, rng) if region.any() else None)
    return prompts


def _slice_prompt(
    roi: np.ndarray,
    image: np.ndarray,
    weight: np.ndarray,
    settings: PromptSettings,
    pixel_mm: float,
    rng: np.random.Generator,
) -> Prompt:
    box = padded_box(bounding_box(roi, round(settings.margin / pixel_mm)), settings.padding, roi.shape)
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    if settings.kind != "box":
        if settings.points == "centre":
            points, labels = centre_and_corners(box)
        else:
            if settings.points == "intensity":
                points = brightest_points(roi, image, pixel_mm=pixel_mm)
            else:  # a map can be 0 in all of a ROI that brightness made
                points = sampled_points(weight if weight.any() else roi, settings.count, settings.power, rng)
            labels = np.ones(len(points), dtype=np.int64)
    return Prompt(box if settings.kind != "points" else None, points, labels)


def bounding_box(roi: np.ndarray, margin: int = 0) -> np.ndarray:
    """Smallest box around the True pixels of a slice, grown by `margin` pixels and kept inside the slice.

    Args:
        roi: `(y, x)` bool with at least one True pixel.
        margin: pixels added on every side.

    Returns:
        `(4,)` float32 `x0, y0, x1, y1`, the indices of the outermost pixels.
    """
    sides = zip(box_around(roi, margin), roi.shape, strict=True)
    (y0, y1), (x0, x1) = ((side.start, min(side.stop, length) - 1) for side, length in sides)
    return np.array([x0, y0, x1, y1], dtype=np.float32)


def padded_box(box: np.ndarray, padding: float, shape: tuple[int, ...]) -> np.ndarray:
    """A box grown by a share of its width left and right and of its height above and below, kept inside the slice.

    Args:
        box: `(4,)` `x0, y0, x1, y1`.
        padding: share of a side (C2S: 0.1).
        shape: `(y, x)` of the slice.

    Returns:
        `(4,)` float32.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    dx, dy = padding * (x1 - x0), padding * (y1 - y0)
    grown = np.array([x0 - dx, y0 - dy, x1 + dx, y1 + dy])
    return np.clip(grown, 0, np.array([shape[1], shape[0]] * 2) - 1).astype(np.float32)


def centre_and_corners(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box's centre as foreground and its four corners as background (paper 2.2).

    Args:
        box: `(4,)` `x0, y0, x1, y1`.

    Returns:
        points `(5, 2)` float32 and labels `(5,)` int64.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    points = [((x0 + x1) / 2, (y0 + y1) / 2), (x0, y0), (x1, y0), (x0, y1), (x1, y1)]
    return np.array(points, dtype=np.float32), np.array([1, 0, 0, 0, 0], dtype=np.int64)


def brightest_points(
    roi: np.ndarray, image: np.ndarray, count: int = INTENSITY_POINTS, pixel_mm: float = 1.0
) -> np.ndarray:
    """The ROI's brightest spots as foreground points, brightest first (the public code's choice).

    The image is smoothed first, and a chosen point takes a disc around itself out of the race; otherwise all points
    would fall on neighbouring pixels and tell SAM one thing five times.

    Args:
        roi: `(y, x)` bool with at least one True pixel.
        image: `(y, x)` uint8.
        count: how many points at most.
        pixel_mm: edge of a pixel; the smoothing and the smallest disc are as wide as 1 mm.

    Returns:
        `(n, 2)` float32 `x, y`, 1 <= n <= `count`.
    """
    brightness = np.where(roi, ndimage.gaussian_filter(image.astype(np.float32), 1.0 / pixel_mm), -np.inf)
    radius = max(1.0 / pixel_mm, np.sqrt(roi.sum() / np.pi) / 2)
    rows, columns = np.indices(roi.shape)
    points: list[tuple[float, float]] = []
    while len(points) < count and np.isfinite(brightness.max()):
        y, x = np.unravel_index(int(brightness.argmax()), roi.shape)
        points.append((float(x), float(y)))
        brightness[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = -np.inf
    return np.array(points, dtype=np.float32)


def sampled_points(weight: np.ndarray, count: int, power: float, rng: np.random.Generator) -> np.ndarray:
    """Foreground points drawn without replacement, each pixel as likely as `weight ** power` (C2S: 10 points, 30).

    Args:
        weight: `(y, x)`, not negative; a pixel of 0 is never drawn.
        count: how many points, fewer where fewer pixels have a weight.
        power: 0 makes all of them alike.
        rng: source of chance.

    Returns:
        `(n, 2)` float32 `x, y`, in the order of drawing.
    """
    places = np.argwhere(weight > 0)
    # the largest of log-weights with Gumbel noise are a draw without replacement, and no power is too high for it
    score = power * np.log(weight[weight > 0].astype(np.float64)) + rng.gumbel(size=len(places))
    chosen = places[np.argsort(-score, kind="stable")[:count]]
    return chosen[:, ::-1].astype(np.float32)
