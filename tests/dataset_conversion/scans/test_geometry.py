"""Headers that mean two things are refused, or unified by `convert`; headers that mean one thing pass as they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import read_image
from dataset_conversion.sources.folder import convert_folder
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from pseudo_labeling.slices import read_scan
from tests.helpers.volume_files import SPACING, affine, cube, read, voxels, write, write_nifti

REFUSED = UserError
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ affine()
# What an SPM or FSL registration leaves: the sform moved, the qform as the scanner wrote it.
CONTRADICTIONS = {
    "moved": {"sform": affine(origin=(95.0, -120.0, -70.0)), "qform": affine(), "codes": (2, 1)},
    "mirrored": {"sform": MIRRORED, "qform": affine(), "codes": (1, 1)},
    "itk takes the qform": {"sform": MIRRORED, "qform": affine(), "codes": (4, 1)},
    "pixdim": {"sform": affine(), "pixdim": (0.9, 0.8, 5.0), "codes": (1, 0)},
}
CONSISTENT = {
    "both": {"sform": affine(), "qform": affine(), "codes": (1, 1)},
    "sform only": {"sform": affine(), "codes": (2, 0)},
    "qform only": {"qform": affine(), "codes": (0, 1)},
    "neither is used": {"sform": MIRRORED, "qform": affine(), "codes": (0, 0)},
    "an unused sform": {"sform": MIRRORED * np.nan, "qform": affine(), "codes": (0, 1)},
    "left-handed": {"sform": MIRRORED, "qform": MIRRORED, "codes": (1, 1)},
    "rounded": {"sform": affine((0.90001, 0.8, 3.0001)), "qform": affine(), "codes": (1, 1)},
}


def path_of(folder: Path, case: str) -> Path:
    return folder / f"{case.replace(' ', '_')}.nii.gz"


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_header_that_means_two_things_is_refused_wherever_it_is_read(tmp_path: Path, case: str) -> None:
    scan = write_nifti(tmp_path / "scans" / "a.nii.gz", voxels(), **CONTRADICTIONS[case])
    mask = write_nifti(tmp_path / "masks" / "a.nii.gz", cube(), **CONTRADICTIONS[case])
    for reading in (
        lambda: read_scan(scan),
        lambda: read_image(scan),
        lambda: evaluate_folders(mask.parent, mask.parent),
    ):
        with pytest.raises(
            REFUSED, match=r"a\.nii\.gz: .*(sform and qform place it|by pixdim and).*`.* convert`"
        ) as caught:
            reading()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_convert_takes_the_sform_and_says_so(nnunet: Path, tmp_path: Path, case: str) -> None:
    """Afterwards every program sees the scan where nibabel saw it before, and its mask with it."""
    source = write_nifti(path_of(tmp_path / "images", "odd"), voxels(1), **CONTRADICTIONS[case])
    write(tmp_path / "images" / "plain.nii.gz", voxels(2))
    write_nifti(path_of(tmp_path / "labels", "odd"), cube(), **CONTRADICTIONS[case])
    write(tmp_path / "labels" / "plain.nii.gz", cube())
    summary = str(convert_folder(tmp_path / "images", labels=tmp_path / "labels", dataset_id=1, name="A", fullsup_id=2))
    assert "1 cases mean two things" in summary
    assert "odd (odd:" in summary
    twin = nnunet / "raw/Dataset002_A_fullsup"
    before = nibabel.load(source)
    for name, expected in (("imagesTr/odd_0000.nii.gz", voxels(1)), ("labelsTr/odd.nii.gz", cube())):
        after = nibabel.load(twin / name)
        np.testing.assert_array_equal(read(twin / name), expected)
        for transform in (after.get_sform(), after.get_qform()):
            np.testing.assert_allclose(transform, before.get_sform(), atol=1e-3)
        image = sitk.ReadImage(str(twin / name))
        for index in ((0, 0, 0), (8, 7, 4), (3, 0, 2)):
            place = np.diag([-1, -1, 1, 1]) @ before.get_sform() @ [*index, 1]
            np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), place[:3], atol=1e-3)
        assert read_image(twin / name).GetSize() == (9, 8, 5)
    untouched = (tmp_path / "images" / "plain.nii.gz").read_bytes()
    assert (twin / "imagesTr/plain_0000.nii.gz").read_bytes() == untouched


@pytest.mark.parametrize("case", CONSISTENT)
def test_headers_that_mean_one_thing_are_read_as_itk_reads_them(nnunet: Path, tmp_path: Path, case: str) -> None:
    for name in "ab":
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", voxels(1), **CONSISTENT[case])
    path = tmp_path / "images" / "a.nii.gz"
    expected = sitk.ReadImage(str(path))
    assert read_image(path).GetDirection() == expected.GetDirection()
    assert read_image(path).GetOrigin() == expected.GetOrigin()
    assert read_scan(path).volume.size == 360
    assert "mean two things" not in str(convert_folder(path.parent, dataset_id=1, name="A"))
    assert (nnunet / "raw/Dataset001_A/imagesTr/a_0000.nii.gz").read_bytes() == path.read_bytes()


def test_a_sheared_sform_beside_a_sound_qform_is_refused(nnunet: Path, tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.3
    for name in "ab":
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", voxels(), sform=affine() @ shear, qform=affine())
    with pytest.raises(UserError, match=r"sheared.*resample"):
        convert_folder(tmp_path / "images", dataset_id=1, name="A")
    assert [*nnunet.glob("*/*"), *nnunet.glob("*/.*")] == []


def damaged(path: Path, offset: int, *values: float) -> Path:
    """A NIfTI with float32 fields of its header replaced."""
    data = bytearray(gzip.decompress(write_nifti(path, voxels(), sform=affine(), qform=affine()).read_bytes()))
    field = np.array(values, "<f4").tobytes()
    data[offset : offset + len(field)] = field
    path.write_bytes(gzip.compress(bytes(data)))
    return path


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        *(
            (76 + 4 * axis, value, r"\(pixdim\), so their size is unknown")
            for axis in (1, 3)
            for value in (0, np.nan, -1)
        ),
        (256, np.nan, "qform holds NaN"),
        (272, np.inf, "qform holds NaN or infinity"),
        (284, np.nan, "sform holds NaN"),
        (292, np.inf, "sform holds NaN or infinity"),
    ],
)
def test_numbers_that_say_nothing_are_refused(tmp_path: Path, offset: int, value: float, says: str) -> None:
    path = damaged(tmp_path / "a.nii.gz", offset, value)
    for reading in (read_image, read_scan):
        with pytest.raises(REFUSED, match=rf"a\.nii\.gz: its .*{says}"):
            reading(path)


def test_a_flat_sform_is_refused(tmp_path: Path) -> None:
    with pytest.raises(REFUSED, match="its sform is flat"):
        read_scan(damaged(tmp_path / "a.nii.gz", 280, *[0.0] * 12))


@pytest.mark.parametrize(
    ("scale", "unit", "says"),
    [
        (1e-3, "mm", r"\(0\.0009, 0\.0008, 0\.003\) mm, .* look like metres"),
        (1e-3, "unknown", "look like metres"),
        (1e3, "mm", "look like micrometres"),
        (1.0, "meter", "since its header says metres, .* look like mm"),
        (1.0, "micron", "since its header says micrometres, .* look like mm"),
    ],
)
def test_a_voxel_that_cannot_be_in_mm_is_refused_with_the_likely_unit(
    tmp_path: Path, scale: float, unit: str, says: str
) -> None:
    scaled = np.diag([scale, scale, scale, 1]) @ affine()
    path = write_nifti(tmp_path / "a.nii.gz", voxels(), sform=scaled, qform=scaled, unit=unit)
    for reading in (read_image, read_scan):
        with pytest.raises(REFUSED, match=rf"a\.nii\.gz: voxels of .*{says}; write the volume in mm"):
            reading(path)


@pytest.mark.parametrize(("scale", "unit"), [(1e-3, "meter"), (1e3, "micron")])
def test_another_unit_that_the_header_names_becomes_mm(nnunet: Path, tmp_path: Path, scale: float, unit: str) -> None:
    scaled = np.diag([scale, scale, scale, 1]) @ affine()
    for name in "ab":
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", voxels(), sform=scaled, qform=scaled, unit=unit)
    convert_folder(tmp_path / "images", dataset_id=1, name="A")
    written = nibabel.load(nnunet / "raw/Dataset001_A/imagesTr/a_0000.nii.gz")
    np.testing.assert_allclose(written.header.get_zooms(), SPACING, rtol=1e-5)
    np.testing.assert_allclose(written.affine, affine(), atol=1e-3)


def test_an_sform_with_voxels_of_no_head_is_not_taken(nnunet: Path, tmp_path: Path) -> None:
    """Of two sizes `convert` takes the sform's, which later commands would refuse."""
    for name in "ab":
        write_nifti(
            tmp_path / "images" / f"{name}.nii.gz", voxels(), sform=affine() @ np.diag([300, 1, 1, 1]), qform=affine()
        )
    with pytest.raises(UserError, match=r"voxels of \(.*\) mm, which no head scan has"):
        convert_folder(tmp_path / "images", dataset_id=1, name="A")
    assert [*nnunet.glob("*/*"), *nnunet.glob("*/.*")] == []


@pytest.mark.parametrize(
    ("field", "says"),
    [((254, "<i2", 8), "sform_code is 8, not 0 to 5"), ((108, "<f4", 8.0), "voxels begin at byte 8")],
)
def test_fields_that_readers_take_differently_are_refused(
    tmp_path: Path, field: tuple[int, str, float], says: str
) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", voxels(), sform=affine(), qform=affine())
    data = bytearray(gzip.decompress(path.read_bytes()))
    offset, kind, number = field
    data[offset : offset + np.dtype(kind).itemsize] = np.array(number, kind).tobytes()
    path.write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(REFUSED, match=says):
        read_image(path)


def test_voxels_that_are_no_numbers_are_not_read_as_0(tmp_path: Path) -> None:
    scan = voxels().astype(np.float32)
    scan[1, 2, 3] = np.nan
    with pytest.raises(REFUSED, match=r"a\.nii\.gz: has NaN or infinite voxels \(1\)"):
        read_image(write_nifti(tmp_path / "a.nii.gz", scan, sform=affine(), qform=affine()))
