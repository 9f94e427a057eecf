"""Prompts for the training of the embedded SAM: as loose, shifted and partial as those that come from CAMs."""

from __future__ import annotations

import numpy as np

PROMPT_POINTS = 5  # centre (fg) and four box corners (bg), or five bright points (fg)


def tight_box(mask: np.ndarray) -> np.ndarray:
    """`(4,)` float x0, y0, x1, y1 of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)


def box_with_margin(mask: np.ndarray, margin: float) -> np.ndarray:
    """The tight box grown by `margin` pixels on every side, cut at the frame."""
    box = tight_box(mask) + np.array([-margin, -margin, margin, margin])
    return np.clip(box, 0, np.array(mask.shape)[[1, 0, 1, 0]] - 1)


def noisy_box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A box as a CAM might give it.

    45 % margins of 0-40 px, each side a little different; 15 % nearly tight; 20 % up to twice too large and off-centre;
    20 % covering only a part of the lesion.
    """
    box = tight_box(mask)
    size = box[2:] - box[:2] + 1
    kind = rng.random()
    if kind < 0.45:
        margin = rng.uniform(0, 40)
        box = box + np.array([-1, -1, 1, 1]) * margin * rng.uniform(0.5, 1.5, 4)
    elif kind < 0.6:
        box = box + rng.normal(0, 2, 4)
    elif kind < 0.8:
        grown, middle = size * rng.uniform(1.1, 2.0, 2), (box[:2] + box[2:]) / 2 + size * rng.uniform(-0.25, 0.25, 2)
        box = np.concatenate([middle - grown / 2, middle + grown / 2])
    else:
        part, middle = size * rng.uniform(0.5, 0.95, 2), (box[:2] + box[2:]) / 2 + size * rng.uniform(-0.25, 0.25, 2)
        box = np.concatenate([middle - part / 2, middle + part / 2]) + rng.uniform(-4, 4, 4)
    limit = np.array(mask.shape)[[1, 0, 1, 0]] - 1
    box = np.clip(box, 0, limit)
    box[2:] = np.maximum(box[2:], np.minimum(box[:2] + 4, limit[2:]))
    return box


def prompt_points(
    rng: np.random.Generator, mask: np.ndarray, image: np.ndarray, box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Five points with labels for a box.

    80 %: centre (of the box, or of the lesion with an error) as foreground and the four corners as background, as the
    paper; 20 %: five bright pixels of the lesion as foreground.

    Returns:
        points `(5, 2)` xy, and labels `(5,)`.
    """
    if rng.random() < 0.2 and mask.any():
        inside = np.flatnonzero(mask)
        bright = inside[np.argsort(image.flat[inside])][len(inside) // 2 :]
        rows, columns = np.unravel_index(rng.choice(bright, PROMPT_POINTS), mask.shape)
        return np.stack([columns, rows], 1).astype(np.float64), np.ones(PROMPT_POINTS)
    centre = (box[:2] + box[2:]) / 2
    if rng.random() < 0.5 and mask.any():
        rows, columns = np.nonzero(mask)
        centre = np.array([columns.mean(), rows.mean()]) + rng.normal(0, 0.08, 2) * (box[2:] - box[:2])
    return corners_and_centre(box, centre)


def corners_and_centre(box: np.ndarray, centre: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The paper's points: centre (1) and the box's corners (0)."""
    x0, y0, x1, y1 = box
    middle = (box[:2] + box[2:]) / 2 if centre is None else centre
    points = np.array([middle, (x0, y0), (x1, y0), (x0, y1), (x1, y1)], np.float64)
    return points, np.array([1.0, 0, 0, 0, 0])
