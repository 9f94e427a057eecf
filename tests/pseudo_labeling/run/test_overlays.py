"""Overlay pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_labeling.prompts import prompts_from_roi
from pseudo_labeling.run.overlays import representative_slices, save_overlay
from pseudo_labeling.settings import PromptSettings


def test_slices_come_from_the_occupied_part() -> None:
    mask = np.zeros((30, 5, 5), dtype=bool)
    mask[10:20] = True
    picks = representative_slices(mask, 30)
    assert len(picks) == 4
    assert all(10 <= z < 20 for z in picks)
    assert representative_slices(mask[:12], 12) == [10, 11]


def test_picture_shows_mask_and_is_whole(tmp_path: Path) -> None:
    images = np.full((6, 40, 40), 90, dtype=np.uint8)
    roi = np.zeros(images.shape, dtype=bool)
    roi[2:5, 10:30, 10:30] = True
    prompts = prompts_from_roi(roi, images, PromptSettings(), 1.0)
    for name, mask in (("with", roi), ("without", np.zeros_like(roi))):
        save_overlay(tmp_path / f"{name}.png", images, cam=roi.astype(float), roi=roi, prompts=prompts, mask=mask)
    pictures = [
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int) for name in ("with", "without")
    ]
    orange = [((p[..., 0] - p[..., 2]) > 120).sum() for p in pictures]
    assert orange[0] > orange[1] > 0  # prompts in both, the mask's line in one
    assert sorted(p.name for p in tmp_path.iterdir()) == ["with.png", "without.png"]


def test_empty_case_still_gets_a_picture(tmp_path: Path) -> None:
    save_overlay(tmp_path / "a.png", np.zeros((2, 20, 20), dtype=np.uint8), title="case")
    assert Image.open(tmp_path / "a.png").size[0] > 100
