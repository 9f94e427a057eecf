"""`nnUNetv2_clisc baseline pseudo_label|cam`: the first pass on given scans with a stored classifier."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.helpers.commands import Run, files_of, last_line


@pytest.fixture
def dataset(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_raw", str(labelled / "nnUNet_raw"))
    return labelled / "nnUNet_raw" / "Dataset501_P"


def baseline(method: str, images: Path, out: Path, *more: object) -> list[object]:
    return ["baseline", method, "-d", 501, "--images", images, "-o", out, "-device", "cpu", *more]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("*.nii.gz"))}


def test_of_training_cases_it_gives_what_the_pipeline_gave(dataset: Path, clisc: Run, tmp_path: Path) -> None:
    before = files_of(dataset / "labelsTr")
    clisc(*baseline("pseudo_label", dataset / "imagesTr", tmp_path / "sam"))
    assert {k: v for k, v in files_of(tmp_path / "sam").items() if k.endswith(".nii.gz")} == before
    for which in ("raw", "amda"):
        clisc(*baseline("cam", dataset / "imagesTr", tmp_path / which, "--which", which))
        expected = arrays(dataset / "clisc" / f"roi_{which}")
        found = arrays(tmp_path / which)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    assert files_of(dataset / "labelsTr") == before


def test_the_cam_after_amda_keeps_what_the_first_classifier_found(dataset: Path) -> None:
    folders = [dataset / "clisc" / f"cam_{which}" for which in ("raw", "amda")]
    differ = False
    for path in sorted(folders[0].glob("*.npz")):
        first, last = (np.load(folder / path.name)["cam"] for folder in folders)
        assert (last >= first).all()
        differ |= bool((last > first).any())
    assert differ


def test_new_cases_get_masks_on_their_grid_and_facts_beside(dataset: Path, clisc: Run, tmp_path: Path) -> None:
    images = tmp_path / "new"
    images.mkdir()
    source = sitk.ReadImage(str(dataset / "imagesTs" / "p05_0000.nii.gz"))
    sitk.WriteImage(sitk.DICOMOrient(source, "RAI"), str(images / "p05_0000.nii.gz"))
    done = clisc(*baseline("pseudo_label", images, tmp_path / "out"))
    assert "1 masks" in done.stdout
    image, mask = (sitk.ReadImage(str(p)) for p in (images / "p05_0000.nii.gz", tmp_path / "out" / "p05.nii.gz"))
    assert (mask.GetSize(), mask.GetDirection()) == (image.GetSize(), image.GetDirection())
    facts = json.loads((tmp_path / "out" / "baseline.json").read_text())
    assert facts["classifier"]["which"] == "amda"
    assert len(facts["weights"]["sam"]["sha256"]) == 64
    assert facts["settings"] == json.loads((dataset / "dataset.json").read_text())["clisc"]["settings"]


def test_a_rerun_does_only_what_is_missing_or_changed(dataset: Path, clisc: Run, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(dataset / "imagesTr", images)
    clisc(*baseline("cam", images, out))
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    (out / "p01.nii.gz").unlink()
    (out / "p02.nii.gz").write_bytes(b"half")
    shutil.copyfile(images / "p00_0000.nii.gz", images / "p03_0000.nii.gz")
    clisc(*baseline("cam", images, out))
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert {name for name in after if after[name] != before[name]} == {f"p0{n}.nii.gz" for n in (1, 2, 3)}
    masks = arrays(out)
    np.testing.assert_array_equal(masks["p00.nii.gz"], masks["p03.nii.gz"])


def test_kind_of_prompts_can_be_chosen(dataset: Path, clisc: Run, tmp_path: Path) -> None:
    for kind in ("box", "points"):
        clisc(*baseline("pseudo_label", dataset / "imagesTs", tmp_path / kind, "--prompts", kind))
        facts = json.loads((tmp_path / kind / "baseline.json").read_text())
        assert facts["settings"]["prompts"]["kind"] == kind
    assert files_of(tmp_path / "box")["p05.nii.gz"] != files_of(tmp_path / "points")["p05.nii.gz"]


@pytest.mark.parametrize("mistake", ["not labelled", "in place", "masks there", "other baseline", "no AMDA", "damaged"])
def test_mistakes_end_in_one_line(
    mistake: str, dataset: Path, clisc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    copy = raw / dataset.name
    shutil.copytree(dataset, copy)
    monkeypatch.setenv("nnUNet_raw", str(raw))
    out, more, named = tmp_path / "out", [], "-o"
    entry = json.loads((copy / "dataset.json").read_text())
    if mistake == "not labelled":
        del entry["clisc"]
        named = "pseudo_label"
    if mistake == "in place":
        out = copy / "imagesTs"
    if mistake == "masks there":
        out = copy / "labelsTr"
    if mistake == "other baseline":
        clisc(*baseline("cam", copy / "imagesTs", out, "--which", "raw"))
    if mistake == "no AMDA":
        entry["clisc"]["settings"]["amda"]["alpha"] = 0
        named = "--which raw"
    if mistake == "damaged":
        (copy / "clisc" / "classifier" / "amda.pt").write_bytes(b"x")
        named = "amda.pt"
    (copy / "dataset.json").write_text(json.dumps(entry))
    before = {p: p.stat().st_mtime_ns for p in (copy / "labelsTr").iterdir()}
    assert named in last_line(clisc(*baseline("cam", copy / "imagesTs", out, *more), ok=False))
    assert {p: p.stat().st_mtime_ns for p in (copy / "labelsTr").iterdir()} == before
    assert os.environ["nnUNet_raw"] == str(raw)
