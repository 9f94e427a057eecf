"""Everything that SAM sees in a slice, without a prompt of ours (UM-SAM; SaLIP's first step)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid

from pseudo_labeling.sam.one_image import OneImagePredictor
from pseudo_labeling.slice_labels import HEAD_LEVEL
from pseudo_labeling.slices import grey

ON_CPU, ON_GPU = 8, 64  # points at a time: so few stay in a CPU's cache, which is a third of the time; a GPU wants many


@dataclass(frozen=True)
class Segment:
    """One thing that SAM sees in a slice.

    Attributes:
        mask: `(y, x)` bool.
        box: `x0, y0, x1, y1`, its outermost pixels.
        area: pixels.
        confidence: SAM's own estimate of its IoU.
        stability: IoU of the masks at logits above and below the threshold.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: int
    confidence: float
    stability: float


class Everything:
    """`segment_anything`'s everything mode, its points in air left out: fewer prompts, and only air is lost.

    Args:
        sam: on its device.
        points_per_side: of the grid over a slice; time grows with its square.
        confidence, stability: segments below are dropped; the library's own by default.
        one_mask: for the embedded SAM, which has learned one mask a prompt.
        head_only: leave out points on pixels that are air; not for pictures.
    """

    def __init__(
        self,
        sam: Sam,
        *,
        points_per_side: int = 32,
        confidence: float = 0.88,
        stability: float = 0.95,
        one_mask: bool = False,
        head_only: bool = True,
    ) -> None:
        self._grid = build_point_grid(points_per_side)
        self.head_only = head_only
        self._generator = SamAutomaticMaskGenerator(
            sam,
            points_per_side=None,
            point_grids=[self._grid],
            pred_iou_thresh=confidence,
            stability_score_thresh=stability,
            points_per_batch=ON_CPU if sam.device.type == "cpu" else ON_GPU,
        )
        self._generator.predictor = OneImagePredictor(sam, one_mask=one_mask)

    def __call__(self, image: np.ndarray) -> list[Segment]:
        """All segments of a slice.

        Args:
            image: `(y, x)` or, in colours, `(y, x, 3)` uint8.
        """
        bright = grey(image[None])[0]
        grid = self._grid
        if self.head_only:
            columns, rows = (grid * bright.shape[::-1]).astype(int).T
            grid = grid[bright[rows, columns] > HEAD_LEVEL]
        if len(grid) == 0:
            return []
        self._generator.point_grids = [grid]
        shown = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        return [_segment(found) for found in self._generator.generate(shown)]


def _segment(found: dict[str, Any]) -> Segment:
    x, y, width, height = (int(v) for v in found["bbox"])
    mask: np.ndarray = found["segmentation"]
    return Segment(
        mask,
        (x, y, x + width, y + height),
        int(found["area"]),
        float(found["predicted_iou"]),
        float(found["stability_score"]),
    )
