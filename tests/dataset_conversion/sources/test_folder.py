from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.sources.folder import convert_folder
from tests.helpers.volume_files import (
    FLIPPED,
    LEFT_HANDED,
    OBLIQUE,
    SPACING,
    cube,
    geometry,
    nothing_is_made,
    read,
    tree,
    voxels,
    write,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Each format of the list, each with another orientation.
SCANS = {"a.nii.gz": OBLIQUE, "b.nii": FLIPPED, "c.mha": LEFT_HANDED, "d.nrrd": OBLIQUE, "e_0000.nii.gz": IDENTITY}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for seed, (name, direction) in enumerate(SCANS.items()):
        write(tmp_path / "images" / name, voxels(seed), direction=direction)
    return tmp_path / "images"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    for name, direction in SCANS.items():
        case = name[0]
        write(tmp_path / "labels" / f"{case}.nrrd", cube(value=4), direction=direction)
    return tmp_path / "labels"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]}))
    return path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_layout_is_that_of_nnunet(nnunet: Path, images: Path, labels: Path, split: Path) -> None:
    summary = convert_folder(images, dataset_id=501, name="A", labels=labels, split=split)
    dataset = nnunet / "raw" / "Dataset501_A"
    assert names(dataset / "imagesTr") == ["a_0000.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz"]
    assert names(dataset / "imagesTs") == ["d_0000.nii.gz", "e_0000.nii.gz"]
    assert names(dataset / "labelsTr") == []
    assert names(dataset / "labelsTs") == ["d.nii.gz", "e.nii.gz"]
    description = json.loads((dataset / "dataset.json").read_text())
    expected = {
        "name": "A",
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    assert {key: description[key] for key in expected} == expected
    assert description["conversion"]["split"] == "given in split.json"
    for folder in (dataset, nnunet / "pre" / "Dataset501_A"):
        assert json.loads((folder / "splits_final.json").read_text())[0] == {"train": ["a", "b"], "val": ["c"]}
    assert (summary.train, summary.val, summary.test, summary.test_masks) == (2, 1, 2, 2)
    assert str(dataset) in str(summary)
    assert [*nnunet.glob("*/.*")] == []  # no staging folder stays


def test_voxels_and_geometry_are_kept(nnunet: Path, images: Path, labels: Path, split: Path) -> None:
    convert_folder(images, dataset_id=501, name="A", labels=labels, split=split, fullsup_id=502)
    for seed, name in enumerate(SCANS):
        part = "Ts" if name[0] in "de" else "Tr"
        twin = nnunet / "raw" / "Dataset502_A_fullsup"
        image, label = twin / f"images{part}" / f"{name[0]}_0000.nii.gz", twin / f"labels{part}" / f"{name[0]}.nii.gz"
        np.testing.assert_array_equal(read(image), voxels(seed))
        np.testing.assert_allclose(geometry(image), geometry(images / name), atol=1e-5)
        np.testing.assert_allclose(geometry(label), geometry(image), atol=1e-6)
        found = read(label)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, cube())  # label 4 became 1
    assert names(nnunet / "raw" / "Dataset501_A" / "labelsTr") == []


def test_fullsup_dataset_passes_nnunets_own_check(nnunet: Path, images: Path, labels: Path, split: Path) -> None:
    from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet_check
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    convert_folder(images, dataset_id=501, name="A", labels=labels, split=split, fullsup_id=502)
    twin = nnunet / "raw" / "Dataset502_A_fullsup"
    assert names(twin / "labelsTr") == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    for case in "abc":
        label, image = str(twin / f"labelsTr/{case}.nii.gz"), str(twin / f"imagesTr/{case}_0000.nii.gz")
        assert nnunet_check.verify_labels(label, SimpleITKIO, [0, 1])
        assert nnunet_check.check_cases([image], label, 1, SimpleITKIO)


