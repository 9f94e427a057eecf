"""`nnUNetv2_clisc sam_prompted` on files, against `SamPredictor`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from segment_anything import SamPredictor

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.studies.baselines.sam_prompted import sam_prompted
from pseudo_labeling.prompts import bounding_box, centre_and_corners
from pseudo_labeling.slices import read_scan, window_volume
from pseudo_labeling.weights import models
from tests.helpers.commands import Run, files_of, last_line


def test_masks_are_sams_answers_in_the_scans_geometry(scans: Path, clisc: Run, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for case in ("p00", "p01"):
        shutil.copy(scans / "labels" / f"{case}.nii.gz", few)
    out = tmp_path / "out"
    done = clisc(
        "sam_prompted", "--images", scans / "images", "--prompts-from", few, "-o", out, "--weights", "embedded",
        "--margin", 10, "-device", "cpu",
    )  # fmt: skip
    assert "2 masks" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["p00.nii.gz", "p01.nii.gz", "sam_prompted.json"]
    facts = json.loads((out / "sam_prompted.json").read_text())
    assert facts["prompts"]["margin"] == 10
    assert len(facts["sam"]["sha256"]) == 64

    found, truth = (sitk.ReadImage(str(folder / "p00.nii.gz")) for folder in (out, scans / "labels"))
    assert found.GetSpacing() == truth.GetSpacing()
    scan = read_scan(scans / "images" / "p00.nii.gz")
    slices, mask = window_volume(scan.volume), scan.stack_from_image(truth)
    called = scan.stack_from_image(found)
    assert not called[~mask.any((1, 2))].any()
    z = int(mask.sum((1, 2)).argmax())
    predictor = SamPredictor(models.load_sam("embedded", "cpu").model)
    predictor.set_image(np.repeat(slices[z][..., None], 3, 2))
    box = bounding_box(mask[z], 7)  # 10 mm at pixels of 1.5 mm
    points, labels = centre_and_corners(box)
    expected = predictor.predict(points, labels, box, multimask_output=False)[0][0]
    np.testing.assert_array_equal(called[z], expected)


def test_a_blank_image_is_a_real_control(scans: Path, tmp_path: Path) -> None:
    dsc = {}
    for blank in (False, True):
        out = tmp_path / str(blank)
        sam_prompted(
            scans / "images", scans / "labels", out, sam_weights="embedded", blank_image=blank, device="cpu"
        )  # fmt: skip
        dsc[blank] = evaluate_folders(out, scans / "labels").summary()["dsc"].mean
    assert dsc[False] > dsc[True] + 0.2


@pytest.mark.parametrize(
    ("change", "named"),
    [("stranger", "zz.nii.gz"), ("other grid", "p00.nii.gz"), ("in place", "-o"), ("no folder", "nowhere")],
)
def test_mistakes_end_in_one_line(scans: Path, clisc: Run, tmp_path: Path, change: str, named: str) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    shutil.copy(scans / "labels" / "p00.nii.gz", masks / ("zz.nii.gz" if change == "stranger" else "p00.nii.gz"))
    if change == "other grid":
        mask = sitk.ReadImage(str(masks / "p00.nii.gz"))
        mask.SetSpacing((1.0, 1.0, 1.0))
        sitk.WriteImage(mask, str(masks / "p00.nii.gz"))
    if change == "in place":
        out = masks
    if change == "no folder":
        masks = tmp_path / "nowhere"
    done = clisc(
        "sam_prompted", "--images", scans / "images", "--prompts-from", masks, "-o", out, "--weights", "embedded",
        ok=False,
    )  # fmt: skip
    assert named in last_line(done)


def test_broken_cases_do_not_stop_the_others_and_the_folder_says_so(scans: Path, tmp_path: Path) -> None:
    images, masks, out = tmp_path / "images", tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    shutil.copytree(scans / "images", images)
    for case in ("p00", "p01", "p02"):
        shutil.copy(scans / "labels" / f"{case}.nii.gz", masks)
    whole = (images / "p00.nii.gz").read_bytes()
    (images / "p00.nii.gz").write_bytes(whole[: len(whole) // 2])
    turned = sitk.DICOMOrient(sitk.ReadImage(str(masks / "p01.nii.gz")), "SRA")  # the same voxels
    sitk.WriteImage(sitk.Cast(turned, sitk.sitkFloat32) * 255, str(masks / "p01.nii.gz"))
    grid = sitk.ReadImage(str(masks / "p02.nii.gz"))
    grid.SetOrigin((9.0, 0.0, 0.0))
    sitk.WriteImage(grid, str(masks / "p02.nii.gz"))

    def run() -> list[Path]:
        return sam_prompted(images, masks, out, sam_weights="embedded", device="cpu")

    with pytest.raises(UserError, match=r"2 of 3 cases failed \(p00, p02\), the others are done; .*p00\.nii") as no:
        run()
    assert "\n" not in str(no.value)
    assert {path.name for path in out.iterdir()} == {"p01.nii.gz", "sam_prompted.json"}
    assert json.loads((out / "sam_prompted.json").read_text())["complete"] is False
    first = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "p01.nii.gz")))

    (images / "p00.nii.gz").write_bytes(whole)
    for case in ("p01", "p02"):
        shutil.copy(scans / "labels" / f"{case}.nii.gz", masks)
    assert len(run()) == 3
    facts = json.loads((out / "sam_prompted.json").read_text())
    assert (facts["complete"], facts["cases"]) == (True, 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / "p01.nii.gz"))), first)


def test_masks_of_somebody_else_are_not_overwritten(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans / "labels", tmp_path / "mine")
    with pytest.raises(UserError, match=r"-o .*mine/p00\.nii\.gz: not made by this command; name another folder"):
        sam_prompted(scans / "images", scans / "labels", tmp_path / "mine", sam_weights="embedded", device="cpu")
    assert files_of(tmp_path / "mine") == files_of(scans / "labels")


def test_negative_margin_is_refused(clisc: Run, tmp_path: Path) -> None:
    done = clisc(
        "sam_prompted", "--images", tmp_path, "--prompts-from", tmp_path, "-o", tmp_path / "o", "--margin=-3", ok=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "--margin" in done.stderr
