"""Several masks of one slice, and a choice among them that needs no truth (Classification-to-Segmentation).

C2S asks SAM ten times with perturbed prompts and keeps the mask that fits the ground truth best; here the mask that the
others agree with most is kept (docs/method.md).
"""

from __future__ import annotations

import numpy as np

from pseudo_labeling.prompts import Prompt
from pseudo_labeling.sam.decoder import ScoredMasks
from pseudo_labeling.settings import ChoiceRule


def perturbed(
    prompt: Prompt, count: int, jitter: float, shape: tuple[int, int], rng: np.random.Generator
) -> list[Prompt]:
    """A prompt and others around it, farther away one after another.

    Candidate `i` of `n` has box corners and points moved by a normal deviate of `jitter * i / n` times the box's sides
    (those of the points' box where there is none); the first one stays as it is.

    Args:
        prompt: of one slice.
        count: how many in all.
        jitter: share of a side.
        shape: `(y, x)` of the slice; nothing leaves it.
        rng: source of chance.

    Returns:
        `count` prompts; boxes keep `x0 <= x1` and `y0 <= y1`.
    """
    corners = prompt.box.reshape(2, 2) if prompt.box is not None else None
    extent = corners if corners is not None else prompt.points
    if extent is None:
        raise ValueError("a prompt without box and points")
    side = np.maximum(extent.max(0) - extent.min(0), 1)
    last = np.array(shape[::-1], dtype=np.float32) - 1
    result = [prompt]
    for i in range(1, count):
        spread = jitter * i / count * side

        def moved(places: np.ndarray, spread: np.ndarray = spread) -> np.ndarray:
            return np.clip(places + rng.normal(0, spread, places.shape), 0, last).astype(np.float32)

        box = None if corners is None else np.sort(moved(corners), axis=0).reshape(4)
        points = None if prompt.points is None else moved(prompt.points)
        result.append(Prompt(box, points, prompt.point_labels))
    return result


def pairwise_iou(masks: np.ndarray) -> np.ndarray:
    """IoU of every pair of masks `(n, y, x)`, `(n, n)` float; 0 where either is empty."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    both = flat @ flat.T
    area = flat.sum(1)
    either = area[:, None] + area[None, :] - both
    return np.where(both > 0, both / np.maximum(either, 1), 0.0)


def agreement(masks: np.ndarray) -> float:
    """Mean IoU of all pairs of masks `(n, y, x)`: how sure the prompt is, without a truth; 1 for a single mask."""
    count = len(masks)
    if count == 1:
        return 1.0
    iou = pairwise_iou(masks)
    return float((iou.sum() - np.trace(iou)) / (count * (count - 1)))


def choose(candidates: ScoredMasks, rule: ChoiceRule) -> int:
    """Which mask to keep, by its place; of equals the first. An empty mask is only kept where all are empty.

    Args:
        candidates: of one slice.
        rule: `first` the unperturbed prompt's; `confidence` the highest IoU estimate of SAM; `stability` the least
            changed by another threshold; `consensus` the highest mean IoU with the others (the medoid).
    """
    filled: np.ndarray = np.asarray(candidates.masks.any((1, 2)))
    score: np.ndarray
    if rule == "consensus":
        iou = pairwise_iou(candidates.masks)
        score = iou.sum(1) - np.diag(iou)
    elif rule == "first":
        score = np.arange(len(filled), 0, -1)
    else:
        score = getattr(candidates, rule).astype(float)
    return int(np.where(filled, score, -np.inf).argmax())
