"""Square pixels: axial slices of sagittal and coronal acquisitions, margins in mm, and masks that come back exactly."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.s3f import Agreement, decide
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.prompts import prompts_from_roi
from pseudo_labeling.roi import Region, roi_from_cam
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import PromptSettings, Settings, WindowSettings
from pseudo_labeling.slice_labels import encode_prompts, head_fraction, labels_from_probability, tumour_probability
from pseudo_labeling.slices import (
    Grid,
    axial_slices,
    read_grid,
    read_scan,
    read_slices,
    read_squares,
    window_volume,
    write_mask,
)
from pseudo_labeling.weights.models import load_clip, load_sam
from tests.helpers.volume_files import write_upright

UPRIGHT = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
ORDERS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "AP", "IS"))
    for letters in itertools.product(*axes)
]  # fmt: skip


def grid(shape: tuple[int, int, int], x_mm: float, y_mm: float) -> Grid:
    return Grid(shape, ((x_mm, y_mm, 5.0), *UPRIGHT[1:]), "LPS")


def test_every_mask_comes_back_exactly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        shape = (2, *(int(n) for n in rng.integers(1, 40, 2)))
        x_mm, y_mm = np.exp(rng.uniform(np.log(0.3), np.log(9), 2))
        where = grid(shape, x_mm, y_mm)
        mask = rng.random(shape) < rng.random()
        squares = where.squares(mask)
        assert squares.shape == where.square_shape
        np.testing.assert_array_equal(where.from_squares(squares), mask)


def test_a_pixel_takes_the_majority_of_its_squares() -> None:
    where = grid((1, 1, 3), 4.0, 1.0)
    squares = np.array([[[1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0]]], dtype=bool)
    assert where.from_squares(squares).tolist() == [[[True, False, True]]]


def test_pixels_are_as_square_as_they_can_be_and_as_large_as_the_smaller_side() -> None:
    assert grid((3, 256, 64), 8.0, 2.0).square_shape == (3, 256, 256)
    assert grid((3, 64, 256), 2.0, 8.0).square_shape == (3, 256, 256)
    assert grid((3, 100, 30), 5.0, 0.9).square_shape == (3, 100, 167)
    assert grid((3, 100, 30), 5.0, 0.9).pixel_mm == 0.9


@pytest.mark.parametrize("x_mm", [1.0, 1.009, 0.9999999])
def test_scans_with_square_pixels_go_through_untouched(tmp_path: Path, x_mm: float) -> None:
    mask = np.random.default_rng(1).random((3, 20, 30)) < 0.5
    where = grid(mask.shape, x_mm, 1.0)
    assert where.squares(mask) is mask
    assert where.from_squares(mask) is mask
    volume = np.random.default_rng(2).normal(100, 20, mask.shape).astype(np.float32)
    _, images = read_slices(write_upright(tmp_path / "scan.nii.gz", volume, spacing=(x_mm, 1.0, 5.0)))
    np.testing.assert_array_equal(images, window_volume(volume))


def test_slices_are_linear_between_pixels(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(8, dtype=np.float32) * 30, (2, 24, 1))
    _, images = read_slices(write_upright(tmp_path / "s.nii.gz", ramp, spacing=(3.0, 1.0, 5.0)), WindowSettings(0, 100))
    inner = images[0, 0, 1:-1].astype(float)
    np.testing.assert_allclose(np.diff(inner), 255 / 7 / 3, atol=1.0)
    np.testing.assert_array_equal(images[0, 0, 1::3], window_volume(ramp, WindowSettings(0, 100))[0, 0])


def test_pixels_that_cannot_be_right_are_refused_by_name(tmp_path: Path) -> None:
    volume = np.random.default_rng(2).normal(100, 20, (3, 20, 30)).astype(np.float32)
    path = write_upright(tmp_path / "scan.nii.gz", volume, spacing=(40.0, 1.0, 5.0))
    with pytest.raises(UserError, match=r"scan\.nii\.gz: pixels of 40 x 1 mm .* correct the header") as caught:
        read_slices(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ORDERS)
def test_48_orders_there_and_back(tmp_path: Path, order: str) -> None:
    """Scan, CAM and label of a scan do not depend on how its file stores it, and return to where they belong."""
    rng = np.random.default_rng(8)
    volume = rng.normal(100, 20, (4, 6, 15)).astype(np.float32)
    volume[:, :1] = 0
    spacing = (2.0, 5.0, 3.0)
    path = write_upright(tmp_path / "scan.nii.gz", volume, order, spacing)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.volume, volume)
    head = read_grid(path)
    assert (head.shape, head.orientation) == (scan.shape, order)
    assert head.square_shape == scan.square_shape == (4, 15, 15)
    images = axial_slices(scan)
    upright = read_scan(write_upright(tmp_path / "upright.nii.gz", volume, spacing=spacing))
    np.testing.assert_array_equal(images, axial_slices(upright))
    cam = (images / 255).astype(np.float16)
    roi = roi_from_cam(cam, images, Settings().roi)
    np.testing.assert_array_equal(roi, roi_from_cam(cam, axial_slices(upright), Settings().roi))
    label = rng.random(volume.shape) < 0.4
    write_mask(scan, scan.squares(label), tmp_path / "label.nii.gz")
    written, image = (sitk.ReadImage(str(p)) for p in (tmp_path / "label.nii.gz", path))
    assert written.GetSize() == image.GetSize()
    np.testing.assert_allclose(
        [*written.GetDirection(), *written.GetOrigin(), *written.GetSpacing()],
        [*image.GetDirection(), *image.GetOrigin(), *image.GetSpacing()],
        atol=1e-5,
    )
    stored = sitk.DICOMOrient(_image_of(label, spacing), order)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(stored))
    np.testing.assert_array_equal(scan.stack_from_image(written), label)
    np.testing.assert_array_equal(read_squares(tmp_path / "label.nii.gz"), scan.squares(label))
    np.testing.assert_array_equal(scan.read_mask(tmp_path / "label.nii.gz", "cure"), scan.squares(label))


def _image_of(mask: np.ndarray, spacing: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing)
    return image


def test_a_scan_upside_down_gets_the_label_upside_down() -> None:
    """Window, slice labels, ROI, prompts and SAM, all of the embedded preset, on a scan and on its mirror along z."""
    volume, _ = phantom_volume(np.random.default_rng(4), (10, 96, 96))
    settings = Settings().merged(PRESETS["embedded"])
    clip = load_clip("embedded")
    text = encode_prompts(clip, settings.slice_labels, "cpu")
    segmenter = SamSegmenter(load_sam("embedded").model, settings.sam)

    def label(scan: np.ndarray) -> np.ndarray:
        slices = window_volume(scan.astype(np.float32), settings.window)
        probability = tumour_probability(slices, clip, text, "cpu")
        tumour = labels_from_probability(probability, head_fraction(slices), settings.slice_labels, 5.0).label
        cam = np.where(tumour[:, None, None] == 1, slices / 255, 0).astype(np.float16)  # stands in for the classifier's
        return segmenter.segment(slices, [Region(roi_from_cam(cam, slices, settings.roi))], settings.prompts, 1.0)[0]

    found = label(volume)
    assert found.any()
    np.testing.assert_array_equal(label(volume[::-1])[::-1], found)


@pytest.mark.parametrize("points", ["centre", "intensity"])
def test_prompts_lie_inside_the_slice(points: str) -> None:
    rng = np.random.default_rng(6)
    for _ in range(150):
        shape = (1, *(int(n) for n in rng.integers(1, 60, 2)))
        where = grid(shape, *np.exp(rng.uniform(np.log(0.4), np.log(6), 2)))
        roi = np.zeros(shape, dtype=bool)
        y, x = (int(rng.integers(n)) for n in shape[1:])
        roi[0, y : y + int(rng.integers(1, 30)), x : x + int(rng.integers(1, 30))] = True
        squares = where.squares(roi)
        images = rng.integers(0, 256, where.square_shape).astype(np.uint8)
        settings = PromptSettings(points=points, margin=int(rng.integers(0, 200)))  # type: ignore[arg-type]
        (prompt,) = prompts_from_roi(squares, images, settings, where.pixel_mm)
        assert prompt is not None
        assert prompt.box is not None
        assert prompt.points is not None
        height, width = where.square_shape[1:]
        x0, y0, x1, y1 = prompt.box
        assert 0 <= x0 <= x1 <= width - 1
        assert 0 <= y0 <= y1 <= height - 1
        assert ((prompt.points >= 0) & (prompt.points <= (width - 1, height - 1))).all()
        rows, columns = np.flatnonzero(squares[0].any(1)), np.flatnonzero(squares[0].any(0))
        assert (x0, y0) <= (columns[0], rows[0])
        assert (x1, y1) >= (columns[-1], rows[-1])


@pytest.mark.parametrize(("pixel_mm", "pixels"), [(1.0, 20), (0.5, 40), (2.0, 10), (0.9375, 21)])
def test_the_margin_counts_in_millimetres(pixel_mm: float, pixels: int) -> None:
    roi = np.zeros((1, 200, 200), dtype=bool)
    roi[0, 100:103, 90:94] = True
    images = np.zeros(roi.shape, dtype=np.uint8)
    (prompt,) = prompts_from_roi(roi, images, PromptSettings(margin=20), pixel_mm)
    assert prompt is not None
    assert prompt.box is not None
    assert prompt.box.tolist() == [90 - pixels, 100 - pixels, 93 + pixels, 102 + pixels]


def test_the_kept_set_shrinks_as_beta_grows() -> None:
    rng = np.random.default_rng(9)
    for _ in range(100):
        count = int(rng.integers(1, 30))
        values = np.round(rng.random(count), int(rng.integers(1, 4)))
        values[int(rng.integers(count))] = 0.97
        empty = (rng.random(count) < 0.1) & (values != 0.97)
        both = enumerate(zip(values, empty, strict=True))
        cases = [Agreement(f"c{i:02d}", int(not none), 1, float(value)) for i, (value, none) in both]
        before: set[str] | None = None
        for beta in (0.0, *np.sort(rng.uniform(0, 100, 6)), 100.0):
            kept = {d.agreement.case for d in decide(cases, beta)[1] if d.kept} if _any_left(cases, beta) else set()
            assert before is None or kept <= before
            before = kept


def _any_left(cases: list[Agreement], beta: float) -> bool:
    """Whether a case with a prediction reaches the threshold; without any, `decide` is an error of its own."""
    threshold = float(np.percentile([a.similarity or 0.0 for a in cases], beta))
    return any(a.predicted_voxels and (a.similarity or 0) >= threshold and (a.similarity or beta == 0) for a in cases)
