"""Reading volumes, and what they are called."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import check_case_name, list_volumes, read_image, read_unified
from tests.helpers.volume_files import voxels, write


class TestVolumes:
    @pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "nrrd"])
    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
    def test_truncated_file_raises(self, tmp_path: Path, ending: str, compressed: bool, keep: float) -> None:
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(voxels(shape=(9, 20, 20))), str(path), useCompression=compressed)
        read_image(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(UserError, match=rf"a\.{ending}: ") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)

    def test_flipped_bit_in_compressed_scan_raises(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii.gz", voxels(shape=(9, 20, 20)))
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or damaged"):
            read_image(path)

    def test_one_slice_is_no_scan_to_convert(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.nii.gz", voxels(shape=(1, 8, 9)))
        assert read_image(path).GetSize() == (9, 8, 1)
        with pytest.raises(UserError, match=r"only one voxel thick .*`convert pictures`"):
            read_unified(path)

    @pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "nrrd"])
    def test_text_is_not_an_image(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"a.{ending}"
        path.write_text("no image\n" * 100)
        with pytest.raises(UserError, match=rf"a\.{ending}: "):
            read_image(path)

    @pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
    @pytest.mark.parametrize(
        ("array", "vector"),
        [
            (np.ones((2, 3, 4, 5), np.float32), False),  # 4D
            (np.ones((3, 4, 5, 2), np.float32), True),  # several values a voxel
            (np.ones((4, 5), np.float32), False),  # 2D
            (np.ones((3, 4, 5), np.complex64), False),
        ],
    )
    def test_other_than_3d_scalar_raises(self, tmp_path: Path, ending: str, array: np.ndarray, vector: bool) -> None:
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
        with pytest.raises(UserError, match="3D volume"):
            read_image(path)

    def test_name_that_lies_about_compression_is_read(self, tmp_path: Path) -> None:
        packed = write(tmp_path / "a.nii.gz", voxels())
        plain = tmp_path / "b.nii.gz"
        plain.write_bytes(gzip.decompress(packed.read_bytes()))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(plain)), voxels())

    @pytest.mark.parametrize(
        "name", ["..", ".a", "a/b", "../a", "a..b", "a\\b", "a\nb", "", " a", "a ", "-a", "a" * 201]
    )
    def test_odd_case_name_raises(self, name: str) -> None:
        with pytest.raises(UserError, match="not allowed"):
            check_case_name(name, Path("split.json"))

    @pytest.mark.parametrize("name", ["Müller", "患者1", "пациент"])
    def test_letters_of_another_script_are_told_which_ones_are_allowed(self, name: str) -> None:
        with pytest.raises(UserError, match=r"not allowed; rename it with .* letters a-z and A-Z"):
            check_case_name(name, Path("split.json"))

    @pytest.mark.parametrize("name", ["TCGA_CS_4941_19960909", "sub-01_ses-2", "case 1 (b)", "1.2.3"])
    def test_usual_case_name_passes(self, name: str) -> None:
        check_case_name(name, Path("split.json"))

    def test_listing_ignores_other_files(self, tmp_path: Path) -> None:
        write(tmp_path / "b_0000.nii.gz", voxels())
        write(tmp_path / "a.b.NRRD".replace("NRRD", "nrrd"), voxels())
        for name in (".hidden.nii.gz", "notes.txt", "dataset.json"):
            (tmp_path / name).touch()
        (tmp_path / "folder.nii").mkdir()
        assert list(list_volumes(tmp_path)) == ["a.b", "b"]
        assert list(list_volumes(tmp_path, strip_channel=False)) == ["a.b", "b_0000"]
