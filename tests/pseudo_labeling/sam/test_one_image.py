"""Many prompts on one image: the masks of `SamPredictor`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from pseudo_labeling.sam.one_image import OneImagePredictor
from pseudo_labeling.weights.models import load_sam

Outcome = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def sam() -> Sam:
    return load_sam("embedded").model


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Wider than high, so that SAM pads it."""
    return np.random.default_rng(3).integers(0, 255, (60, 96, 3)).astype(np.uint8)


def asked(predictor: SamPredictor, image: np.ndarray, kind: str, *, many: bool = True, logits: bool = True) -> Outcome:
    """What a predictor says to five prompts of a kind."""
    predictor.set_image(image)
    rng = np.random.default_rng(1)
    places = rng.uniform(5, 55, (5, 2, 2))
    points = torch.as_tensor(predictor.transform.apply_coords(places, image.shape[:2]), dtype=torch.float)
    corners = np.concatenate([places.min(1), places.max(1) + 4], axis=1)
    boxes = torch.as_tensor(predictor.transform.apply_boxes(corners, image.shape[:2]), dtype=torch.float)
    labels = torch.tensor([[1, 0]] * 5)
    drawn = torch.as_tensor(rng.normal(size=(5, 1, 128, 128)), dtype=torch.float)
    found: Outcome = predictor.predict_torch(
        points if kind in {"points", "both", "mask"} else None,
        labels if kind in {"points", "both", "mask"} else None,
        boxes if kind in {"boxes", "both"} else None,
        drawn if kind == "mask" else None,
        multimask_output=many,
        return_logits=logits,
    )
    return found


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("kind", ["points", "boxes", "both", "mask"])
def test_equals_sam_predictor(sam: Sam, image: np.ndarray, kind: str, many: bool) -> None:
    ours = asked(OneImagePredictor(sam), image, kind, many=many)
    theirs = asked(SamPredictor(sam), image, kind, many=many)
    for own, oracle in zip(ours, theirs, strict=True):
        assert own.shape == oracle.shape
        torch.testing.assert_close(own, oracle, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(ours[0][0], ours[0][1], atol=0.1)  # prompts differ, and so do their masks


def test_masks_are_logits_above_the_threshold(sam: Sam, image: np.ndarray) -> None:
    masks = asked(OneImagePredictor(sam), image, "points", logits=False)[0]
    assert masks.dtype == torch.bool
    assert masks.equal(asked(OneImagePredictor(sam), image, "points")[0] > sam.mask_threshold)


def test_one_mask_is_the_single_one(sam: Sam, image: np.ndarray) -> None:
    ours = asked(OneImagePredictor(sam, one_mask=True), image, "points", many=True)
    assert ours[0].equal(asked(OneImagePredictor(sam), image, "points", many=False)[0])
    assert ours[1].shape == (5, 1)
