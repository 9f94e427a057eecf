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
import torch
from PIL import Image

from dataset_conversion.errors import UserError
from dataset_conversion.sources.pictures import convert_new_pictures, convert_pictures, masks_to_png
from nnunetv2_clisc.running.labelling import pseudo_label
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.studies.baselines.cam_and_sam import pseudo_label_baseline
from nnunetv2_clisc.training.plans import NetworkSettings
from nnunetv2_clisc.training.trainer import CLISCTrainer_small
from tests.helpers.commands import Run, files_of, program
from tests.helpers.paths import PROJECT
from tests.helpers.picture_files import make_pictures
from tests.helpers.tiny_nnunet import plan

PICTURES = 12
CHANGES = ("classifier.epochs=2", "classifier.image_size=64", "sam.candidates=3")
QUICK = ("-device", "cpu", "--weights", "embedded", "--preset", "c2s", *(t for c in CHANGES for t in ("--set", c)))


class Quick2D(CLISCTrainer_small):
    """Both rounds in 2D in seconds."""

    network_settings = NetworkSettings(features=(4, 8, 8), patch_2d=(32, 32), batch_size_2d=4)
    min_iterations = 16

    def suit_pictures(self) -> None:
        super().suit_pictures()
        self.epochs, self.learning_rate = 6, 0.2


def options(*changes: str) -> LabellingOptions:
    return LabellingOptions(601, device="cpu", weights="embedded", preset="c2s", changes=(*CHANGES, *changes))


