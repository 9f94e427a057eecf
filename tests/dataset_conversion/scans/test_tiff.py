"""3D TIFF in `convert folder`, and what is said of scans that are not read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from dataset_conversion.errors import UserError
from dataset_conversion.sources.folder import convert_folder
from tests.helpers.volume_files import cube, geometry, nothing_is_made, read, voxels, write

KINDS = {
    "plain": {},
    "deflate": {"compression": "zlib"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
}


def stacks(folder: Path, dtype: type = np.uint16, ending: str = ".tif", **options: object) -> Path:
    folder.mkdir()
    for seed, case in enumerate("ab"):
        array = (voxels(seed) % 251).astype(dtype)
        tifffile.imwrite(folder / f"{case}{ending}", array, photometric="minisblack", **options)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("ending", [".tif", ".TIFF"])
def test_pages_are_slices_with_the_spacing_given(
    nnunet: Path, tmp_path: Path, kind: str, dtype: type, ending: str
) -> None:
    images = stacks(tmp_path / "images", dtype, ending, **KINDS[kind])
    convert_folder(images, dataset_id=1, name="A", spacing=(5.0, 0.8, 0.9))
    written = nnunet / "raw/Dataset001_A/imagesTr/b_0000.nii.gz"
    np.testing.assert_array_equal(read(written), voxels(1) % 251)
    np.testing.assert_allclose(geometry(written)[:3], (0.9, 0.8, 5.0), rtol=1e-6)


def test_spacing_and_masks_from_beside_the_stacks(nnunet: Path, tmp_path: Path) -> None:
    """nnU-Net's own convention for TIFF: `a.json` beside `a_0000.tif`."""
    images = stacks(tmp_path / "images", ending="_0000.tif")
    (tmp_path / "labels").mkdir()
    for case in "ab":
        for folder in (images, tmp_path / "labels"):
            (folder / f"{case}.json").write_text(json.dumps({"spacing": [5.0, 0.8, 0.9]}))
        tifffile.imwrite(tmp_path / "labels" / f"{case}.tif", cube(value=255), photometric="minisblack")
    convert_folder(images, labels=tmp_path / "labels", dataset_id=1, name="A", fullsup_id=2)
    label = nnunet / "raw/Dataset002_A_fullsup/labelsTr/a.nii.gz"
    np.testing.assert_array_equal(read(label), cube())
    np.testing.assert_allclose(geometry(label)[:3], (0.9, 0.8, 5.0), rtol=1e-6)


class TestBadInput:
    def fails(self, nnunet: Path, message: str, images: Path, **options: object) -> None:
        with nothing_is_made(nnunet, message):
            convert_folder(images, dataset_id=1, name="A", **options)  # type: ignore[arg-type]

    def test_spacing_is_not_guessed(self, nnunet: Path, tmp_path: Path) -> None:
        images = stacks(tmp_path / "images", imagej=True, resolution=(1.1, 1.1), metadata={"axes": "ZYX", "spacing": 3})
        self.fails(nnunet, r"[ab]\.tif: TIFF does not say .* --spacing Z Y X", images)

    @pytest.mark.parametrize("content", ["{}", '{"spacing": [1, 2]}', '{"spacing": "thick"}', "no JSON"])
    def test_spacing_beside_that_is_none(self, nnunet: Path, tmp_path: Path, content: str) -> None:
        images = stacks(tmp_path / "images")
        for case in "ab":
            (images / f"{case}.json").write_text(content)
        self.fails(nnunet, r"[ab]\.json: not .*spacing", images)

    def test_spacing_that_cannot_be_or_is_not_asked_for(self, nnunet: Path, tmp_path: Path) -> None:
        self.fails(nnunet, "look like metres", stacks(tmp_path / "images"), spacing=(0.005, 0.0009, 0.0009))
        write(tmp_path / "others" / "a.nii.gz", voxels())
        self.fails(nnunet, "--spacing: .* holds no TIFF", tmp_path / "others", spacing=(1, 1, 1))

    @pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.8, 0.99])
    @pytest.mark.parametrize("kind", ["plain", "deflate"])
    def test_cut_stack(self, nnunet: Path, tmp_path: Path, keep: float, kind: str) -> None:
        images = stacks(tmp_path / "images", **KINDS[kind])
        whole = (images / "b.tif").read_bytes()
        (images / "b.tif").write_bytes(whole[: int(len(whole) * keep)])
        self.fails(nnunet, r"b\.tif: ", images, spacing=(1, 1, 1))

    @pytest.mark.parametrize(
        ("array", "options", "says"),
        [
            (np.zeros((8, 9), np.uint8), {}, r"has 1 page\(s\)"),
            (np.zeros((5, 8, 9, 3), np.uint8), {"photometric": "rgb"}, "pixel mode RGB"),
            (np.zeros((5, 2, 8, 9), np.uint8), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "channels=2"),
        ],
    )
    def test_what_is_no_volume(
        self, nnunet: Path, tmp_path: Path, array: np.ndarray, options: dict[str, object], says: str
    ) -> None:
        images = stacks(tmp_path / "images")
        tifffile.imwrite(images / "b.tif", array, **options)
        self.fails(nnunet, rf"b\.tif: .*{says}", images, spacing=(1, 1, 1))


