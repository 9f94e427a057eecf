"""SaLIP with the embedded weights: candidates, retrieval, masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.rivals.salip import Salip, SalipSettings, crop
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import HEAD_LEVEL
from pseudo_labeling.slices import read_scan, window_volume
from pseudo_labeling.weights import models
from tests.helpers.commands import Run

SMALL = SalipSettings(points_per_side=8)


@pytest.fixture(scope="module")
def salip() -> Salip:
    labelling = Settings().merged(PRESETS["embedded"]).slice_labels
    return Salip(models.load_sam("embedded").model, models.load_clip("embedded"), SMALL, labelling, one_mask=True)


def test_candidates_are_boxes_inside_the_slice_and_not_the_head(salip: Salip, scans: Path) -> None:
    slices, mask = phantom(scans)
    z = int(mask.sum((1, 2)).argmax())
    boxes = salip.candidates(slices[z])
    assert boxes
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 <= x1 < slices.shape[2]
        assert 0 <= y0 <= y1 < slices.shape[1]
    assert len(boxes) <= int((slices[z] > HEAD_LEVEL).sum())


def test_an_empty_slice_has_no_candidate(salip: Salip) -> None:
    assert salip.candidates(np.zeros((96, 96), dtype=np.uint8)) == []
    assert salip.retrieve(np.zeros((96, 96), dtype=np.uint8)) is None


def test_crop_includes_both_edges_and_stays_inside() -> None:
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    np.testing.assert_array_equal(crop(image, (2, 3, 4, 5), 0), image[3:6, 2:5])
    assert crop(image, (0, 0, 9, 9), 5).shape == (10, 10)


def test_case_through_the_command(scans: Path, clisc: Run, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(scans / "images" / "p00.nii.gz", images / "p00_0000.nii.gz")
    arguments = [
        "baseline", "salip", "--images", images, "-o", tmp_path / "out", "--weights", "embedded", "-device", "cpu",
        "--points-per-side", 8,
    ]  # fmt: skip
    clisc(*arguments)
    out = tmp_path / "out"
    found, scan = (sitk.ReadImage(str(p)) for p in (out / "p00.nii.gz", images / "p00_0000.nii.gz"))
    assert found.GetSize() == scan.GetSize()
    assert evaluate_folders(out, scans / "labels", cases=["p00"]).values("dsc")[0] > 0.1
    facts = json.loads((out / "baseline.json").read_text())
    assert facts["salip"]["points_per_side"] == 8
    assert facts["slice_labels"]["one_run"] is True
    assert {len(record["sha256"]) for record in facts["weights"].values()} == {64}
    before = (out / "p00.nii.gz").stat().st_mtime_ns
    clisc(*arguments)
    assert (out / "p00.nii.gz").stat().st_mtime_ns == before


def phantom(scans: Path) -> tuple[np.ndarray, np.ndarray]:
    scan = read_scan(scans / "images" / "p00.nii.gz")
    truth = sitk.ReadImage(str(scans / "labels" / "p00.nii.gz"))
    return window_volume(scan.volume), scan.stack_from_image(truth)
