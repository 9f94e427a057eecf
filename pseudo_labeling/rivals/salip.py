"""SaLIP: SAM segments everything, CLIP retrieves the lesion's segment, its box prompts SAM again.

The cascade of Aleem et al., "Test-time adaptation with SaLIP" (CVPR workshops 2024), reference [11] of the CLISC paper.
What differs from its public code, and why:

- *Whether* a slice has a tumour must be decided too: their organ is in every slice. CLIP decides on the whole slice,
  with the same rules as CLISC's slice labels, so that both start from the same knowledge.
- Crops are ranked by the probability of *tumour* against *normal* with CLISC's two prompts, theirs by the similarity to
  descriptions of the organ, which a large language model wrote.
- SAM's thresholds are fixed; they search for them with ground truth on two test volumes.
- One grid of points, on the head only, without the second layer of crops, which would cost five times as much.
- Segments that cover most of the head are not candidates: every CLIP finds the tumour in a crop that shows everything.
- The embedded SAM has learned one mask a prompt, not SAM's three; of it, that one mask is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam

from pseudo_labeling.prompts import Prompt
from pseudo_labeling.sam.everything import Everything
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import SliceLabelSettings
from pseudo_labeling.slice_labels import (
    HEAD_LEVEL,
    encode_prompts,
    head_fraction,
    labels_from_probability,
    tumour_probability,
)
from pseudo_labeling.weights.models import ClipBundle


@dataclass(frozen=True)
class SalipSettings:
    """Sizes and thresholds; none is chosen with masks."""

    points_per_side: int = 16  # of the grid over a slice; the smallest that the public code tries
    pred_iou_thresh: float = (
        0.5  # SAM's own estimate of a mask's quality; from the middle of what the public code tries
    )
    stability_score_thresh: float = 0.5  # likewise
    min_area: int = 50  # pixels; smaller segments are noise
    max_head_fraction: float = 0.5  # larger segments are the brain or the head
    crop_margin: int = 0  # pixels around a segment's box, as CLIP sees it


class Salip:
    """SAM and CLIP in cascade over the slices of a volume."""

    def __init__(
        self,
        sam: Sam,
        clip: ClipBundle,
        settings: SalipSettings = SalipSettings(),
        labelling: SliceLabelSettings = SliceLabelSettings(),
        device: torch.device | str = "cpu",
        *,
        one_mask: bool = False,
    ) -> None:
        """Args: sam; clip; settings; labelling: of the slices; device; one_mask: for the embedded SAM."""
        self.settings, self.labelling = settings, labelling
        self.clip, self.device = clip, torch.device(device)
        self._text = encode_prompts(clip, labelling, device)
        self._segmenter = SamSegmenter(sam, device=device)
        self._everything = Everything(
            sam,
            points_per_side=settings.points_per_side,
            confidence=settings.pred_iou_thresh,
            stability=settings.stability_score_thresh,
            one_mask=one_mask,
        )

    def segment(self, slices: np.ndarray, slice_mm: float) -> np.ndarray:
        """Segment one case.

        Args:
            slices: `(z, y, x)` uint8, windowed.
            slice_mm: distance of neighbouring slices.

        Returns:
            `(z, y, x)` bool.
        """
        probability = tumour_probability(slices, self.clip, self._text, self.device)
        label = labels_from_probability(probability, head_fraction(slices), self.labelling, slice_mm).label
        boxes = [self.retrieve(image) if tumour else None for image, tumour in zip(slices, label, strict=True)]
        return self._segmenter.masks(slices, [None if box is None else Prompt(box=box) for box in boxes])

    def retrieve(self, image: np.ndarray) -> np.ndarray | None:
        """The box of the segment that CLIP finds most like a tumour.

        Args:
            image: `(y, x)` uint8.

        Returns:
            `(4,)` float32 `x0, y0, x1, y1`, None without any segment.
        """
        boxes = self.candidates(image)
        if not boxes:
            return None
        crops = [crop(image, box, self.settings.crop_margin) for box in boxes]
        probability = [float(tumour_probability(c[None], self.clip, self._text, self.device)[0]) for c in crops]
        return np.array(boxes[int(np.argmax(probability))], dtype=np.float32)

    def candidates(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        """Boxes `x0, y0, x1, y1` (outermost pixels) of the segments of one slice that may be a lesion.

        Args:
            image: `(y, x)` uint8.
        """
        most = self.settings.max_head_fraction * int((image > HEAD_LEVEL).sum())
        return [each.box for each in self._everything(image) if self.settings.min_area <= each.area <= most]


def crop(image: np.ndarray, box: tuple[int, int, int, int], margin: int) -> np.ndarray:
    """The part of a slice `(y, x)` inside a box `x0, y0, x1, y1`, grown by `margin` pixels."""
    x0, y0, x1, y1 = box
    return image[max(y0 - margin, 0) : y1 + margin + 1, max(x0 - margin, 0) : x1 + margin + 1]
