"""What the 3D network is shown of the phantoms, and its weights in the forms that patches give it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.embedded.train_unet import PATCHES, normalised, patch_of
from tools.embedded.volume_pool import HEALTHY_EVERY, load_volume, make_volume_pool, volume


def test_a_pool_holds_the_phantoms_of_its_seed(tmp_path: Path) -> None:
    (file,) = make_volume_pool(tmp_path, 1, seed=3, workers=1)
    scan, mask = load_volume(file)
    drawn, true = volume(3, 0, 0)
    assert np.array_equal(mask, true)
    np.testing.assert_allclose(scan, drawn, rtol=1e-3)  # float16
    before = file.read_bytes()
    make_volume_pool(tmp_path, 1, seed=3, workers=1)
    assert file.read_bytes() == before
    assert not volume(3, 0, HEALTHY_EVERY - 1)[1].any()


@pytest.mark.parametrize("size", PATCHES)
def test_patches_keep_scan_and_mask_together(size: tuple[int, int, int]) -> None:
    """A scan that shows its mask still does, wherever it is cut, flipped and zoomed."""
    mask = np.zeros((20, 128, 128), bool)
    mask[6:15, 30:70, 50:110] = True
    scan = np.where(mask, 2.0, -1.0).astype(np.float32)
    shown = 0
    for seed in range(12):
        image, cut = patch_of(scan, mask, size, np.random.default_rng(seed))
        assert image.shape == cut.shape == size
        middle = (image[cut > 0].mean() + image[cut == 0].mean()) / 2
        shown += int((((image > middle) == (cut > 0)).float().mean() > 0.9) and bool(cut.any()))
    assert shown >= 11


def test_stripped_scans_are_cut_to_the_head_and_normalised() -> None:
    scan, mask = np.zeros((8, 40, 40), np.float32), np.zeros((8, 40, 40), bool)
    scan[2:7, 10:30, 5:35] = np.random.default_rng(0).normal(100, 20, (5, 20, 30))
    cut, where = normalised(scan, mask, np.random.default_rng(0))
    assert cut.shape == where.shape == (5, 20, 30)
    assert abs(float(cut.mean())) < 1e-3
    assert abs(float(cut.std()) - 1) < 1e-3
