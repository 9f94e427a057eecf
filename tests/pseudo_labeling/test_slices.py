"""Reading scans, windowing them, and going back to the scan's own grid."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from pseudo_labeling import slices
from pseudo_labeling.slices import (
    axial_slices,
    fits_beside_another,
    read_scan,
    read_slices,
    window_volume,
    write_mask,
)
from tests.helpers.volume_files import write_upright

write_scan = partial(write_upright, spacing=(0.9, 1.1, 4.0))


@pytest.fixture
def head() -> np.ndarray:
    rng = np.random.default_rng(3)
    volume = rng.normal(100, 10, (7, 12, 9)).astype(np.float32)
    volume[:, :2] = 0
    volume[2, 5, 6] = 300  # one spot that tells every axis and direction apart
    return volume


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LPI", "PSR", "SAL"])
def test_slices_are_axial_whatever_the_storage_order(tmp_path: Path, head: np.ndarray, orientation: str) -> None:
    scan = read_scan(write_scan(tmp_path / "a.nii.gz", head, orientation))
    np.testing.assert_allclose(scan.volume, head)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LPI", "PSR", "SAL"])
def test_mask_returns_to_the_grid_of_the_file(tmp_path: Path, head: np.ndarray, orientation: str) -> None:
    path = write_scan(tmp_path / "a.nii.gz", head, orientation)
    scan = read_scan(path)
    write_mask(scan, scan.squares(scan.volume > 250), tmp_path / "m.nii.gz")
    image, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "m.nii.gz"))
    assert mask.GetSize() == image.GetSize()
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(image) > 250)
    np.testing.assert_array_equal(scan.stack_from_image(mask), head > 250)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(("orientation", "flipped"), [("LPS", False), ("LPI", True), ("PSR", False), ("IAL", True)])
def test_file_slice_counts_as_the_file_does(tmp_path: Path, head: np.ndarray, orientation: str, flipped: bool) -> None:
    scan = read_scan(write_scan(tmp_path / "a.nii.gz", head, orientation))
    assert [scan.file_slice(z) for z in range(7)] == (list(range(6, -1, -1)) if flipped else list(range(7)))


def test_windowing_ignores_gain_and_offset(head: np.ndarray) -> None:
    windowed = window_volume(head)
    assert windowed.dtype == np.uint8
    assert windowed.min() == 0
    assert windowed.max() == 255
    np.testing.assert_allclose(window_volume(head * 37 + 500).astype(int), windowed, atol=1)


def test_windowing_keeps_order_within_the_window(head: np.ndarray) -> None:
    windowed = window_volume(head).astype(int)
    order = np.argsort(head.ravel())
    assert (np.diff(windowed.ravel()[order]) >= 0).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: sitk.WriteImage(sitk.Image(4, 4, sitk.sitkFloat32), str(p)), "expected one 3D volume"),
        (lambda p: sitk.WriteImage(sitk.Image([3, 3, 3, 2], sitk.sitkFloat32), str(p)), "expected one 3D volume"),
        (lambda p: sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkFloat32), str(p)), "every voxel has the value 0"),
        (lambda p: p.write_bytes(b"not an image at all"), "cannot be read"),
        (lambda p: None, "cannot be read"),
    ],
)
def test_bad_scan_is_named(tmp_path: Path, make, says: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bad.nii.gz"
    make(path)
    with pytest.raises(UserError, match=says) as caught:
        read_scan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scan_with_nan_or_infinity_is_named(tmp_path: Path, head: np.ndarray, value: float) -> None:
    path = tmp_path / "bad.mha"  # ITK's NIfTI reader turns NaN into 0 by itself
    head[0, 0, 0] = value
    sitk.WriteImage(sitk.GetImageFromArray(head), str(path))
    with pytest.raises(UserError, match=r"bad\.mha: has NaN or infinite"):
        read_scan(path)


def test_truncated_scan_is_named(tmp_path: Path, head: np.ndarray) -> None:
    path = write_scan(tmp_path / "cut.nii.gz", head)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cut\.nii\.gz"):
        read_scan(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float64])
def test_slices_and_grid_are_those_of_the_scan(tmp_path: Path, head: np.ndarray, dtype: type) -> None:
    path = write_scan(tmp_path / "a.nii.gz", head.clip(0, 255).round().astype(dtype), "RAI")
    scan = read_scan(path)
    assert scan.volume.dtype == np.float32
    np.testing.assert_array_equal(scan.volume, head.clip(0, 255).round())
    grid, windowed = read_slices(path)
    np.testing.assert_array_equal(windowed, axial_slices(scan))
    assert grid == scan.grid
    assert not hasattr(grid, "volume")
    assert grid.slice_mm == pytest.approx(4.0)
    assert grid.file_slice(0) == 6


def test_mask_of_another_shape_is_refused(tmp_path: Path, head: np.ndarray) -> None:
    grid, windowed = read_slices(write_scan(tmp_path / "a.nii.gz", head))
    with pytest.raises(ValueError, match="does not fit"):
        write_mask(grid, windowed[:5] > 0, tmp_path / "m.nii.gz")


def test_a_large_scan_is_known_by_its_header(tmp_path: Path, head: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_scan(tmp_path / "a.nii.gz", head)
    assert fits_beside_another(path)
    monkeypatch.setattr(slices, "AHEAD_VOXELS", head.size - 1)
    assert not fits_beside_another(path)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    assert not fits_beside_another(tmp_path / "b.nii.gz")


def test_a_mask_of_another_shape_is_named(tmp_path: Path, head: np.ndarray) -> None:
    scan = read_scan(write_scan(tmp_path / "a.nii.gz", head, "RAI"))
    mask = (head > 250).astype(np.uint8)
    found = scan.read_mask(write_scan(tmp_path / "m.nii.gz", mask, "RAI"), "mend it")
    np.testing.assert_array_equal(found, scan.squares(mask > 0))
    with pytest.raises(UserError, match=r"cut\.nii\.gz: \(6, 12, 9\) voxels, but its scan has \(7, 12, 9\); mend it"):
        scan.read_mask(write_scan(tmp_path / "cut.nii.gz", mask[1:]), "mend it")
