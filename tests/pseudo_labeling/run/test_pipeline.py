"""The labelling pipeline through the installed command: outputs, resuming after kills, independence of masks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.helpers.commands import Run, convert, files_of, kill_when, label_arguments, program


def test_every_training_case_gets_a_label_on_its_grid(reference: Path) -> None:
    images = sorted((reference / "imagesTr").iterdir())
    assert len(images) == 5
    for path in images:
        image = sitk.ReadImage(str(path))
        label = sitk.ReadImage(str(reference / "labelsTr" / path.name.replace("_0000", "")))
        assert label.GetSize() == image.GetSize()
        np.testing.assert_allclose(label.GetSpacing(), image.GetSpacing())
        np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin())
        assert set(np.unique(sitk.GetArrayFromImage(label))) <= {0, 1}


def test_slices_labelled_normal_stay_empty(reference: Path) -> None:
    with open(reference / "clisc" / "slice_labels.csv") as file:
        rows = list(csv.DictReader(file))
    masks = {
        path.name[:-7]: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (reference / "labelsTr").iterdir()
    }
    assert {row["case"] for row in rows} == set(masks)
    assert 0 < sum(row["label"] == "1" for row in rows) < len(rows)
    for row in rows:
        if row["label"] == "0":
            assert not masks[row["case"]][int(row["slice"])].any()


def test_settings_weights_and_versions_stand_beside_the_labels(reference: Path) -> None:
    entry = json.loads((reference / "dataset.json").read_text())["clisc"]
    assert entry["settings"]["classifier"]["epochs"] == 2
    assert entry["settings"]["s3f"]["beta"] == 20
    assert len(entry["weights"]["sam"]["sha256"]) == 64
    assert entry["versions"]["torch"]
    assert entry["seed"] == 0


def test_run_ends_with_a_table_and_overlays(reference: Path) -> None:
    out = (reference.parents[1] / "stdout").read_text()
    for path in (reference / "labelsTr").iterdir():
        assert path.name[:-7] in out
    assert (reference / "clisc" / "summary.csv").is_file()
    assert len(list((reference / "clisc" / "overlays").glob("*.png"))) >= 1


def test_second_run_changes_nothing_and_loads_no_network(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(reference.parent))
    before = {path: path.stat().st_mtime_ns for path in (reference / "labelsTr").iterdir()}
    done = subprocess.run(
        [program("nnUNetv2_clisc"), *map(str, label_arguments())], capture_output=True, text=True, check=True
    )
    assert {path: path.stat().st_mtime_ns for path in (reference / "labelsTr").iterdir()} == before
    assert "epoch" not in done.stderr


@pytest.mark.parametrize("where", ["slice_labels", "classifier", "sam"])
def test_killed_run_ends_with_the_same_labels(
    where: str, reference: Path, scans: Path, nnunet: Path, clisc: Run
) -> None:
    dataset = convert(clisc, scans)
    work = dataset / "clisc"
    reached = {
        "slice_labels": lambda: len(list((work / "slice_labels").glob("p*.json"))) >= 2,
        "classifier": lambda: (work / "classifier" / "raw_partial.pt").exists(),
        "sam": lambda: len(list((work / "masks").glob("p*.json"))) >= 1,
    }[where]
    kill_when(label_arguments(), reached)
    assert "clisc" not in json.loads((dataset / "dataset.json").read_text())
    finished = {path: path.stat().st_mtime_ns for path in work.glob("*/*.json")}
    clisc(*label_arguments())
    assert files_of(dataset / "labelsTr") == files_of(reference / "labelsTr")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # nothing finished was done again
    assert not [path for path in dataset.rglob(".*") if path.is_file() and path.parent == dataset / "labelsTr"]


@pytest.mark.parametrize("masks", ["present", "noise"])
def test_masks_never_reach_the_labels(masks: str, reference: Path, scans: Path, nnunet: Path, clisc: Run) -> None:
    folder = nnunet / "scans"
    shutil.copytree(scans, folder)
    if masks == "noise":
        rng = np.random.default_rng(0)
        for path in (folder / "labels").iterdir():
            image = sitk.ReadImage(str(path))
            noise = sitk.GetImageFromArray(rng.integers(0, 2, image.GetSize()[::-1]).astype(np.uint8))
            noise.CopyInformation(image)
            sitk.WriteImage(noise, str(path), useCompression=True)
    dataset = convert(clisc, folder, "--labels", folder / "labels", "--fullsup-d", 502)
    assert any((dataset.parent / "Dataset502_P_fullsup" / "labelsTr").iterdir())
    assert not any((dataset / "labelsTr").iterdir())
    clisc(*label_arguments())
    assert files_of(dataset / "labelsTr") == files_of(reference / "labelsTr")
    assert (dataset / "clisc" / "slice_labels.csv").read_bytes() == (
        reference / "clisc" / "slice_labels.csv"
    ).read_bytes()


def test_changed_margin_redoes_only_sam(reference: Path, nnunet: Path, clisc: Run) -> None:
    dataset = nnunet / "nnUNet_raw" / reference.name
    shutil.copytree(reference, dataset)
    trained = (dataset / "clisc" / "classifier" / "amda.pt").stat().st_mtime_ns
    clisc(*label_arguments(more=["--set", "prompts.margin=3"]))
    assert (dataset / "clisc" / "classifier" / "amda.pt").stat().st_mtime_ns == trained
    assert files_of(dataset / "labelsTr") != files_of(reference / "labelsTr")
    assert json.loads((dataset / "dataset.json").read_text())["clisc"]["settings"]["prompts"]["margin"] == 3


def test_replaced_scan_is_labelled_again(reference: Path, nnunet: Path, clisc: Run) -> None:
    dataset = nnunet / "nnUNet_raw" / reference.name
    shutil.copytree(reference, dataset)
    shutil.copyfile(dataset / "imagesTr" / "p01_0000.nii.gz", dataset / "imagesTr" / "p00_0000.nii.gz")
    clisc(*label_arguments())
    labels = files_of(dataset / "labelsTr")
    assert labels["p00.nii.gz"] == labels["p01.nii.gz"]


def write_slice_labels(path: Path, scans: Path, tumour_cases: set[str]) -> Path:
    rows = ["case,slice,label"]
    for number in range(5):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(scans / "labels" / f"p{number:02d}.nii.gz")))
        for z, each in enumerate(mask):
            rows.append(f"p{number:02d},{z},{int(each.any() and f'p{number:02d}' in tumour_cases)}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_users_slice_labels_replace_clip(scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    table = write_slice_labels(nnunet / "labels.csv", scans, {"p00", "p01", "p02", "p03"})
    out = clisc(*label_arguments(more=["--image-labels", table])).stdout
    with open(dataset / "clisc" / "slice_labels.csv") as file:
        used = [(row["case"], row["slice"], row["label"]) for row in csv.DictReader(file)]
    with open(table) as file:
        given = [(row["case"], row["slice"], row["label"]) for row in csv.DictReader(file)]
    assert used == given
    # a case whose slices are all normal: an empty label, and it is listed
    assert "empty pseudo-labels (1): p04" in out
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(dataset / "labelsTr" / "p04.nii.gz"))).any()


def test_no_tumour_slice_at_all_is_an_error_that_names_the_prompts(scans: Path, nnunet: Path, clisc: Run) -> None:
    dataset = convert(clisc, scans)
    same = ["--set", "slice_labels.tumour_prompt=a normal brain", "--set", "slice_labels.normal_prompt=a normal brain"]
    error = clisc(*label_arguments(more=same), ok=False).stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "every slice is labelled normal" in error
    assert "'a normal brain'" in error
    assert not any((dataset / "labelsTr").iterdir())
    table = write_slice_labels(nnunet / "labels.csv", scans, set())
    error = clisc(*label_arguments(more=["--image-labels", table]), ok=False).stderr.strip().splitlines()[-1]
    assert "labels.csv" in error


def test_labels_of_a_user_are_never_overwritten(scans: Path, nnunet: Path, clisc: Run) -> None:
    convert(clisc, scans, "--labels", scans / "labels", "--fullsup-d", 502)
    dataset = nnunet / "nnUNet_raw" / "Dataset502_P_fullsup"
    before = files_of(dataset / "labelsTr")
    error = clisc("pseudo_label", "-d", 502, "--weights", "embedded", "-device", "cpu", ok=False).stderr
    assert "labelsTr holds labels that pseudo_label did not write" in error
    assert "Traceback" not in error
    assert files_of(dataset / "labelsTr") == before


def test_broken_scan_is_named_and_others_keep_their_results(reference: Path, nnunet: Path, clisc: Run) -> None:
    dataset = nnunet / "nnUNet_raw" / reference.name
    shutil.copytree(reference, dataset)
    bad = dataset / "imagesTr" / "p02_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:300])
    result = clisc(*label_arguments(), ok=False)
    assert result.returncode == 2
    assert str(bad) in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert files_of(dataset / "labelsTr") == files_of(reference / "labelsTr")
