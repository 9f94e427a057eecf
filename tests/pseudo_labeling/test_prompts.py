"""ROI to prompts."""

from __future__ import annotations

import numpy as np
import pytest

from pseudo_labeling.prompts import (
    bounding_box,
    brightest_points,
    centre_and_corners,
    prompts_from_roi,
    sampled_points,
)
from pseudo_labeling.settings import PromptSettings


@pytest.fixture
def roi() -> np.ndarray:
    roi = np.zeros((3, 40, 50), dtype=bool)
    roi[1, 10:21, 30:36] = True
    return roi


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, 40, 50)).astype(np.uint8)


def test_box_is_x_before_y_and_tight(roi: np.ndarray) -> None:
    assert bounding_box(roi[1]).tolist() == [30, 10, 35, 20]


def test_margin_grows_the_box_and_stays_inside(roi: np.ndarray) -> None:
    assert bounding_box(roi[1], 5).tolist() == [25, 5, 40, 25]
    assert bounding_box(roi[1], 100).tolist() == [0, 0, 49, 39]


def test_centre_is_foreground_and_corners_are_background() -> None:
    points, labels = centre_and_corners(np.array([30, 10, 36, 20]))
    assert points[labels == 1].tolist() == [[33, 15]]
    assert sorted(points[labels == 0].tolist()) == [[30, 10], [30, 20], [36, 10], [36, 20]]


def test_brightest_points_are_in_the_roi_bright_first_and_apart(roi: np.ndarray) -> None:
    image = np.full((40, 50), 60, dtype=np.uint8)
    image[18:20, 32:34] = 250
    image[:5, :5] = 255  # brighter, but not in the ROI
    points = brightest_points(roi[1], image)
    assert len(points) == 5
    assert all(roi[1][int(y), int(x)] for x, y in points)
    assert np.hypot(points[0][0] - 32.5, points[0][1] - 18.5) < 2
    gaps = [np.hypot(*(a - b)) for i, a in enumerate(points) for b in points[i + 1 :]]
    assert min(gaps) > 1.5


def test_single_pixel_roi_gives_a_single_bright_point() -> None:
    roi = np.zeros((9, 9), dtype=bool)
    roi[4, 7] = True
    assert brightest_points(roi, np.zeros((9, 9), dtype=np.uint8)).tolist() == [[7, 4]]


def test_empty_slices_get_no_prompt(roi: np.ndarray, images: np.ndarray) -> None:
    prompts = prompts_from_roi(roi, images, PromptSettings(), 1.0)
    assert [p is None for p in prompts] == [True, False, True]


@pytest.mark.parametrize(
    ("kind", "box", "points"), [("box", True, False), ("points", False, True), ("both", True, True)]
)
def test_kind_decides_what_sam_is_told(roi: np.ndarray, images: np.ndarray, kind: str, box: bool, points: bool) -> None:
    prompt = prompts_from_roi(roi, images, PromptSettings(kind=kind), 1.0)[1]  # type: ignore[arg-type]
    assert prompt is not None
    assert (prompt.box is not None) == box
    assert (prompt.points is not None) == points
    assert (prompt.point_labels is not None) == points


def test_intensity_points_are_all_foreground(roi: np.ndarray, images: np.ndarray) -> None:
    prompt = prompts_from_roi(roi, images, PromptSettings(points="intensity"), 1.0)[1]
    assert prompt is not None
    assert prompt.point_labels is not None
    assert set(prompt.point_labels.tolist()) == {1}


def test_points_are_drawn_in_proportion_and_once() -> None:
    weight = np.array([[0.0, 0.8], [1.0, 0.9]])
    rng = np.random.default_rng(0)
    draws = [sampled_points(weight, 2, 3, rng).astype(int).tolist() for _ in range(4000)]
    assert all(first != second for first, second in draws)
    assert [0, 0] not in [place for draw in draws for place in draw]
    chance = weight**3 / (weight**3).sum()
    for y, x in np.argwhere(weight > 0):
        assert np.mean([draw[0] == [x, y] for draw in draws]) == pytest.approx(chance[y, x], abs=0.03)


def test_a_high_power_draws_the_highest_first_and_few_pixels_give_few_points() -> None:
    weight = np.linspace(0, 1, 20).reshape(4, 5)
    points = sampled_points(weight, 100, 3000, np.random.default_rng(1))
    assert [float(weight[int(y), int(x)]) for x, y in points] == sorted(weight[weight > 0].tolist(), reverse=True)
    again = [sampled_points(weight, 10, 30, np.random.default_rng(2)) for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_sampled_prompts_come_from_the_map_inside_the_region(roi: np.ndarray, images: np.ndarray) -> None:
    maps = np.zeros(roi.shape, np.float16)
    maps[1, 12:15, 31:34] = 0.9
    maps[1, 0:3, 0:3] = 1.0  # not in the region
    settings = PromptSettings(points="sampled", count=4, padding=0.1)
    prompt = prompts_from_roi(roi, images, settings, 1.0, maps=maps, seed=3)[1]
    assert prompt is not None
    assert prompt.points is not None
    assert prompt.point_labels is not None
    assert prompt.point_labels.tolist() == [1] * 4
    assert all(maps[1, int(y), int(x)] > 0.5 for x, y in prompt.points)
    np.testing.assert_allclose(prompt.box, [29.5, 9, 35.5, 21])  # 5 and 10 px long, a tenth on each side
    again, other = (prompts_from_roi(roi, images, settings, 1.0, maps=maps, seed=seed)[1] for seed in (3, 4))
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(again.points, prompt.points)
    assert not np.array_equal(other.points, prompt.points)
    without = prompts_from_roi(roi, images, settings, 1.0)[1]
    assert without is not None
    assert without.points is not None
    assert all(roi[1, int(y), int(x)] for x, y in without.points)