def test_dataset_is_byte_identical_whatever_the_training_masks_are(
    nnunet: Path, images: Path, labels: Path, split: Path, tmp_path: Path
) -> None:
    """Ground truth of training cases must not leak: present, noise, broken, or absent makes no difference."""
    convert_folder(images, dataset_id=501, name="A", labels=labels, split=split)
    expected = tree(nnunet)
    for case, how in (("a", "noise"), ("b", "broken"), ("c", "absent")):
        mask = labels / f"{case}.nrrd"
        if how == "noise":
            write(mask, voxels(9) % 3, direction=OBLIQUE)
        elif how == "broken":
            mask.write_text("not a mask")
        else:
            mask.unlink()
    shutil.rmtree(nnunet)
    convert_folder(images, dataset_id=501, name="A", labels=labels, split=split)
    assert tree(nnunet) == expected
    shutil.rmtree(nnunet)
    convert_folder(images, dataset_id=501, name="A", split=split)
    assert tree(nnunet) == {name: data for name, data in expected.items() if "labelsTs" not in name}


def test_without_split_all_cases_train_or_validate(nnunet: Path, images: Path) -> None:
    summary = convert_folder(images, dataset_id=501, name="A", seed=7)
    assert (summary.train, summary.val, summary.test) == (4, 1, 0)
    dataset = nnunet / "raw" / "Dataset501_A"
    assert len(names(dataset / "imagesTr")) == 5
    assert names(dataset) == ["dataset.json", "imagesTr", "labelsTr", "splits_final.json"]
    first = json.loads((dataset / "splits_final.json").read_text())
    convert_folder(images, dataset_id=502, name="B", seed=7)
    assert json.loads((nnunet / "raw/Dataset502_B/splits_final.json").read_text()) == first
    assert "seed 7" in summary.split


def test_unused_masks_and_cases_are_mentioned(nnunet: Path, images: Path, labels: Path, tmp_path: Path) -> None:
    assert "was not used" in str(convert_folder(images, dataset_id=501, name="A", labels=labels))
    path = tmp_path / "part.json"
    path.write_text(json.dumps({"train": ["a"], "val": ["b"], "test": ["c", "d"]}))
    (labels / "d.nrrd").unlink()
    summary = convert_folder(images, dataset_id=502, name="A", labels=labels, split=path)
    assert "1 scans are not named in the split" in str(summary)
    assert "1 of 2 test cases have no mask, first d" in str(summary)
    assert names(nnunet / "raw/Dataset502_A/labelsTs") == ["c.nii.gz"]


def test_converted_scan_is_where_the_original_was(nnunet: Path, images: Path) -> None:
    """The same voxel lies at the same point in space, whatever the header convention of the format."""
    convert_folder(images, dataset_id=501, name="A")
    for name in SCANS:
        before = sitk.ReadImage(str(images / name))
        after = sitk.ReadImage(str(nnunet / f"raw/Dataset501_A/imagesTr/{name[0]}_0000.nii.gz"))
        for index in ((0, 0, 0), (8, 7, 4), (3, 0, 2)):
            np.testing.assert_allclose(
                after.TransformIndexToPhysicalPoint(index), before.TransformIndexToPhysicalPoint(index), atol=1e-3
            )


