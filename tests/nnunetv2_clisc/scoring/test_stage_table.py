"""The stage table, on results whose scores are known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.metrics import f1_score, roc_auc_score

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.stage_table import auc, slice_label_scores, stage_table
from pseudo_labeling.run.workspace import Workspace
from tests.helpers.volume_files import write_upright

SHAPE = (8, 20, 20)


@pytest.fixture(params=["LPS", "LPI"])
def labelled(nnunet: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A dataset whose raw ROI is half the mask and whose pseudo-label is the mask; and the folder of masks."""
    dataset, gt = nnunet / "nnUNet_raw" / "Dataset501_A", nnunet / "gt"
    rng = np.random.default_rng(0)
    with_header: list[dict[str, object]] = []
    for case in ("a", "b"):
        mask = np.zeros(SHAPE, dtype=np.uint8)
        mask[2:6, 5:15, 5:15] = 1
        half = mask.copy()
        half[:, :, 10:] = 0
        write_upright(dataset / "imagesTr" / f"{case}_0000.nii.gz", rng.random(SHAPE).astype(np.float32), request.param)
        for folder, array in ((gt, mask), (dataset / "clisc/roi_raw", half), (dataset / "clisc/roi_amda", half)):
            write_upright(folder / f"{case}.nii.gz", array, request.param)
        write_upright(dataset / "labelsTr" / f"{case}.nii.gz", mask, request.param)
        order = range(8) if request.param == "LPS" else range(7, -1, -1)
        probability = [0.1, 0.8, 0.9, 0.7, 0.6, 0.2, 0.1, 0.3]  # slices 2 to 5 are true
        for file_slice, z in enumerate(order):
            p = probability[z]
            with_header.append(
                {"case": case, "slice": file_slice, "label": int(p > 0.5), "probability": p, "confident": 1}
            )
    with open(dataset / "clisc" / "slice_labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(with_header[0]))
        writer.writeheader()
        writer.writerows(with_header)
    return dataset, gt


def test_slice_scores_agree_with_sklearn(labelled: tuple[Path, Path]) -> None:
    dataset, gt = labelled
    f1, area, slices = slice_label_scores(Workspace(dataset), gt, ["a", "b"])
    truth = np.tile([0, 0, 1, 1, 1, 1, 0, 0], 2)
    p = np.tile([0.1, 0.8, 0.9, 0.7, 0.6, 0.2, 0.1, 0.3], 2)
    assert slices == 16
    assert f1 == pytest.approx(f1_score(truth, p > 0.5))
    assert area == pytest.approx(roc_auc_score(truth, p))


def test_auc_counts_ties_as_half_and_is_undefined_for_one_class() -> None:
    truth = np.array([True, True, False, False])
    assert auc(np.array([0.9, 0.5, 0.5, 0.1]), truth) == pytest.approx((1 + 1 + 0.5 + 1) / 4)  # of the four pairs
    assert np.isnan(auc(np.array([0.1, 0.2]), np.array([True, True])))


def test_table_has_every_stage_with_its_dice(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    _, gt = labelled
    rows = {line[:26].strip(): line[26:].split() for line in stage_table(501, gt, [f"net={gt}"]).splitlines()}
    assert rows["raw CAM (ROI)"][:2] == ["2", "66.7"]
    assert rows["AMDA CAM (ROI)"][1] == "66.7"
    assert rows["SAM pseudo-labels"][1] == "100.0"
    assert rows["net"][1] == "100.0"
    assert "F1" in " ".join(rows["slice labels"])


def test_masks_of_other_cases_are_an_error(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no"):
        stage_table(501, tmp_path)
    write_upright(tmp_path / "odd" / "strange.nii.gz", np.zeros(SHAPE, np.uint8), "LPS")
    with pytest.raises(UserError, match=r"has no mask of a case .*here is strange and there a"):
        stage_table(501, tmp_path / "odd")
    with pytest.raises(UserError, match=r"--pred net=.*odd: has no case of --gt"):
        stage_table(501, labelled[1], [f"net={tmp_path / 'odd'}"])
    with pytest.raises(UserError, match="--pred net"):
        stage_table(501, labelled[1], ["net"])


def test_masks_of_several_classes_in_another_axis_order(labelled: tuple[Path, Path]) -> None:
    _, gt = labelled
    before = stage_table(501, gt)
    for path in gt.iterdir():
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
        array[:, :, 10:] *= 4  # half of the tumour has label 4
        classes = sitk.GetImageFromArray(array)
        classes.CopyInformation(image)
        sitk.WriteImage(sitk.DICOMOrient(classes, "SRA"), str(path))
    with pytest.raises(UserError, match=r"a\.nii\.gz: has the values 1, 4, .* --foreground any"):
        stage_table(501, gt)
    assert stage_table(501, gt, foreground="any") == before


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a,x,1,0.5,1", "line 18 is no row"),
        ("a,2", "line 18 is no row"),
        ("a,99,1,0.5,1", "has slice 99 of a, which has 8"),
    ],
)
def test_a_damaged_table_of_slices_is_named(labelled: tuple[Path, Path], line: str, named: str) -> None:
    dataset, gt = labelled
    table = dataset / "clisc" / "slice_labels.csv"
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(UserError, match=rf"slice_labels\.csv: {named}"):
        slice_label_scores(Workspace(dataset), gt, ["a"])
