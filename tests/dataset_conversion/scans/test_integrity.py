"""What a file is, is judged by what is in it: a name that lies makes no difference, in no command."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import read_image
from dataset_conversion.sources.folder import convert_folder
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from pseudo_labeling.slices import fits_beside_another, read_scan
from tests.helpers.volume_files import cube, geometry, read, voxels, write

REFUSED = UserError
KINDS = {"plain": ".nii", "packed": ".nii.gz", "meta": ".mha", "nrrd": ".nrrd"}
NAMES = (".nii.gz", ".nii", ".mha", ".nrrd", ".NII.GZ")


def named(folder: Path, kind: str, name: str, array: np.ndarray) -> Path:
    """A file of one kind with the name of another."""
    folder.mkdir(parents=True, exist_ok=True)
    right = write(folder / f"right{KINDS[kind]}", array)
    path = folder / f"a{name}"
    right.rename(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_scan_is_read_whatever_its_name_says(tmp_path: Path, kind: str, name: str) -> None:
    path = named(tmp_path, kind, name, voxels())
    right = write(tmp_path / "right.nrrd", voxels())
    np.testing.assert_array_equal(read_scan(path).volume, read_scan(right).volume)
    np.testing.assert_allclose(read_image(path).GetOrigin(), geometry(right)[3:6], atol=1e-4)
    assert fits_beside_another(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES[:3])
def test_convert_writes_what_pseudo_label_and_nnunet_read(nnunet: Path, tmp_path: Path, kind: str, name: str) -> None:
    path = named(tmp_path / "images", kind, name, voxels())
    write(tmp_path / "images" / "b.nii.gz", voxels(1))
    convert_folder(tmp_path / "images", dataset_id=1, name="A")
    written = nnunet / "raw/Dataset001_A/imagesTr/a_0000.nii.gz"
    gzip.decompress(written.read_bytes())
    np.testing.assert_array_equal(read(written), voxels())
    np.testing.assert_array_equal(read_scan(written).volume, read_scan(path).volume)
    if kind == "packed":
        assert written.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_measured_whatever_their_names_say(tmp_path: Path, kind: str) -> None:
    for folder, name in (("pred", ".nii"), ("gt", ".nii.gz")):
        named(tmp_path / folder, kind, name, cube())
    assert evaluate_folders(tmp_path / "pred", tmp_path / "gt").cases["a"]["dsc"] == 1


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_cut_file_is_refused_whatever_its_name_says(tmp_path: Path, name: str, keep: float) -> None:
    for kind in KINDS:
        path = named(tmp_path, kind, name, voxels(shape=(9, 20, 20)))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * keep)])
        for reading in (read_image, read_scan):
            with pytest.raises(REFUSED, match="^" + str(path)):
                reading(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("/annex/objects/MD5E-s1--d41d8cd98f00b204e9800998ecf8427e.nii.gz\n", "git annex get a.nii.gz"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("", "is empty"),
        ("no image at all", "cannot be read as an image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.nii.gz").write_text(content)
    with pytest.raises(UserError, match=says):
        read_scan(tmp_path / "a.nii.gz")


class TestLinks:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        for seed, case in enumerate("abc"):
            write(tmp_path / "images" / f"{case}.nii.gz", voxels(seed))
        return tmp_path / "images"

    def test_a_link_to_nothing_is_no_missing_case(self, nnunet: Path, images: Path) -> None:
        (images / "d.nii.gz").symlink_to("../.git/annex/objects/Xx/0w/MD5E-s1--0.nii.gz")
        with pytest.raises(UserError, match=r"d\.nii\.gz: a symbolic link .*`datalad get d\.nii\.gz`.*git annex"):
            convert_folder(images, dataset_id=1, name="A")
        assert not nnunet.exists()

    def test_a_link_to_nothing_among_the_masks_is_named(self, images: Path, tmp_path: Path) -> None:
        for folder in ("pred", "gt"):
            write(tmp_path / folder / "a.nii.gz", cube())
        (tmp_path / "gt" / "b.nii.gz").symlink_to("nowhere.nii.gz")
        with pytest.raises(ValueError, match=r"gt/b\.nii\.gz: a symbolic link"):
            evaluate_folders(tmp_path / "pred", tmp_path / "gt")

    def test_a_link_to_a_scan_is_the_scan(self, nnunet: Path, images: Path, tmp_path: Path) -> None:
        (tmp_path / "links").mkdir()
        for case in "abc":
            shutil.move(images / f"{case}.nii.gz", images / f"object-{case}")  # as git-annex keeps them
            (tmp_path / "links" / f"{case}.nii.gz").symlink_to(images / f"object-{case}")
        convert_folder(tmp_path / "links", dataset_id=1, name="A")
        written = nnunet / "raw/Dataset001_A/imagesTr/a_0000.nii.gz"
        assert not written.is_symlink()
        np.testing.assert_array_equal(read(written), voxels(0))