class TestOtherFormats:
    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("IM0001.dcm", r"DICOM.*`dcm2niix -z y -o NIFTI_FOLDER "),
            ("patient/IM0001", r"DICOM.*dcm2niix"),
            ("1.2.840.113619.2.5", r"DICOM.*dcm2niix"),
            ("scan.PAR", r"Philips PAR/REC.*dcm2niix"),
            ("scan.hdr", r"Analyze.*`nib-convert scan\.hdr .*left and right"),
            ("scan.mgz", r"FreeSurfer.*nib-convert"),
            ("scan+orig.BRIK", r"AFNI.*3dAFNItoNIFTI"),
            ("scan.mhd", r"MetaImage in two files.*\.mha"),
        ],
    )
    def test_a_folder_of_them_is_told_which_program_converts_them(
        self, nnunet: Path, tmp_path: Path, name: str, says: str
    ) -> None:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(128) + b"DICM" + bytes(100))
        with pytest.raises(UserError, match=rf"{path.name.split('+')[0]}.*: is {says}"):
            convert_folder(tmp_path / "images", dataset_id=1, name="A")

    def test_one_beside_scans_that_are_read_is_mentioned(self, nnunet: Path, tmp_path: Path) -> None:
        for name in ("a.nii.gz", "b.nii.gz"):
            write(tmp_path / "images" / name, voxels())
        assert "left out" not in str(convert_folder(tmp_path / "images", dataset_id=1, name="A"))
        (tmp_path / "images" / "c.img").write_bytes(b"x")
        summary = str(convert_folder(tmp_path / "images", dataset_id=2, name="A"))
        assert "note: c.img was left out: it is Analyze" in summary

    def test_the_command_named_for_a_pair_of_files_works(self, nnunet: Path, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        for case in "ab":
            nibabel.save(nibabel.Nifti1Pair(voxels().T, np.eye(4)), tmp_path / "images" / f"{case}.hdr")
        with pytest.raises(UserError, match="nib-convert") as caught:
            convert_folder(tmp_path / "images", dataset_id=1, name="A")
        command = str(caught.value).split("`")[1].split()
        assert command[:2] == ["nib-convert", "a.hdr"]
        for case in "ab":
            program = str(Path(sys.executable).parent / command[0])
            subprocess.run([program, f"{case}.hdr", f"{case}.nii.gz"], cwd=tmp_path / "images", check=True)
        convert_folder(tmp_path / "images", dataset_id=1, name="A")
        np.testing.assert_array_equal(read(nnunet / "raw/Dataset001_A/imagesTr/a_0000.nii.gz"), voxels())
