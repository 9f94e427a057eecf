"""BIDS trees as OpenNeuro and others distribute them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.sources.bids import convert_bids
from tests.helpers.commands import Run
from tests.helpers.volume_files import cube, nothing_is_made, read, voxels, write

CASES = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-03_ses-1_run-1", "sub-03_ses-1_run-2"]


def place(root: Path, case: str, what: str = "anat") -> Path:
    parts = case.split("_")
    session = [part for part in parts[1:] if part.startswith("ses-")]
    return root.joinpath(parts[0], *session, what)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data set with sessions, runs, other contrasts, sidecars and derivatives."""
    root = tmp_path / "bids"
    for seed, case in enumerate(CASES):
        write(place(root, case) / f"{case}_FLAIR.nii.gz", voxels(seed))
        (place(root, case) / f"{case}_FLAIR.json").write_text("{}")
        write(place(root, case) / f"{case}_T1w.nii.gz", voxels(50 + seed))
        masks = root / "derivatives" / "manual_masks"
        write(place(masks, case) / f"{case}_desc-tumor_mask.nii.gz", cube(value=2))
        write(place(masks, case) / f"{case}_desc-brain_mask.nii.gz", np.ones_like(cube()))
        write(place(masks, case) / f"{case}_FLAIR.nii.gz", voxels(80 + seed))
    (root / "dataset_description.json").write_text("{}")
    return root


@pytest.fixture
def split(tmp_path: Path) -> Path:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": CASES[:2], "val": CASES[2:3], "test": CASES[3:]}))
    return path


def test_every_flair_scan_with_its_mask(nnunet: Path, source: Path, split: Path, clisc: Run) -> None:
    masks = source / "derivatives"
    clisc(
        *("convert", "bids", "--source", source, "--labels", masks, "--split", split),
        *("-d", 1, "-n", "B", "--fullsup-d", 2),
    )
    twin = nnunet / "raw/Dataset002_B_fullsup"
    for seed, case in enumerate(CASES):
        part = "Ts" if seed > 2 else "Tr"
        np.testing.assert_array_equal(read(twin / f"images{part}/{case}_0000.nii.gz"), voxels(seed))
        np.testing.assert_array_equal(read(twin / f"labels{part}/{case}.nii.gz"), cube())
    assert list((nnunet / "raw/Dataset001_B/labelsTr").iterdir()) == []


def test_without_masks_and_split(nnunet: Path, source: Path) -> None:
    summary = convert_bids(source, dataset_id=1, name="B")
    assert (summary.train + summary.val, summary.test) == (5, 0)
    folds = json.loads((nnunet / "raw/Dataset001_B/splits_final.json").read_text())
    for fold in folds:
        assert not {case[:6] for case in fold["train"]} & {case[:6] for case in fold["val"]}


@pytest.mark.parametrize(
    "mask",
    [
        "derivatives/sub-9/ses-1/sub-9_ses-1_msk.nii.gz",  # as ISLES 2022
        "sub-9/ses-1/anat/sub-9_ses-1_FLAIR_roi.nii.gz",  # beside the scan
        "derivatives/x/sub-9/ses-1/anat/sub-9_ses-1_space-orig_label-L_desc-T1lesion_mask.nii",  # as ATLAS
        "derivatives/x/sub-9_ses-1_label-lesion_dseg.nii.gz",
    ],
)
def test_where_masks_are_kept(nnunet: Path, tmp_path: Path, mask: str) -> None:
    for subject in ("9", "8"):
        write(tmp_path / f"b/sub-{subject}/ses-1/anat/sub-{subject}_ses-1_FLAIR.nii.gz", voxels())
    write(tmp_path / "b" / mask, cube())
    (tmp_path / "s.json").write_text(json.dumps({"train": ["sub-8_ses-1"], "val": [], "test": ["sub-9_ses-1"]}))
    write(tmp_path / "b/sub-7/anat/sub-7_FLAIR.nii.gz", voxels())
    (tmp_path / "s.json").write_text(json.dumps({"train": ["sub-8_ses-1"], "val": ["sub-7"], "test": ["sub-9_ses-1"]}))
    labels = tmp_path / "b"
    assert convert_bids(labels, labels=labels, split=tmp_path / "s.json", dataset_id=1, name="B").test_masks == 1
    np.testing.assert_array_equal(read(nnunet / "raw/Dataset001_B/labelsTs/sub-9_ses-1.nii.gz"), cube())


class TestBadInput:
    def fails(self, nnunet: Path, message: str, source: Path, **options: object) -> None:
        with nothing_is_made(nnunet, message):
            convert_bids(source, dataset_id=1, name="B", **options)  # type: ignore[arg-type]

    def test_two_masks_of_a_scan_are_not_chosen_between(self, nnunet: Path, source: Path) -> None:
        folder = place(source / "derivatives" / "other", CASES[0])
        write(folder / f"{CASES[0]}_label-lesion_mask.nii.gz", cube())
        self.fails(nnunet, f"second mask of {CASES[0]}, beside", source, labels=source / "derivatives")

    def test_masks_of_another_session_are_not_taken(self, nnunet: Path, source: Path, tmp_path: Path) -> None:
        write(tmp_path / "m" / "sub-01_ses-3_mask.nii.gz", cube())
        self.fails(nnunet, "no mask is named like a scan", source, labels=tmp_path / "m")

    def test_a_scan_not_fetched_is_named(self, nnunet: Path, source: Path) -> None:
        scan = place(source, CASES[0]) / f"{CASES[0]}_FLAIR.nii.gz"
        scan.unlink()
        scan.symlink_to("../../../.git/annex/objects/x")
        self.fails(nnunet, r"sub-01_ses-1_FLAIR\.nii\.gz: a symbolic link .*datalad get", source)

    def test_both_compressed_and_plain(self, nnunet: Path, source: Path) -> None:
        write(place(source, CASES[0]) / f"{CASES[0]}_FLAIR.nii", voxels())
        self.fails(nnunet, f"second file of case {CASES[0]}", source)

    def test_no_such_data(self, nnunet: Path, source: Path, tmp_path: Path) -> None:
        self.fails(nnunet, "no such folder", tmp_path / "nowhere")
        self.fails(nnunet, "give the top folder of a BIDS data set", source / "derivatives")
        self.fails(nnunet, "no such folder", source, labels=tmp_path / "nowhere")
        self.fails(nnunet, "give --labels DIR", source, fullsup_id=2)
