"""`convert aisd`: a folder a patient, the published test cases, CT's window, a mirrored channel where asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.scans.mirror import CHANNEL
from dataset_conversion.sources.aisd import TEST_CASES, convert_aisd
from dataset_conversion.sources.folder import convert_folder
from nnunetv2_clisc.training.sam_adapter_trainer import SamAdapterTrainer_small
from tests.helpers.commands import Run
from tests.helpers.volume_files import nothing_is_made, read

PUBLISHED = ["0021092", "0539025"]  # two of the 52
OTHERS = [f"00914{number}" for number in range(20, 29)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eleven patients, lopsided heads in Hounsfield units, each with a mask."""
    for number, case in enumerate([*PUBLISHED, *OTHERS]):
        folder = tmp_path / "download" / "AISD_nifti" / case
        folder.mkdir(parents=True)
        rng = np.random.default_rng(number)
        z, y, x = np.indices((6, 40, 48))
        head = ((y - 20) / 16) ** 2 + ((x - 24) / 18) ** 2 < 1
        lesion = ((y - 18) / 4) ** 2 + ((x - 14) / 4) ** 2 + ((z - 3) / 2) ** 2 < 1
        scan = np.where(head, 35.0, -1000.0) - 10 * lesion + rng.normal(0, 1, head.shape)
        for name, array in (("CT", scan.astype(np.int16)), ("GT_hard", (lesion & head).astype(np.uint8))):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((2.0, 2.0, 5.0))
            sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return tmp_path / "download"


def test_the_published_cases_are_for_testing(nnunet: Path, source: Path) -> None:
    names = json.loads(TEST_CASES.read_text())
    assert len(set(names)) == 52
    assert set(PUBLISHED) <= set(names)
    found = convert_aisd(source, dataset_id=1, fullsup_id=2)
    assert (found.train, found.val, found.test, found.test_masks) == (8, 1, 2, 2)
    assert found.notes[0].startswith("50 of the 52 published test cases are not in the folder")
    main, twin = nnunet / "raw/Dataset001_AISD", nnunet / "raw/Dataset002_AISD_fullsup"
    assert sorted(path.name for path in (main / "imagesTs").iterdir()) == [f"{case}_0000.nii.gz" for case in PUBLISHED]
    assert not any((main / "labelsTr").iterdir())
    assert len(list((twin / "labelsTr").iterdir())) == len(OTHERS)
    content = json.loads((main / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "infarct": 1}
    split = json.loads((main / "splits_final.json").read_text())[0]
    again = convert_aisd(source, dataset_id=3, seed=0)
    assert json.loads((again.dataset / "splits_final.json").read_text())[0] == split


def test_both_channels_are_windowed_as_ct_and_the_mirror_is_that_of_a_folder(
    nnunet: Path, source: Path, clisc: Run, tmp_path: Path
) -> None:
    clisc("convert", "aisd", "--source", source, "-d", 1, "--fullsup-d", 2, "--mirrored")
    main = nnunet / "raw/Dataset001_AISD"
    content = json.loads((main / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT", "1": "CT"}
    SamAdapterTrainer_small.check_channels(SamAdapterTrainer_small, content)  # type: ignore[arg-type]
    scans = tmp_path / "scans"
    scans.mkdir()
    case = OTHERS[0]
    for name in OTHERS[:2]:
        (scans / f"{name}.nii.gz").symlink_to(source / "AISD_nifti" / name / "CT.nii.gz")
    folder = convert_folder(scans, dataset_id=3, name="Folder", mirrored=True).dataset
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "FLAIR", "1": CHANNEL}
    for number in (0, 1):
        file = f"imagesTr/{case}_{number:04d}.nii.gz"
        np.testing.assert_array_equal(read(main / file), read(folder / file))
    assert list((main / "mirrored").glob("*.png"))


def test_a_scan_that_was_not_converted_is_named(nnunet: Path, source: Path) -> None:
    (source / "AISD_nifti" / OTHERS[3] / "CT.nii.gz").unlink()
    with nothing_is_made(nnunet, rf"{OTHERS[3]}/CT\.nii\.gz: not there; make it of the patient's DICOM files"):
        convert_aisd(source, dataset_id=1)


def test_masks_with_kinds_of_infarct_are_refused(nnunet: Path, source: Path) -> None:
    file = source / "AISD_nifti" / PUBLISHED[0] / "GT_hard.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file)) * 5, str(file))
    with nothing_is_made(nnunet, "has the label 5; AISD's PNG masks number kinds of infarct"):
        convert_aisd(source, dataset_id=1)


def test_two_masks_are_refused(nnunet: Path, source: Path) -> None:
    folder = source / "AISD_nifti" / OTHERS[2]
    (folder / "GT_soft.nii.gz").write_bytes((folder / "GT_hard.nii.gz").read_bytes())
    with nothing_is_made(nnunet, r"GT_soft\.nii\.gz: second mask beside GT_hard\.nii\.gz"):
        convert_aisd(source, dataset_id=1)
