"""The mirror image of a scan lies on the scan, however the head lies and whatever order the voxels have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from dataset_conversion.scans.mirror import draw, exchange_mirrors, flip_left_right, left_right_axis, mirrored
from dataset_conversion.sources.mirrored import mirror_folder
from tests.helpers.commands import in_process

SHAPE, SPACING = (24, 120, 100), (1.5, 1.5, 5.0)  # (z, y, x) voxels; x, y, z in mm
CENTRE = (np.array(SHAPE[::-1]) - 1) * SPACING / 2


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def head(
    degrees: tuple[float, float, float] = (0, 0, 0),
    shift_mm: tuple[float, float, float] = (0, 0, 0),
    *,
    lesion: bool = True,
    seed: int = 0,
) -> sitk.Image:
    """A head that is its own mirror image but for a lesion, turned and shifted, with noise; LPS."""
    z, y, x = np.indices(SHAPE)
    points = np.stack([x, y, z], -1) * SPACING - CENTRE - np.array(shift_mm)
    a, b, c = np.moveaxis(points @ rotation(degrees), -1, 0)  # in the head: right-left, front-back, down-up
    shape = 1 + 0.12 * (c < -10) * (c + 10) / 60  # narrower towards the neck
    voxels = 200.0 * (((a / (58 * shape)) ** 2 + (b / (76 * shape)) ** 2 + (c / 84) ** 2) < 1)
    inside = ((a / (50 * shape)) ** 2 + (b / (68 * shape)) ** 2 + (c / 76) ** 2) < 1
    voxels[inside] = 120 + 0.3 * b[inside]
    for at in (-1, 1):
        voxels[(((a - 14 * at) / 7) ** 2 + ((b + 8) / 24) ** 2 + ((c - 10) / 16) ** 2) < 1] = 20  # ventricles
        voxels[(((a - 32 * at) / 10) ** 2 + ((b - 40) / 10) ** 2 + ((c + 40) / 12) ** 2) < 1] = 40  # petrous bones
        voxels[(((a - 30 * at) / 12) ** 2 + ((b + 58) / 12) ** 2 + ((c + 46) / 12) ** 2) < 1] = 60  # eyes
    if lesion:
        voxels[(((a - 30) / 14) ** 2 + ((b + 25) / 16) ** 2 + ((c - 5) / 16) ** 2) < 1] = 260
    voxels = ndimage.gaussian_filter(voxels, 0.5)  # as a slice of 5 mm shows what lies in it
    voxels += np.random.default_rng(seed).normal(0, 6, SHAPE)
    image = sitk.GetImageFromArray(np.clip(voxels, 0, None).astype(np.float32))
    image.SetSpacing(SPACING)
    return image


def worst_error(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> float:
    """How many voxels a point of the head is off its true mirror image's place after registration; the largest."""
    found = mirrored(head(degrees, shift_mm)).transform
    turn, middle = rotation(degrees), CENTRE + np.array(shift_mm)
    reflect = np.diag([-1.0, 1.0, 1.0])
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        inside = rng.uniform(-1, 1, 3)
        point = turn @ (inside / max(1, np.linalg.norm(inside)) * (50, 68, 55)) + middle
        other_side = turn @ reflect @ turn.T @ (point - middle) + middle
        in_flipped = reflect @ (other_side - CENTRE) + CENTRE
        off = (np.array(found.TransformPoint(point.tolist())) - in_flipped) / SPACING
        worst = max(worst, float(np.linalg.norm(off)))
    return worst


@pytest.mark.parametrize(
    ("degrees", "shift_mm"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((0, 0, 10), (0, 0, 0)),
        ((0, 0, -10), (12, -9, 4)),
        ((5, 0, 8), (-15, 6, 0)),
        ((0, 8, 0), (5, 5, 5)),
        ((-8, 6, -6), (8, 0, -5)),
        ((0, 10, 0), (-6, 10, 5)),
        ((10, 0, 0), (0, 0, 0)),
        ((5, -6, 6), (-12, 8, 4)),
    ],
)
def test_registration_is_off_by_less_than_a_voxel(
    degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]
) -> None:
    assert worst_error(degrees, shift_mm) < 1


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "RIP", "ASL", "PIR"])
def test_the_patients_left_right_axis_is_flipped_whatever_the_storage_order(orientation: str) -> None:
    image = sitk.DICOMOrient(head((0, 0, 4), (6, 0, 0)), orientation)
    assert left_right_axis(image) == next(n for n, letter in enumerate(orientation) if letter in "LR")
    again = sitk.DICOMOrient(flip_left_right(image), "LPS")
    expected = sitk.GetArrayFromImage(head((0, 0, 4), (6, 0, 0)))[:, :, ::-1]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), expected)


def test_the_lesion_stands_out_and_the_rest_does_not() -> None:
    scan = head((0, 0, 7), (9, -4, 0))
    voxels = sitk.GetArrayFromImage(scan)
    difference = voxels - sitk.GetArrayFromImage(mirrored(scan).image)
    lesion = voxels - sitk.GetArrayFromImage(head((0, 0, 7), (9, -4, 0), lesion=False))
    assert np.median(difference[lesion > 60]) > 100
    elsewhere = np.abs(difference)[(np.abs(lesion) < 1) & (voxels > 60)]
    assert np.median(elsewhere) < 15


