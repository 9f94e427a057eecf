"""No training on labels or scans of before, whichever of raw, planned and preprocessed data is the older one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc.training.trainer import CLISCTrainer_small_noSelfTraining
from pseudo_labeling.run.workspace import key_of
from tests.helpers.tiny_nnunet import CASES, NAME, Quick, QuickTrainer, TinyDataset, finish

PREPROCESS = r"run nnUNetv2_plan_and_preprocess -d 611 -c 3d_fullres"


class OneRound(Quick, CLISCTrainer_small_noSelfTraining):
    """Needs no raw data."""


@pytest.fixture
def mine(planned: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyDataset:
    """The preprocessed dataset as a copy that a test may change, with the times of its files."""
    for name in ("raw", "preprocessed"):
        shutil.copytree(planned.root / name, tmp_path / name)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return TinyDataset(tmp_path)


def begin(dataset: TinyDataset, kind: type = QuickTrainer) -> str:
    """Begin a training as far as its checks; returns its log."""
    trainer = dataset.trainer(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_advance", _stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.run_training()
    return Path(trainer.log_file).read_text()


def _stop(self: object, state: object) -> None:
    raise KeyboardInterrupt


def refused(dataset: TinyDataset, message: str, kind: type = QuickTrainer) -> None:
    with pytest.raises(SystemExit, match=message):
        dataset.trainer(kind).run_training()
    (state,) = [dataset.trainer(kind).folder.path / "clisc_state.json"]
    assert not state.exists()


def other_label(dataset: TinyDataset, case: str = CASES[1]) -> Path:
    """Write another label, as a person or a run with other settings does."""
    path = dataset.raw / "labelsTr" / f"{case}.nii.gz"
    image = sitk.ReadImage(str(path))
    array = np.roll(sitk.GetArrayFromImage(image), 2, axis=2)
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path), useCompression=True)
    return path


def plan(dataset: TinyDataset) -> None:
    """What nnU-Net's planning does with `dataset.json`."""
    shutil.copy(dataset.raw / "dataset.json", dataset.preprocessed / "dataset.json")


def test_nothing_changed_is_trained_on_with_raw_data_and_without(
    mine: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "WARNING" not in begin(mine)
    monkeypatch.delenv("nnUNet_raw")
    begin(mine, OneRound)


def test_labels_made_anew_and_not_preprocessed(mine: TinyDataset) -> None:
    other_label(mine)
    finish(mine.raw)
    refused(mine, rf"error: {NAME}: labels or scans were made anew since they were preprocessed; {PREPROCESS}$")


def test_label_corrected_by_hand_goes_through_finish_first(mine: TinyDataset) -> None:
    other_label(mine)
    refused(mine, rf"labelsTr: labels changed.*pseudo_label -d 611 --stage finish .*then {PREPROCESS[4:]}$")


@pytest.mark.parametrize("kind", [QuickTrainer, OneRound])
def test_planned_but_not_preprocessed(mine: TinyDataset, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    other_label(mine)
    finish(mine.raw)
    plan(mine)
    refused(mine, rf"labels of {CASES[1]} are not those that were preprocessed; {PREPROCESS}$", kind)
    if kind is OneRound:
        monkeypatch.delenv("nnUNet_raw")
        refused(mine, rf"labels in gt_segmentations are not those.*; {PREPROCESS}$", kind)


def test_copy_that_nnunet_will_not_replace_is_named(mine: TinyDataset) -> None:
    """nnU-Net copies labels only over older ones; a label put back from a backup is older."""
    old = other_label(mine)
    os.utime(old, (0, 0))
    finish(mine.raw)
    plan(mine)
    refused(mine, rf"remove \S*gt_segmentations, .* and {PREPROCESS}$")


def test_another_configuration_was_preprocessed(mine: TinyDataset) -> None:
    """nnU-Net then renews `gt_segmentations`, but not the folder of this configuration."""
    later(other_label(mine))
    finish(mine.raw)
    plan(mine)
    shutil.copy2(mine.raw / "labelsTr" / f"{CASES[1]}.nii.gz", mine.preprocessed / "gt_segmentations")
    refused(mine, rf"{CASES[1]}: preprocessed before labels or scans were made anew; {PREPROCESS}$")


def later(path: Path) -> None:
    os.utime(path, (time.time() + 60, time.time() + 60))


def test_copied_dataset_whose_files_look_newer_is_trained_on(mine: TinyDataset) -> None:
    for path in (mine.raw).rglob("*.nii.gz"):
        later(path)
    begin(mine)


def test_replaced_scan(mine: TinyDataset) -> None:
    """Not labelled again; labelled again with the same label, but not preprocessed."""
    scans = mine.raw / "imagesTr"
    shutil.copyfile(scans / f"{CASES[2]}_0000.nii.gz", scans / f"{CASES[0]}_0000.nii.gz")
    refused(mine, rf"imagesTr: scans were added, removed or replaced.*pseudo_label -d 611 with .*{PREPROCESS[4:]}$")
    finish(mine.raw)
    refused(mine, rf"made anew since they were preprocessed; {PREPROCESS}$")
    plan(mine)
    later(scans / f"{CASES[0]}_0000.nii.gz")
    refused(mine, rf"{CASES[0]}: preprocessed before labels or scans were made anew; {PREPROCESS}$")


def test_labels_of_an_earlier_version_are_compared_file_by_file(mine: TinyDataset) -> None:
    for file in (mine.raw / "dataset.json", mine.preprocessed / "dataset.json"):
        content = json.loads(file.read_text())
        del content["clisc"]["digests"]
        file.write_text(json.dumps(content))
    assert "recorded no digests" in begin(mine)
    shutil.rmtree(Path(os.environ["nnUNet_results"]))
    other_label(mine)
    refused(mine, rf"labels of {CASES[1]} are not those that were preprocessed; {PREPROCESS}$")


def test_masks_drawn_by_hand_are_nobodys_business(mine: TinyDataset) -> None:
    for file in (mine.raw / "dataset.json", mine.preprocessed / "dataset.json"):
        content = json.loads(file.read_text())
        del content["clisc"]
        file.write_text(json.dumps(content))
    other_label(mine)
    begin(mine, OneRound)


def test_another_beta_is_taken_over_by_planning_and_said_before(mine: TinyDataset) -> None:
    content = json.loads((mine.raw / "dataset.json").read_text())
    content["clisc"]["settings"] = {"s3f": {"beta": 40.0}}
    (mine.raw / "dataset.json").write_text(json.dumps(content))
    assert "WARNING, the settings of S3F" in begin(mine)
    plan(mine)
    shutil.rmtree(Path(os.environ["nnUNet_results"]))
    assert "WARNING" not in begin(mine)


def test_finish_records_what_the_trainer_compares(labelled: Path) -> None:
    raw = labelled / "nnUNet_raw" / "Dataset501_P"

    def digest(folder: str, ending: str) -> str:
        files = sorted((raw / folder).glob(f"*{ending}"))
        return key_of({p.name[: -len(ending)]: hashlib.sha256(p.read_bytes()).hexdigest() for p in files})

    found = json.loads((raw / "dataset.json").read_text())["clisc"]["digests"]
    assert found == {"labels": digest("labelsTr", ".nii.gz"), "scans": digest("imagesTr", "_0000.nii.gz")}
