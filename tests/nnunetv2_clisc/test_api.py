"""The Python API: its surface, that it does what the commands do, and that every line of its page runs."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc import api
from pseudo_labeling.settings import Settings
from tests.helpers.commands import files_of
from tests.helpers.paths import PROJECT

# what callers may rely on: change it only with a new version and a line in the changelog
METRICS = {
    "hd95": "pooled", "empty_policy": "nan", "foreground": None, "pred_foreground": None,
}  # fmt: skip
SURFACE = {
    "convert_folder": (
        ["images", "dataset_id", "name"],
        {"labels": None, "split": None, "fullsup_id": None, "seed": 0, "spacing": None},
    ),
    "convert_pictures": (
        ["images", "image_labels", "dataset_id", "name"],
        {"labels": None, "split": None, "fullsup_id": None, "seed": 0, "max_edge": 1024},
    ),
    "pseudo_label": (
        ["dataset"],
        {
            "weights": None,
            "clip_weights": None, "sam_weights": None, "classifier_weights": None, "dino_weights": None,
            "image_labels": None, "preset": None, "settings": None, "seed": 0, "redo": None, "device": None,
        },
    ),
    "evaluate": (["predictions", "references"], {"output": None, **METRICS}),
    "compare": (["methods", "references"], {"output": None, "seed": 0, **METRICS}),
    "report": (
        ["dataset"],
        {
            "output": None, "predictions": None, "references": None,
            "trainer": None, "plans": None, "configuration": None, "fold": None,
        },
    ),
    "segment_volume": (
        ["image", "roi"],
        {"spacing": None, "weights": "embedded", "preset": None, "settings": None, "device": None},
    ),
}  # fmt: skip
SETTINGS = {"classifier": {"epochs": 2, "image_size": 64}, "cam": {"layers": ["layer2", "layer3"]}}  # of `labelled`


def test_the_surface_is_frozen() -> None:
    assert sorted(api.__all__) == sorted([*SURFACE, "Scores", "UserError"])
    for name, (positional, keywords) in SURFACE.items():
        parameters = inspect.signature(getattr(api, name)).parameters
        assert list(parameters) == [*positional, *keywords], name
        assert [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional, name
        assert {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY} == keywords, name
        assert all(parameters[each].default is inspect.Parameter.empty for each in positional), name
    assert list(inspect.signature(api.Scores).parameters) == ["cases", "summary", "unpredicted", "unreferenced"]


def test_every_line_of_the_page_runs(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for name in SURFACE:
        assert f"api.{name}(" in "".join(blocks)
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert "Dataset501_Phantoms 3 1 1" in lines
    assert "Dataset601_Pictures 8 2 2" in lines
    assert "True" in lines
    assert any(line.startswith("-d Dataset777_Nobody: ") for line in lines)
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "comparison" / "table.md").is_file()


# ---- the same as the commands


def test_conversion_is_that_of_the_command(labelled: Path, scans: Path, nnunet: Path) -> None:
    made = api.convert_folder(str(scans / "images"), 501, "P", labels=scans / "labels", split=scans / "split.json")
    assert (made.train, made.val, made.test, made.test_masks) == (4, 1, 1, 1)
    assert made.dataset == nnunet / "nnUNet_raw" / "Dataset501_P"
    for folder in ("imagesTr", "imagesTs", "labelsTs"):
        assert files_of(made.dataset / folder) == files_of(labelled / "nnUNet_raw" / "Dataset501_P" / folder)


def test_labels_are_those_of_the_command(labelled: Path, nnunet: Path) -> None:
    """What the command has labelled is done, by number, name and folder, with a dict or an object of settings."""
    dataset = shutil.copytree(labelled / "nnUNet_raw" / "Dataset501_P", nnunet / "nnUNet_raw" / "Dataset501_P")
    entry = json.loads((dataset / "dataset.json").read_text())["clisc"]
    before = {path: path.stat().st_mtime_ns for path in sorted((dataset / "labelsTr").iterdir())}
    for name, settings in (
        (501, SETTINGS),
        ("Dataset501_P", {"classifier.epochs": 2, "classifier.image_size": 64, "cam": SETTINGS["cam"]}),
        (dataset, Settings.from_dict(entry["settings"])),
    ):
        found = api.pseudo_label(name, weights="embedded", settings=settings, device="cpu")
        assert [row["case"] for row in found.rows] == ["p00", "p01", "p02", "p03", "p04"]
        assert (found.empty_cases, found.by_hand) == ([], [])
        assert json.loads((dataset / "dataset.json").read_text())["clisc"] == entry
    assert {path: path.stat().st_mtime_ns for path in sorted((dataset / "labelsTr").iterdir())} == before
    assert found.table.read_bytes() == (labelled / "nnUNet_raw/Dataset501_P/clisc/summary.csv").read_bytes()
    settings = {"sam": {"keep_fraction": 0.5}, "prompts": {"points": "centre"}}
    api.pseudo_label(501, weights="embedded", settings={**SETTINGS, **settings}, seed=0, device="cpu")
    entry = json.loads((dataset / "dataset.json").read_text())["clisc"]
    assert (entry["settings"]["sam"]["keep_fraction"], entry["settings"]["prompts"]["points"]) == (0.5, "centre")
    assert {path: path.stat().st_mtime_ns for path in sorted((dataset / "labelsTr").iterdir())} != before


def test_scores_are_numbers(labelled: Path, scans: Path, tmp_path: Path) -> None:
    labels = labelled / "nnUNet_raw" / "Dataset501_P" / "labelsTr"
    scores = api.evaluate(labels, str(scans / "labels"), output=tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(scores.cases) == ["p00", "p01", "p02", "p03", "p04"]
    assert scores.means["dsc"] == pytest.approx(np.mean([case["dsc"] for case in scores.cases.values()]))
    assert scores.means["dsc"] == summary["methods"]["labelsTr"]["dsc"]["mean"]
    assert scores.summary["dsc"].n == 5
    assert (scores.unpredicted, scores.unreferenced) == (("p05",), ())
    (tmp_path / "two").mkdir()
    for case in ("p00", "p01"):
        shutil.copy(scans / "labels" / f"{case}.nii.gz", tmp_path / "two")
    assert api.evaluate(labels, tmp_path / "two", foreground=(1,)).unreferenced == ("p02", "p03", "p04")
    table = api.compare({"ours": labels, "true": tmp_path / "two"}, scans / "labels", foreground="any")
    assert table.cases == ["p00", "p01"]
    assert table.order("dsc") == [["true"], ["ours"]]
    assert table.compared[1].summary()["dsc"].mean == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "two"]  # numbers only, where no folder is named


def test_report_of_a_dataset_by_its_folder(labelled: Path, scans: Path, tmp_path: Path) -> None:
    dataset = labelled / "nnUNet_raw" / "Dataset501_P"
    page = api.report(dataset, references=scans / "labels", output=str(tmp_path / "r.html"))
    assert page == tmp_path / "r.html"
    assert "Dataset501_P" in page.read_text(encoding="utf-8")


# ---- one array


def stack(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0


@pytest.mark.parametrize("case", ["p00", "p03"])
def test_segment_volume_gives_the_pipelines_mask(labelled: Path, case: str) -> None:
    dataset = labelled / "nnUNet_raw" / "Dataset501_P"
    scan = sitk.ReadImage(str(dataset / "imagesTr" / f"{case}_0000.nii.gz"))
    roi, label = (stack(dataset / folder / f"{case}.nii.gz") for folder in ("clisc/roi_amda", "labelsTr"))
    assert roi.any()
    assert label.any()
    mask = api.segment_volume(scan, roi, device="cpu")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, label)
    volume = sitk.GetArrayFromImage(scan)
    np.testing.assert_array_equal(api.segment_volume(volume, roi, spacing=(6.0, 1.5, 1.5), device="cpu"), label)
    other = api.segment_volume(scan, roi, settings={"prompts": {"kind": "points"}, "sam.passes": 1}, device="cpu")
    assert (other != label).any()
    assert not other[~roi.any(axis=(1, 2))].any()


def test_segment_volume_keeps_the_orientation_of_an_image(labelled: Path) -> None:
    dataset = labelled / "nnUNet_raw" / "Dataset501_P"
    scan = sitk.ReadImage(str(dataset / "imagesTr" / "p00_0000.nii.gz"))
    roi, label = (sitk.ReadImage(str(dataset / f / "p00.nii.gz")) for f in ("clisc/roi_amda", "labelsTr"))
    turned, region, expected = (sitk.DICOMOrient(each, "ARI") for each in (scan, roi, label))
    mask = api.segment_volume(turned, sitk.GetArrayFromImage(region) > 0, device="cpu")
    np.testing.assert_array_equal(mask, sitk.GetArrayFromImage(expected) > 0)


def test_segment_volume_says_what_is_wrong() -> None:
    volume = np.random.default_rng(0).random((4, 32, 32))
    roi = np.zeros(volume.shape, bool)
    mm = (5.0, 1.0, 1.0)
    for message, image, region, spacing in (
        ("spacing: an array does not say it", volume, roi, None),
        ("spacing: a SimpleITK image has its own", sitk.GetImageFromArray(volume), roi, mm),
        ("image: 2 axes", volume[0], roi[0], mm),
        ("image: 3 axes, 2 spacings", volume, roi, mm[1:]),
        (r"roi: \(3, 32, 32\) of bool, but the image has \(4, 32, 32\)", volume, roi[1:], mm),
        ("roi: .* of uint8", volume, roi.astype(np.uint8), mm),
        ("image: voxels of", volume, roi, (5.0, 0.001, 0.001)),
        ("image: has NaN", np.where(volume > 0.9, np.nan, volume), roi, mm),
        ("image: every voxel", np.ones_like(volume), roi, mm),
        ("image: expected one 3D volume", sitk.GetImageFromArray(volume, isVector=True), roi[0, :, :], None),
    ):
        with pytest.raises(api.UserError, match=f"^{message}"):
            api.segment_volume(image, region, spacing=spacing, device="cpu")
    for message, more in (("--preset x", {"preset": "x"}), ("settings", {"settings": {"prompts": {"kind": "x"}}})):
        with pytest.raises(api.UserError, match=f"^{message}"):
            api.segment_volume(volume, roi, spacing=mm, device="cpu", **more)
    assert not api.segment_volume(volume, roi, spacing=mm, device="cpu").any()


def test_errors_are_the_commands_one_line(nnunet: Path) -> None:
    for call in (api.pseudo_label, api.report):
        with pytest.raises(api.UserError, match=r"^-d Dataset777_P: .*; run `nnUNetv2_clisc convert` first$"):
            call("Dataset777_P")