def test_pixel_type_grid_and_least_value_are_the_scans() -> None:
    scan = sitk.Cast(head() - 100.0, sitk.sitkInt16)
    scan.SetOrigin((-30.0, 12.0, 5.0))
    found = mirrored(scan).image
    assert found.GetPixelID() == sitk.sitkInt16
    assert (found.GetOrigin(), found.GetSpacing(), found.GetDirection()) == (
        scan.GetOrigin(),
        scan.GetSpacing(),
        scan.GetDirection(),
    )
    assert sitk.GetArrayFromImage(found).min() >= sitk.GetArrayFromImage(scan).min()


def test_the_command_writes_both_channels_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for number in range(3):
        sitk.WriteImage(head((0, 0, 3.0 * number), seed=number), str(tmp_path / "scans" / f"case_{number}.nii.gz"))
    done = in_process(["mirror", "--images", tmp_path / "scans", "-o", tmp_path / "whole"])
    assert done.returncode == 0, done.stderr
    for part in ("0", "1"):
        place = ["--images", tmp_path / "scans", "-o", tmp_path / "parts", "-num_parts", "2", "-part_id", part]
        assert in_process(["mirror", *place]).returncode == 0
    names = sorted(file.name for file in (tmp_path / "whole").glob("*.nii.gz"))
    assert names == sorted(f"case_{number}_{channel:04d}.nii.gz" for number in range(3) for channel in (0, 1))
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    first = sitk.ReadImage(str(tmp_path / "whole" / "case_1_0000.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(head((0, 0, 3), seed=1)))
    with Image.open(tmp_path / "whole" / "mirrored" / "case_0.png") as picture:
        assert picture.size == (3 * SHAPE[2], SHAPE[1])


def test_a_picture_shows_what_is_brighter_in_red_and_darker_in_blue() -> None:
    scan = np.zeros((3, 8, 8), np.float32)
    scan[1, 2:6, 1:3] = 100
    shown = np.asarray(draw(scan, scan[:, :, ::-1]))
    assert shown.shape == (8, 24, 3)
    difference = shown[:, 16:]
    assert difference[3, 1].tolist() == [255, 0, 0]
    assert difference[3, 6].tolist() == [0, 0, 255]


def test_scans_that_are_no_scans_are_one_line(tmp_path: Path) -> None:
    done = in_process(["mirror", "--images", tmp_path / "nothing", "-o", tmp_path / "out"])
    assert done.returncode == 2
    assert str(tmp_path / "nothing") in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_mirror_folder_of_no_cases_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(head(), str(tmp_path / "scans" / "only.nii.gz"))
    assert mirror_folder(tmp_path / "scans", tmp_path / "out", []) == []
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_mirror_images_are_exchanged_on_the_scans_own_grid(tmp_path: Path) -> None:
    """Also between scans of other shapes, edges and storage orders: the other head lies on this one's middle."""
    first, second = head(), sitk.DICOMOrient(sitk.Flip(head(seed=1)[5:95, 10:, 2:], [False, True, False]), "RAS")
    (tmp_path / "both").mkdir()
    for case, scan in (("a", first), ("b", second)):
        sitk.WriteImage(scan, str(tmp_path / "both" / f"{case}_0000.nii.gz"))
        sitk.WriteImage(flip_left_right(scan), str(tmp_path / "both" / f"{case}_0001.nii.gz"))
    exchange_mirrors(tmp_path / "both", tmp_path / "exchanged")
    assert [path.name for path in sorted((tmp_path / "exchanged").iterdir())] == [
        f"{case}_{channel:04d}.nii.gz" for case in "ab" for channel in (0, 1)
    ]
    for case, other in (("a", second), ("b", first)):
        scan, mirror = (sitk.ReadImage(str(tmp_path / "exchanged" / f"{case}_{n:04d}.nii.gz")) for n in (0, 1))
        assert scan.GetSize() == mirror.GetSize()
        np.testing.assert_allclose(scan.GetDirection(), mirror.GetDirection(), atol=1e-6)
        np.testing.assert_allclose(scan.GetOrigin(), mirror.GetOrigin(), atol=1e-4)
        middles = [np.array(each.TransformContinuousIndexToPhysicalPoint((np.array(each.GetSize()) - 1) / 2))
                   for each in (mirror, other)]  # fmt: skip
        heads = [
            _middle_of_head(each) - middle
            for each, middle in zip((mirror, flip_left_right(other)), middles, strict=True)
        ]
        np.testing.assert_allclose(heads[0], heads[1], atol=2)


def _middle_of_head(image: sitk.Image) -> np.ndarray:
    """Its centre of mass in mm."""
    voxels = sitk.GetArrayFromImage(image) > 30
    return np.array(image.TransformContinuousIndexToPhysicalPoint(np.argwhere(voxels).mean(0)[::-1].tolist()))
