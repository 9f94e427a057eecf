"""CAM to ROI."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pseudo_labeling.roi import large_components, opened, roi_from_cam
from pseudo_labeling.settings import RoiSettings


def blob(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    return np.clip(1 - distance / (2 * radius), 0, 1)


def test_finds_the_hot_blob_without_being_told_a_threshold() -> None:
    cam = blob((12, 40, 40), (6, 20, 12), 5).astype(np.float16)
    roi = roi_from_cam(cam, np.zeros(cam.shape, np.uint8), RoiSettings())
    assert roi[6, 20, 12]
    assert not roi[:, :, 30:].any()
    assert 0.02 < roi.mean() < 0.3


def test_small_far_component_is_dropped_and_comparable_one_kept() -> None:
    roi = np.zeros((10, 30, 30), dtype=bool)
    roi[2:8, 2:8, 2:8] = True  # 216
    roi[2:8, 20:25, 20:23] = True  # 90: more than a third
    roi[2:4, 2:5, 24:27] = True  # 18
    kept = large_components(roi, 1 / 3)
    assert kept.sum() == 216 + 90


def test_opening_removes_threads_but_not_what_runs_out_of_the_volume() -> None:
    roi = np.zeros((9, 20, 20), dtype=bool)
    roi[0:2, 5:12, 5:12] = True  # two slices thick, at the border
    roi[4, 10, :] = True  # a thread
    result = opened(roi, 3)
    assert result[0, 8, 8]
    assert not result[4].any()


def test_opening_never_empties_a_case() -> None:
    roi = np.zeros((9, 20, 20), dtype=bool)
    roi[4, 10, 8:12] = True
    np.testing.assert_array_equal(opened(roi, 3), roi)


@pytest.mark.parametrize("brightness", [False, True])
def test_no_tumour_slice_gives_no_roi(brightness: bool) -> None:
    nothing = np.zeros((4, 8, 8), dtype=np.float16)
    assert not roi_from_cam(nothing, np.zeros_like(nothing), RoiSettings(brightness=brightness)).any()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_fixed_share_is_of_the_maximum(share: float) -> None:
    cam = np.zeros((1, 10, 101), dtype=np.float32)
    cam[0, :] = np.linspace(0, 0.5, 101)
    roi = roi_from_cam(cam, np.zeros(cam.shape, np.uint8), RoiSettings(threshold=share, opening=0))
    np.testing.assert_array_equal(roi, cam > share * 0.5)


def test_brightness_takes_the_roi_out_of_the_air_and_ignores_single_bright_pixels() -> None:
    cam = blob((12, 40, 40), (6, 20, 12), 8)
    slices = np.full(cam.shape, 120, np.uint8)
    slices[:, :, :10] = 0  # air, which the CAM runs into
    air = slices == 0
    assert (roi_from_cam(cam, slices, RoiSettings()) & air).any()
    roi = roi_from_cam(cam, slices, RoiSettings(brightness=True, opening=0))
    assert roi[6, 20, 14]
    assert (roi & air).sum() < 0.1 * roi.sum()
    slices[6, 20, 4] = 255
    assert not roi_from_cam(cam, slices, RoiSettings(brightness=True, opening=0))[6, 20, 4]


@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 20, 0), (2, 9, 14), (4, 26, 24)])
@pytest.mark.parametrize("edge", [2, 3, 5])
def test_clean_up_near_a_border_is_that_of_the_whole_volume(corner: tuple[int, int, int], edge: int) -> None:
    rng = np.random.default_rng(edge)
    roi = np.zeros((12, 40, 38), dtype=bool)
    box = tuple(slice(c, c + n) for c, n in zip(corner, (8, 14, 14), strict=True))
    roi[box] = ndimage.gaussian_filter(rng.random((8, 14, 14)), 1.2) > 0.47
    padded = np.pad(roi, edge, mode="edge")
    expected = ndimage.binary_opening(padded, np.ones((edge,) * 3))[(slice(edge, -edge),) * 3]
    np.testing.assert_array_equal(opened(roi, edge), expected if expected.any() else roi)
    labelled, count = ndimage.label(roi, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(roi, labelled, np.arange(1, count + 1))
    large = np.isin(labelled, 1 + np.flatnonzero(sizes >= 0.4 * sizes.max()))
    np.testing.assert_array_equal(large_components(roi, 0.4), large)