def run(command: str, *arguments: object) -> str:
    done = subprocess.run(
        [program(command), *map(str, arguments)], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def use(root: Path, patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's folders below `root`, made where they are not there."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir(exist_ok=True)
        patch.setenv(name, str(root / name))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), PICTURES)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Dataset 601 of the pictures, labelled by the installed commands; no flag says where the labels are."""
    root = tmp_path_factory.mktemp("labelled_pictures")
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        given = [
            "--images",
            source / "images",
            "--image-labels",
            source / "labels.csv",
            "--split",
            source / "split.json",
        ]
        run("nnUNetv2_clisc", "convert", "pictures", *given, "--labels", source / "masks", "-d", 601, "-n", "Skin")
        run("nnUNetv2_clisc", "pseudo_label", "-d", 601, *QUICK)
    return root


@pytest.fixture
def converted(nnunet: Path, source: Path) -> Path:
    """The raw folder of dataset 601, without any mask."""
    convert_pictures(source / "images", source / "labels.csv", dataset_id=601, name="Skin", split=source / "split.json")
    return nnunet / "nnUNet_raw" / "Dataset601_Skin"


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_every_picture_gets_a_label_and_a_number_that_says_how_sure_it_is(labelled: Path) -> None:
    dataset = labelled / "nnUNet_raw" / "Dataset601_Skin"
    assert len(files_of(dataset / "labelsTr")) == PICTURES - 2
    with (dataset / "clisc" / "slice_labels.csv").open() as file:
        used = {row["case"]: row["label"] for row in csv.DictReader(file)}
    with (dataset / "image_labels.csv").open() as file:
        assert used == {row["case"]: row["label"] for row in csv.DictReader(file)}
    with (dataset / "clisc" / "summary.csv").open() as file:
        agreement = [float(row["agreement"]) for row in csv.DictReader(file)]
    assert len(agreement) == PICTURES - 2
    assert 0 < min(agreement) <= max(agreement) <= 1
    assert json.loads((dataset / "dataset.json").read_text())["clisc"]["image_labels"] is not None


def test_both_rounds_in_2d(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clisc: Run) -> None:
    use(labelled, monkeypatch)
    dataset = labelled / "nnUNet_raw" / "Dataset601_Skin"
    labels = files_of(dataset / "labelsTr")
    pseudo_label_baseline(601, dataset / "imagesTr", tmp_path / "again", device="cpu")
    assert {name: data for name, data in files_of(tmp_path / "again").items() if name.endswith(".nii.gz")} == labels
    plan(601, ["2d"])
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # only now: planning needs some
    prepared = labelled / "nnUNet_preprocessed" / "Dataset601_Skin"
    plans, content = (json.loads((prepared / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    np.random.seed(0)  # of nnU-Net's augmentation
    trainer = Quick2D(plans, "2d", 0, content, torch.device("cpu"))
    trainer.run_training()
    fold = trainer.folder.path
    assert json.loads((fold / "clisc_state.json").read_text())["stage"] == "done"
    assert len(list((fold / "s3f" / "sam").glob("*.nii.gz"))) == PICTURES - 4
    assert files_of(dataset / "labelsTr") == labels
    clisc("report", "-d", 601, "-tr", "Quick2D", "-c", "2d", "-o", tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow  # a process for each command, which starts others
def test_from_labels_to_png_masks(
    labelled: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(labelled, monkeypatch)
    dataset = labelled / "nnUNet_raw" / "Dataset601_Skin"
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "quick2d.py").write_text("from tests.pseudo_labeling.run.test_pictures import Quick2D\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    run("nnUNetv2_plan_and_preprocess", "-d", 601, "-c", "2d", "-np", 1, "-npfp", 1)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    run("nnUNetv2_train", 601, "2d", 0, "-tr", "Quick2D", "-device", "cpu")
    convert_new_pictures(source / "images", tmp_path / "new")
    predict = ["-d", 601, "-c", "2d", "-f", 0, "-tr", "Quick2D", "-device", "cpu", "-npp", 1, "-nps", 1]
    run("nnUNetv2_predict", *predict, "-i", tmp_path / "new", "-o", tmp_path / "predicted")
    masks = masks_to_png(tmp_path / "predicted", source / "images", tmp_path / "png")
    assert len(masks) == PICTURES
    for path in masks:
        predicted = array(tmp_path / "predicted" / f"{path.stem}.nii.gz")[0] > 0
        np.testing.assert_array_equal(np.asarray(Image.open(path)) > 0, predicted)
    assert 0 <= evaluate_folders(tmp_path / "predicted", dataset / "labelsTs").summary()["iou"].mean <= 1


def test_labels_do_not_depend_on_masks_or_processes(labelled: Path, converted: Path, clisc: Run) -> None:
    pseudo_label(options(), stage="slice_labels")
    pseudo_label(options(), stage="classifier")
    for part in (1, 0):  # in another order, each in a process of its own
        clisc("pseudo_label", "-d", 601, *QUICK, "--stage", "masks", "-num_parts", 2, "-part_id", part)
    pseudo_label(options(), stage="finish")
    assert files_of(converted / "labelsTr") == files_of(labelled / "nnUNet_raw" / "Dataset601_Skin" / "labelsTr")


def test_another_colour_in_one_channel_is_another_picture(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(labelled / "nnUNet_raw", copy / "nnUNet_raw")
    use(copy, monkeypatch)
    dataset = copy / "nnUNet_raw" / "Dataset601_Skin"
    blue = dataset / "imagesTr" / "p03_0002.nii.gz"
    image = sitk.ReadImage(str(blue))
    sitk.WriteImage(sitk.Cast(255 - image, sitk.sitkUInt8), str(blue))
    with pytest.raises(UserError, match="slice labels of 1 of 10 cases are missing, changed"):
        pseudo_label(options(), stage="finish")


def test_table_of_ones_own_is_checked(converted: Path, tmp_path: Path) -> None:
    table = tmp_path / "wrong.csv"
    table.write_text("case,label\np00,1\n")
    given = LabellingOptions(601, device="cpu", weights="embedded", preset="c2s", image_labels=table)
    pseudo_label(given, stage="slice_labels")
    with pytest.raises(UserError, match="slice 0 of p01 has no label"):
        pseudo_label(given, stage="classifier")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('cam.layers=["layer9"]', "has 0 layers named 'layer9'"),
        ('cam.layers=["fc"]', "which has no places"),
        ("classifier.backbone=resnet5000", "neither torchvision nor timm has a model 'resnet5000'"),
    ],
)
def test_what_cannot_be_mapped_is_said_before_training(converted: Path, change: str, words: str) -> None:
    pseudo_label(options(), stage="slice_labels")
    with pytest.raises(UserError, match=words):
        pseudo_label(options(change), stage="classifier")
    assert not list((converted / "clisc").glob("classifier/*"))
