"""What AMDA masks, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from pseudo_labeling.amda import AmdaAugmentation, discriminative_region
from pseudo_labeling.settings import AmdaSettings


@pytest.fixture
def cam() -> np.ndarray:
    cam = np.zeros((2, 30, 30), dtype=np.float32)
    cam[1, 5:25, 5:25] = np.random.default_rng(0).random((20, 20)) * 0.5 + 0.5
    return cam


@pytest.mark.parametrize("alpha", [10, 20, 50])
def test_region_is_the_hottest_share_of_the_roi(cam: np.ndarray, alpha: float) -> None:
    roi = cam > 0
    region = discriminative_region(cam, roi, alpha)
    assert region.sum() / roi.sum() == pytest.approx(alpha / 100, abs=0.01)
    assert cam[region].min() >= cam[roi & ~region].max()
    assert not region[0].any()


def test_alpha_zero_masks_nothing(cam: np.ndarray) -> None:
    assert not discriminative_region(cam, cam > 0, 0).any()


def samples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = np.full((4, 30, 30), 100, dtype=np.uint8)
    images[:, :, :3] = 0
    images[1, 10:14, 10:14] = 200
    regions = np.zeros((4, 30, 30), dtype=bool)
    regions[1, 10:14, 10:14] = True
    return images, regions, np.array([0, 1, 0, 0])


def test_tumour_slice_loses_its_region_and_normal_ones_a_hole_of_that_size() -> None:
    images, regions, labels = samples()
    masked = AmdaAugmentation(regions, labels, AmdaSettings(masked_fraction=1, fill="zero"))(
        images, np.arange(4), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(masked[1] != images[1], regions[1])
    assert (masked[1][regions[1]] == 0).all()
    holes = [int(((masked[k] == 0) & (images[k] > 0)).sum()) for k in (0, 2, 3)]
    assert all(0 < hole <= regions[1].sum() for hole in holes)
    places = {tuple(np.argwhere((masked[k] == 0) & (images[k] > 0))[0]) for k in (0, 2, 3)}
    assert len(places) > 1  # random, not at the tumour's place
    assert images[1, 11, 11] == 200  # the caller's array is not touched


def test_tissue_fill_is_the_head_s_median() -> None:
    images, regions, labels = samples()
    masked = AmdaAugmentation(regions, labels, AmdaSettings(masked_fraction=1, fill="tissue"))(
        images, np.array([0, 1]), np.random.default_rng(0)
    )
    assert (masked[1][regions[1]] == 100).all()


def test_masked_fraction_leaves_the_other_samples_as_they_are() -> None:
    images, regions, labels = samples()
    augmentation = AmdaAugmentation(regions, labels, AmdaSettings(masked_fraction=0.3, fill="zero"))
    rng = np.random.default_rng(1)
    changed = [bool((augmentation(images[1:2], np.array([1]), rng) != images[1:2]).any()) for _ in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.07)


def test_without_any_region_nothing_is_masked() -> None:
    images, regions, labels = samples()
    augmentation = AmdaAugmentation(np.zeros_like(regions), labels, AmdaSettings(masked_fraction=1))
    np.testing.assert_array_equal(augmentation(images, np.arange(4), np.random.default_rng(0)), images)
