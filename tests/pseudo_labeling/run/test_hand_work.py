"""What a person has changed is kept, used and told; what a run made is made again; nothing is taken for the other."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from nnunetv2_clisc.running.labelling import pseudo_label
from nnunetv2_clisc.running.options import LabellingOptions
from pseudo_labeling.run.workspace import Workspace
from tests.helpers.commands import files_of

CHANGES = ("classifier.epochs=2", "classifier.image_size=64", 'cam.layers=["layer2","layer3"]')  # as conftest.QUICK


@pytest.fixture
def dataset(labelled: Path, nnunet: Path) -> Path:
    """A copy of the labelled dataset 501, free to be changed."""
    target = nnunet / "nnUNet_raw" / "Dataset501_P"
    shutil.copytree(labelled / "nnUNet_raw" / target.name, target)
    return target


def label(*changes: str, stage: str | None = None, **more: Any) -> Any:
    """`pseudo_label` with the settings that made the dataset, and changes."""
    options = LabellingOptions(501, device="cpu", weights="embedded", changes=(*CHANGES, *changes), **more)
    return pseudo_label(options, stage=stage)


def correct(path: Path, value: int = 1) -> bytes:
    """A person draws a block into a mask and saves it; returns what is then in the file."""
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    voxels[4:7, 20:60, 20:60] = value
    corrected = sitk.GetImageFromArray(voxels)
    corrected.CopyInformation(image)
    sitk.WriteImage(corrected, str(path), useCompression=True)
    return path.read_bytes()


def test_a_corrected_mask_is_kept_used_and_told(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = files_of(dataset / "labelsTr")
    mask = dataset / "labelsTr" / "p01.nii.gz"
    drawn = correct(mask)
    assert drawn != before["p01.nii.gz"]
    with caplog.at_level(logging.WARNING):
        done = label()
    assert files_of(dataset / "labelsTr") == before | {"p01.nii.gz": drawn}
    assert f"{mask}: changed by hand, so it is kept and used; --redo p01 makes it anew" in caplog.text
    assert "changed by hand and kept (1): p01" in str(done)
    assert json.loads((dataset / "dataset.json").read_text())["clisc"]["by_hand"] == ["p01"]
    with open(dataset / "clisc" / "summary.csv", newline="") as file:
        row = {row["case"]: row for row in csv.DictReader(file)}["p01"]
    assert int(row["mask_voxels"]) == sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).sum()
    # other settings make the other cases' labels anew, and not this one
    label("prompts.margin=3")
    changed = files_of(dataset / "labelsTr")
    assert changed["p01.nii.gz"] == drawn
    assert changed["p00.nii.gz"] != before["p00.nii.gz"]
    label(redo=("p01",))
    assert files_of(dataset / "labelsTr") == before


def test_a_corrected_roi_prompts_sam(dataset: Path) -> None:
    before = files_of(dataset / "labelsTr")
    drawn = correct(dataset / "clisc" / "roi_amda" / "p00.nii.gz")
    label()
    changed = files_of(dataset / "labelsTr")
    assert (dataset / "clisc" / "roi_amda" / "p00.nii.gz").read_bytes() == drawn
    assert changed.pop("p00.nii.gz") != before.pop("p00.nii.gz")
    assert changed == before
    label(redo=())
    assert (dataset / "clisc" / "roi_amda" / "p00.nii.gz").read_bytes() != drawn


def test_the_corrected_table_of_slice_labels_is_used_and_not_rewritten(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = dataset / "clisc" / "slice_labels.csv"
    by_clip = table.read_text()
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["case"] == "p03":
            row["label"] = "0"
    corrected = "case,slice,label\n" + "".join(f"{r['case']},{r['slice']},{r['label']}\n" for r in rows)
    table.write_text(corrected)
    with caplog.at_level(logging.WARNING):
        done = label()
    assert table.read_text() == corrected
    assert "p03" in done.empty_cases  # no slice of it is labelled tumour any more
    assert f"{table}: changed by hand, so it is kept and used" in caplog.text
    other = dataset / "other.csv"
    other.write_text(corrected.replace("p03", "p04", 1))
    with pytest.raises(UserError, match="was changed by hand too; leave the flag out to use that, or add --redo"):
        label(stage="classifier", image_labels=other)
    label(stage="classifier", redo=("slice_labels.csv",))
    assert table.read_text() == by_clip


def test_a_table_of_the_user_leaves_what_clip_said(dataset: Path) -> None:
    records = dataset / "clisc" / "slice_labels"
    before = files_of(records)
    assert any(json.loads(content)["probability"][5] > 0 for content in before.values())
    given = dataset / "given.csv"
    given.write_bytes((dataset / "clisc" / "slice_labels.csv").read_bytes())
    label(stage="slice_labels", image_labels=given)
    label(stage="classifier", image_labels=given)
    assert files_of(records) == before
    probabilities = (dataset / "clisc" / "slice_labels.csv").read_bytes()
    label(stage="slice_labels")
    label(stage="classifier")  # without the flag the table is CLIP's again
    assert (dataset / "clisc" / "slice_labels.csv").read_bytes() == given.read_bytes() != probabilities


def test_a_mask_that_no_longer_fits_is_named_and_one_cut_short_is_made_again(dataset: Path) -> None:
    before = files_of(dataset / "labelsTr")
    mask = dataset / "labelsTr" / "p01.nii.gz"
    correct(mask, value=3)
    with pytest.raises(UserError, match=r"p01\.nii\.gz: .* make it anew with --redo p01"):
        label()
    sitk.WriteImage(sitk.Image(9, 9, 9, sitk.sitkUInt8), str(mask))
    with pytest.raises(UserError, match=r"p01\.nii\.gz: shape .* make it anew with --redo p01"):
        label()
    mask.write_bytes(before["p01.nii.gz"][:-30])
    label()
    assert files_of(dataset / "labelsTr") == before


def test_a_kill_between_label_and_record_is_no_hand_work(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(dataset / "labelsTr")
    finish = Workspace.finish

    def dies(self: Workspace, stage: str, *arguments: Any, **content: Any) -> Any:
        if stage == "masks":
            raise KeyboardInterrupt
        return finish(self, stage, *arguments, **content)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "finish", dies)
        with pytest.raises(KeyboardInterrupt):
            label("prompts.margin=3")
    assert files_of(dataset / "labelsTr") != before  # at least one was replaced, and its record was not
    done = label()
    assert done.by_hand == []
    assert files_of(dataset / "labelsTr") == before


def test_deleted_cams_are_made_again_when_they_are_needed(dataset: Path) -> None:
    cams, labels = files_of(dataset / "clisc" / "cam_raw"), files_of(dataset / "labelsTr")
    shutil.rmtree(dataset / "clisc" / "cam_raw")
    shutil.rmtree(dataset / "clisc" / "cam_amda")
    label()  # nothing needs them
    assert not (dataset / "clisc" / "cam_raw").exists()
    label("prompts.margin=3")  # the overlays show the last ones
    label("amda.alpha=30")  # masks what the first ones show
    assert files_of(dataset / "clisc" / "cam_raw") == cams
    shutil.rmtree(dataset / "clisc" / "cam_raw")
    label()
    assert files_of(dataset / "labelsTr") == labels


def test_the_classifiers_own_weights_are_recorded(dataset: Path) -> None:
    entry = json.loads((dataset / "dataset.json").read_text())["clisc"]
    assert entry["weights"]["classifier"] == {"spec": "none", "name": "none", "sha256": ""}


def test_unknown_name_to_redo_is_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"--redo p77: .* has no such case; name cases, or slice_labels\.csv"):
        label(redo=("p77",))


# ---- which files are the scans


def test_the_flair_channel_is_labelled_whatever_its_number(dataset: Path) -> None:
    before = files_of(dataset / "labelsTr")
    rng = np.random.default_rng(0)
    for scan in sorted((dataset / "imagesTr").iterdir()):
        scan.rename(scan.with_name(scan.name.replace("_0000", "_0001")))
        image = sitk.ReadImage(str(scan.with_name(scan.name.replace("_0000", "_0001"))))
        noise = sitk.GetImageFromArray(rng.random(image.GetSize()[::-1]).astype(np.float32))
        noise.CopyInformation(image)
        sitk.WriteImage(noise, str(scan))
    content = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "T1", "1": "T2-FLAIR"}}))
    label()
    assert files_of(dataset / "labelsTr") == before
    (dataset / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "T1", "1": "T2"}}))
    with pytest.raises(UserError, match=r"has 2 channels \(0: T1, 1: T2\) and 0 of them are called FLAIR; name"):
        label()


def test_a_link_to_nowhere_is_not_a_case_less(dataset: Path) -> None:
    scan = dataset / "imagesTr" / "p02_0000.nii.gz"
    scan.unlink()
    scan.symlink_to(dataset / "annex" / "gone.nii.gz")
    with pytest.raises(
        ValueError, match=r"p02_0000\.nii\.gz: a symbolic link to a file that is not there .*datalad get"
    ):
        label()


@pytest.mark.parametrize("stage", ["slice_labels", "masks", None])
def test_a_missing_table_of_slice_labels_is_told_at_once(stage: str | None, dataset: Path) -> None:
    with pytest.raises(ValueError, match=r"--image-labels /nowhere\.csv: no such file; give a CSV"):
        label(stage=stage, image_labels=Path("/nowhere.csv"))
