"""The chain on pictures, through the installed commands: labels, 2D network with both rounds, PNG masks back."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from tests.helpers.commands import Run, files_of, last_line, program
from tests.helpers.picture_files import make_pictures

PICTURES = 12
QUICK = [
    *("-device", "cpu", "--weights", "embedded", "--preset", "c2s"),
    *("--set", "classifier.epochs=2", "--set", "classifier.image_size=64", "--set", "sam.candidates=3"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), PICTURES)


def convert(clisc: Run, source: Path, *more: object, number: int = 601) -> Path:
    given = ["--images", source / "images", "--image-labels", source / "labels.csv", "--split", source / "split.json"]
    clisc("convert", "pictures", *given, "-d", number, "-n", "Skin", *more)
    return Path(os.environ["nnUNet_raw"]) / f"Dataset{number}_Skin"


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_from_pictures_to_png_masks(nnunet: Path, clisc: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = convert(clisc, source, "--labels", source / "masks")
    clisc("pseudo_label", "-d", 601, *QUICK)
    labels = files_of(dataset / "labelsTr")
    assert len(labels) == PICTURES - 2
    with (dataset / "clisc" / "slice_labels.csv").open() as file:
        used = {row["case"]: row["label"] for row in csv.DictReader(file)}
    with (dataset / "image_labels.csv").open() as file:
        assert used == {row["case"]: row["label"] for row in csv.DictReader(file)}  # no flag was needed
    with (dataset / "clisc" / "summary.csv").open() as file:
        agreement = [float(row["agreement"]) for row in csv.DictReader(file)]
    assert len(agreement) == PICTURES - 2
    assert 0 < min(agreement) <= max(agreement) <= 1
    assert json.loads((dataset / "dataset.json").read_text())["clisc"]["image_labels"] is not None

    clisc("pseudo_label", "-d", 601, *QUICK)  # nothing to do
    assert files_of(dataset / "labelsTr") == labels
    training = clisc("baseline", "pseudo_label", "-d", 601, "--images", dataset / "imagesTr", "-o", nnunet / "again")
    assert training.returncode == 0
    assert {name: data for name, data in files_of(nnunet / "again").items() if name.endswith(".nii.gz")} == labels

    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    trainers = nnunet / "trainers"
    trainers.mkdir()
    (trainers / "quick2d.py").write_text(
        "from nnunetv2_clisc.training.trainer import CLISCTrainer_small\n"
        "from nnunetv2_clisc.training.plans import NetworkSettings\n"
        "class Quick2D(CLISCTrainer_small):\n"
        "    network_settings = NetworkSettings(features=(4, 8, 8), patch=(1, 32, 32), batch_size_2d=4)\n"
        "    min_iterations = 16\n"
        "    def suit_pictures(self):\n"
        "        super().suit_pictures()\n"
        "        self.epochs = 5\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers))
    run("nnUNetv2_plan_and_preprocess", "-d", "601", "-c", "2d", "-np", "1", "-npfp", "1")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # only now: planning needs some
    run("nnUNetv2_train", "601", "2d", "0", "-tr", "Quick2D", "-device", "cpu")
    fold = nnunet / "nnUNet_results/Dataset601_Skin/Quick2D__nnUNetPlans__2d/fold_0"
    assert json.loads((fold / "clisc_state.json").read_text())["stage"] == "done"
    assert len(list((fold / "s3f" / "sam").glob("*.nii.gz"))) == PICTURES - 4

    new = nnunet / "new"
    clisc("convert", "pictures", "--images", source / "images", "-o", new)
    predicted = ["-d", "601", "-c", "2d", "-f", "0", "-tr", "Quick2D", "-device", "cpu", "-npp", "1", "-nps", "1"]
    run("nnUNetv2_predict", *predicted, "-i", str(new), "-o", str(nnunet / "predicted"))
    clisc("masks_to_png", "--masks", nnunet / "predicted", "--images", source / "images", "-o", nnunet / "png")
    assert len(list((nnunet / "png").glob("*.png"))) == PICTURES
    for path in sorted((nnunet / "png").glob("*.png")):
        mask = np.asarray(Image.open(path))
        np.testing.assert_array_equal(mask > 0, array(nnunet / "predicted" / f"{path.stem}.nii.gz")[0] > 0)
    scored = clisc("evaluate", "--pred", nnunet / "predicted", "--gt", dataset / "labelsTs")
    assert "IoU" in scored.stdout
    clisc("report", "-d", 601, "-tr", "Quick2D", "-c", "2d", "-o", nnunet / "report.html")
    assert (nnunet / "report.html").stat().st_size > 10_000


def run(command: str, *arguments: str) -> None:
    done = subprocess.run([program(command), *arguments], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_labels_do_not_depend_on_masks_or_process(nnunet: Path, clisc: Run, source: Path, tmp_path: Path) -> None:
    first = convert(clisc, source)
    clisc("pseudo_label", "-d", 601, *QUICK)
    without = tmp_path / "without_masks"
    shutil.copytree(source, without, ignore=shutil.ignore_patterns("masks"))
    second = convert(clisc, without, number=602)
    clisc("pseudo_label", "-d", 602, *QUICK, "--stage", "slice_labels")
    clisc("pseudo_label", "-d", 602, *QUICK, "--stage", "classifier")
    for part in (1, 0):  # in another order, each in a process of its own
        clisc("pseudo_label", "-d", 602, *QUICK, "--stage", "masks", "-num_parts", 2, "-part_id", part)
    clisc("pseudo_label", "-d", 602, *QUICK, "--stage", "finish")
    assert files_of(first / "labelsTr") == files_of(second / "labelsTr")


def test_volumes_are_not_trained_in_2d(nnunet: Path, clisc: Run, source: Path) -> None:
    convert(clisc, source)
    table = source / "wrong.csv"
    table.write_text("case,label\np00,1\n")
    done = clisc("pseudo_label", "-d", 601, *QUICK, "--image-labels", table, ok=False)
    assert "slice 0 of p01 has no label" in last_line(done)
