"""Everything mode: what `segment_anything` itself finds, with the points in air left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam

from pseudo_labeling.embedded.phantoms import phantom_slice
from pseudo_labeling.sam.everything import Everything
from pseudo_labeling.weights.models import load_sam


class OneMaskPredictor(SamPredictor):
    """The library's predictor, always with the single mask of a prompt."""

    def predict_torch(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        masks, quality, low = super().predict_torch(*args, **(kwargs | {"multimask_output": False}))
        return masks, quality, low


@pytest.fixture(scope="module")
def sam() -> Sam:
    return load_sam("embedded").model


def test_segments_are_the_librarys(sam: Sam) -> None:
    image = phantom_slice(np.random.default_rng(2), size=128).image
    found = Everything(sam, points_per_side=6, confidence=0.5, stability=0.5, one_mask=True, head_only=False)(image)
    oracle = SamAutomaticMaskGenerator(sam, points_per_side=6, pred_iou_thresh=0.5, stability_score_thresh=0.5)
    oracle.predictor = OneMaskPredictor(sam)
    expected = oracle.generate(np.repeat(image[..., None], 3, axis=2))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs["segmentation"])
        assert ours.area == ours.mask.sum()
        assert ours.confidence == pytest.approx(theirs["predicted_iou"], abs=1e-5)


def test_air_is_not_asked_and_colours_are_seen(sam: Sam) -> None:
    everything = Everything(sam, points_per_side=4, confidence=0.0, stability=0.0, one_mask=True)
    assert everything(np.zeros((64, 64), np.uint8)) == []
    colours = np.random.default_rng(0).integers(60, 255, (64, 64, 3)).astype(np.uint8)
    assert everything(colours)