class TestBadInput:
    def fails(self, nnunet: Path, message: str, *arguments: Path, **options: object) -> None:
        with nothing_is_made(nnunet, message):
            convert_folder(*arguments, dataset_id=501, name="A", **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_scan_with_nan_or_inf(self, nnunet: Path, images: Path, value: float) -> None:
        scan = voxels().astype(np.float32)
        scan[2, 3, 4] = value
        write(images / "d.nrrd", scan)
        self.fails(nnunet, r"d\.nrrd: has NaN or infinite", images)

    def test_constant_scan(self, nnunet: Path, images: Path) -> None:
        write(images / "c.mha", np.full((5, 8, 9), 3, np.int16))
        self.fails(nnunet, r"c\.mha: every voxel has the value 3", images)

    def test_truncated_scan(self, nnunet: Path, images: Path) -> None:
        whole = (images / "a.nii.gz").read_bytes()
        (images / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
        self.fails(nnunet, r"a\.nii\.gz: the file is truncated", images)

    @pytest.mark.parametrize("array", [np.ones((8, 9), np.int16), np.ones((2, 5, 8, 9), np.int16)])
    def test_scan_not_3d(self, nnunet: Path, images: Path, array: np.ndarray) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(images / "b.nii"))
        self.fails(nnunet, r"b\.nii: expected one 3D volume", images)

    def test_bad_scan_outside_the_split_does_not_matter(self, nnunet: Path, images: Path, split: Path) -> None:
        (images / "z.nii.gz").write_text("rubbish")
        assert convert_folder(images, dataset_id=501, name="A", split=split).train == 2

    def test_two_files_of_one_case(self, nnunet: Path, images: Path) -> None:
        write(images / "a.nrrd", voxels())
        self.fails(nnunet, r"a\.nrrd: second file of case a, beside a\.nii\.gz", images)

    def test_two_files_of_one_case_by_channel_number(self, nnunet: Path, images: Path) -> None:
        write(images / "a_0000.nii.gz", voxels())
        self.fails(nnunet, "second file of case a", images)

    def test_further_channel(self, nnunet: Path, images: Path) -> None:
        write(images / "e_0001.nii.gz", voxels())
        self.fails(nnunet, r"e_0001\.nii\.gz: looks like a further channel of case e", images)

    def test_a_number_at_the_end_of_a_name_can_be_said_to_be_no_channel(self, nnunet: Path, tmp_path: Path) -> None:
        """The error names the way out, and that way works."""
        images = tmp_path / "numbered"
        for name in ("patient", "patient_0001", "other"):
            write(images / f"{name}.nii.gz", voxels())
        with pytest.raises(UserError, match=r"further channel of case patient; .*name it (\S+)$") as caught:
            convert_folder(images, dataset_id=501, name="A")
        (images / "patient_0001.nii.gz").rename(images / str(caught.value).rsplit(" ", 1)[1])
        convert_folder(images, dataset_id=501, name="A")
        assert "patient_0001_0000.nii.gz" in names(nnunet / "raw/Dataset501_A/imagesTr")

    @pytest.mark.parametrize("name", ["a..b.nii.gz", "-x.nii.gz", "a\nb.nii.gz", "a'b.nii.gz"])
    def test_odd_file_name(self, nnunet: Path, images: Path, name: str) -> None:
        shutil.copy(images / "a.nii.gz", images / name)
        with pytest.raises(UserError, match="is not allowed"):
            convert_folder(images, dataset_id=501, name="A")

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"spacing": (0.9, 0.8, 3.01)}, "spacing"),
            ({"origin": (-90.5, 126.25, -71.9)}, "origin"),
            ({"direction": FLIPPED}, "direction"),
        ],
    )
    def test_mask_of_other_geometry(
        self, nnunet: Path, images: Path, labels: Path, split: Path, change: dict[str, tuple[float, ...]], word: str
    ) -> None:
        write(labels / "d.nrrd", cube(), **change)
        self.fails(
            nnunet, rf"labels/d\.nrrd: {word} .* differs from .*images/d\.nrrd", images, labels=labels, split=split
        )

    def test_mask_of_other_shape(self, nnunet: Path, images: Path, labels: Path, split: Path) -> None:
        write(labels / "d.nrrd", cube()[:-1])
        self.fails(nnunet, r"labels/d\.nrrd: shape", images, labels=labels, split=split)

    def test_rounding_in_a_mask_header_is_no_difference(
        self, nnunet: Path, images: Path, labels: Path, split: Path
    ) -> None:
        write(labels / "d.nrrd", cube(), spacing=tuple(value + 2e-4 for value in SPACING))
        convert_folder(images, dataset_id=501, name="A", labels=labels, split=split)
        dataset = nnunet / "raw/Dataset501_A"
        assert geometry(dataset / "labelsTs/d.nii.gz") == pytest.approx(geometry(dataset / "imagesTs/d_0000.nii.gz"))

    @pytest.mark.parametrize(("value", "label"), [(0.99999994, 1), (1.0005, 1), (2.0000002, 1), (1e-8, 0), (-1e-8, 0)])
    def test_rounding_in_a_mask_is_no_other_label(
        self, nnunet: Path, images: Path, labels: Path, split: Path, value: float, label: int
    ) -> None:
        mask = cube().astype(np.float32)
        mask[0, 0, 0] = value
        write(labels / "d.nrrd", mask)
        convert_folder(images, dataset_id=501, name="A", labels=labels, split=split)
        expected = cube()
        expected[0, 0, 0] = label
        np.testing.assert_array_equal(read(nnunet / "raw/Dataset501_A/labelsTs/d.nii.gz"), expected)

    @pytest.mark.parametrize("bad", [-1.0, 0.5, 0.99, np.nan])
    def test_mask_that_is_none(self, nnunet: Path, images: Path, labels: Path, split: Path, bad: float) -> None:
        mask = cube().astype(np.float32)
        mask[0, 0, 0] = bad
        write(labels / "d.nrrd", mask)
        self.fails(nnunet, r"d\.nrrd: not a mask", images, labels=labels, split=split)

    def test_mask_that_rounding_would_empty(self, nnunet: Path, images: Path, labels: Path, split: Path) -> None:
        write(labels / "d.nrrd", cube().astype(np.float32) * np.float32(0.0009))
        self.fails(nnunet, r"d\.nrrd: not a mask \(its largest value is 0\.00089", images, labels=labels, split=split)

    def test_fullsup_without_a_training_mask(self, nnunet: Path, images: Path, labels: Path, split: Path) -> None:
        (labels / "b.nrrd").unlink()
        message = r"b\.nii: training case b has no mask"
        self.fails(nnunet, message, images, labels=labels, split=split, fullsup_id=502)
        self.fails(nnunet, "give --labels DIR", images, split=split, fullsup_id=502)

    def test_masks_that_match_no_scan(self, nnunet: Path, images: Path, tmp_path: Path) -> None:
        write(tmp_path / "other" / "q.nii.gz", cube())
        self.fails(nnunet, "no mask is named like a scan", images, labels=tmp_path / "other")

    def test_masks_in_the_folder_of_the_scans(self, nnunet: Path, images: Path) -> None:
        self.fails(nnunet, "keep the masks in another folder", images, labels=images)

    def test_folder_missing_or_empty(self, nnunet: Path, tmp_path: Path) -> None:
        self.fails(nnunet, "no such folder", tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        self.fails(nnunet, r"empty: holds no \.nii\.gz", tmp_path / "empty")

    def test_split_naming_an_unknown_case(self, nnunet: Path, images: Path, split: Path) -> None:
        split.write_text(json.dumps({"train": ["a", "b"], "val": ["nobody"]}))
        self.fails(nnunet, r"split\.json: there is no scan of case nobody", images, split=split)

    def test_id_already_taken_is_refused_and_left_alone(self, nnunet: Path, images: Path) -> None:
        convert_folder(images, dataset_id=501, name="A")
        before = tree(nnunet)
        with pytest.raises(UserError, match="-d 501: taken by"):
            convert_folder(images, dataset_id=501, name="Another")
        assert tree(nnunet) == before


@pytest.mark.skipif(
    not os.environ.get("CLISC_REAL_DATA"), reason="real scans: set CLISC_REAL_DATA to the folder that holds lgg/"
)
def test_real_lgg_scans_keep_their_geometry(nnunet: Path, tmp_path: Path) -> None:
    source = Path(os.environ["CLISC_REAL_DATA"]) / "lgg"
    chosen = {part: cases[:2] for part, cases in json.loads((source / "split.json").read_text()).items()}
    (tmp_path / "few.json").write_text(json.dumps(chosen))
    summary = convert_folder(
        source / "images",
        dataset_id=501,
        name="LGG",
        labels=source / "labels",
        split=tmp_path / "few.json",
        fullsup_id=502,
    )
    assert (summary.train, summary.val, summary.test, summary.test_masks) == (2, 2, 2, 2)
    twin = nnunet / "raw/Dataset502_LGG_fullsup"
    for case in chosen["train"] + chosen["val"]:
        image, label = twin / f"imagesTr/{case}_0000.nii.gz", twin / f"labelsTr/{case}.nii.gz"
        np.testing.assert_array_equal(read(image), read(source / f"images/{case}.nii.gz"))
        np.testing.assert_array_equal(read(label), read(source / f"labels/{case}.nii.gz") > 0)
        np.testing.assert_allclose(geometry(label), geometry(source / f"images/{case}.nii.gz"), atol=1e-6)
