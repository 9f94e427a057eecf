"""Which cases validate in which fold; patients with several scans stay in one part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.raw import splits
from dataset_conversion.raw.splits import Split, draw_split, read_split
from dataset_conversion.sources.folder import convert_folder
from tests.helpers.tiny_nnunet import CASES, NAME, TinyDataset
from tests.helpers.volume_files import unmade_nnunet_folders, voxels, write


def folds_of(cases: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> list[dict]:
    """The folds that `convert` writes for scans of these names; also those where nnU-Net trains from."""
    nnunet = unmade_nnunet_folders(tmp_path, monkeypatch)
    for case in cases:
        write(tmp_path / "images" / f"{case}.nii.gz", voxels(shape=(2, 3, 4)))
    convert_folder(tmp_path / "images", dataset_id=1, name="A", **options)
    written = [json.loads((nnunet / part / "Dataset001_A/splits_final.json").read_text()) for part in ("raw", "pre")]
    assert written[0] == written[1]
    return written[0]


def check_folds(folds: list[dict[str, list[str]]], trainval: list[str]) -> None:
    """What nnU-Net's merging of a cross-validation asks of folds."""
    validated = [case for fold in folds for case in fold["val"]]
    assert sorted(validated) == sorted(trainval)  # each exactly once
    for fold in folds:
        assert fold["train"]
        assert not {splits.patient_of(case) for case in fold["train"]} & {
            splits.patient_of(case) for case in fold["val"]
        }
        assert set(fold["train"]) | set(fold["val"]) == set(trainval)


def test_five_folds_of_which_the_first_is_the_data_sets_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [f"c{number:02d}" for number in range(14)]
    split = {"train": cases[:9], "val": cases[9:12], "test": cases[12:]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    folds = folds_of(cases, tmp_path, monkeypatch, split=tmp_path / "split.json")
    assert len(folds) == 5
    assert folds[0] == {"train": cases[:9], "val": cases[9:12]}
    check_folds(folds, cases[:12])
    assert sorted(len(fold["val"]) for fold in folds[1:]) == [2, 2, 2, 3]


def test_folds_repeat_with_the_seed_and_change_with_it() -> None:
    split = Split(tuple(f"c{number:02d}" for number in range(20)), ("v",), (), "test")
    assert splits.cross_validation(split, seed=3) == splits.cross_validation(split, seed=3)
    assert splits.cross_validation(split, seed=3) != splits.cross_validation(split, seed=4)
    assert splits.cross_validation(split, seed=3)[0] == splits.cross_validation(split, seed=4)[0]


@pytest.mark.parametrize(("n_train", "n_folds"), [(1, 2), (2, 3), (3, 4), (4, 5), (5, 5)])
def test_few_cases_make_few_folds(n_train: int, n_folds: int) -> None:
    split = Split(tuple(f"c{number}" for number in range(n_train)), ("v",), ("t",), "test")
    folds = splits.cross_validation(split)
    assert len(folds) == n_folds
    check_folds(folds, list(split.trainval))


TIME_POINTS = [f"BraTS-GLI-{patient:05d}-{time:03d}" for patient in range(12) for time in range(1 + patient % 3)]
SESSIONS = [f"sub-{patient:02d}_ses-{time}_run-1" for patient in range(9) for time in range(1 + patient % 4)]


@pytest.mark.parametrize("cases", [TIME_POINTS, SESSIONS])
@pytest.mark.parametrize("seed", range(3))
def test_a_patients_scans_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: list[str], seed: int
) -> None:
    folds = folds_of(cases, tmp_path, monkeypatch, seed=seed)
    assert len(folds) == 5
    check_folds(folds, cases)
    split = draw_split(cases, seed=seed, val=0.2, test=0.3)
    parts = [{case.rsplit("-", 1)[0].split("_")[0] for case in part} for part in (split.train, split.val, split.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))
    assert "of the patients" in split.origin


def test_a_split_file_that_parts_a_patient_is_followed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmade_nnunet_folders(tmp_path, monkeypatch)
    cases = [f"sub-1_ses-{number}" for number in range(2)] + ["sub-2_ses-1"]
    for case in cases:
        write(tmp_path / "images" / f"{case}.nii.gz", voxels())
    (tmp_path / "split.json").write_text(json.dumps({"train": [cases[0], cases[2]], "val": [cases[1]]}))
    summary = convert_folder(tmp_path / "images", dataset_id=1, name="A", split=tmp_path / "split.json")
    assert "1 patients have scans in several parts of the split, first sub-1" in str(summary)


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00012-001", "BraTS-GLI-00012"),
        ("sub-01_ses-2_run-1", "sub-01"),
        ("sub-01", "sub-01"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("TCGA_CS_4941_19960909", "TCGA_CS_4941_19960909"),
        ("patient_0001", "patient_0001"),
    ],
)
def test_whose_scan_a_case_is(case: str, patient: str) -> None:
    assert splits.patient_of(case) == patient


def test_nnunet_finds_the_best_configuration_over_the_folds(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's own merging of five validated folds, with predictions where its trainer leaves them."""
    from nnunetv2.evaluation.find_best_configuration import find_best_configuration

    with monkeypatch.context() as patch:
        (tmp_path / "split.json").write_text(json.dumps({"train": CASES[:5], "val": CASES[5:]}))
        folds = folds_of(CASES, tmp_path, patch, split=tmp_path / "split.json")
    model = tmp_path / "results" / NAME / "CLISCTrainer__nnUNetPlans__3d_fullres"
    for number, fold in enumerate(folds):
        (model / f"fold_{number}" / "validation").mkdir(parents=True)
        for case in fold["val"]:
            mask = sitk.ReadImage(str(tiny.raw / "labelsTr" / f"{case}.nii.gz"))
            predicted = sitk.BinaryErode(mask, [1, 1, 0])
            sitk.WriteImage(predicted, str(model / f"fold_{number}" / "validation" / f"{case}.nii.gz"))
    for name, source in (("dataset", tiny.raw), ("plans", tiny.preprocessed)):
        file = source / ("dataset.json" if name == "dataset" else "nnUNetPlans.json")
        (model / f"{name}.json").write_text(file.read_text())
    trained = ({"plans": "nnUNetPlans", "configuration": "3d_fullres", "trainer": "CLISCTrainer"},)
    found = find_best_configuration(611, trained, allow_ensembling=False, num_processes=1, folds=(0, 1, 2, 3, 4))
    assert 0.5 < found["best_model_or_ensemble"]["result_on_crossval_pre_pp"] < 1
    merged = model / "crossval_results_folds_0_1_2_3_4"
    assert sorted(path.name for path in merged.glob("case_*.nii.gz")) == [f"{case}.nii.gz" for case in CASES]
    assert np.isfinite(found["best_model_or_ensemble"]["result_on_crossval_post_pp"])


class TestSplit:
    def test_draw_is_a_partition_and_repeats(self) -> None:
        names = [f"c{i}" for i in range(50)]
        split = draw_split(names, seed=3, val=0.1, test=0.2)
        assert [len(part) for part in (split.train, split.val, split.test)] == [35, 5, 10]
        assert sorted(split.trainval + split.test) == sorted(names)
        assert split == draw_split(reversed(names), seed=3, val=0.1, test=0.2)
        assert split.test != draw_split(names, seed=4, val=0.1, test=0.2).test

    @pytest.mark.parametrize(("n", "val"), [(2, 1), (3, 1), (10, 2)])
    def test_draw_always_leaves_validation(self, n: int, val: int) -> None:
        split = draw_split(map(str, range(n)), seed=0)
        assert (len(split.train), len(split.val), split.test) == (n - val, val, ())

    def test_one_case_is_too_few(self) -> None:
        with pytest.raises(UserError, match="too few"):
            draw_split(["a"], seed=0)

    def test_missing_lists_are_empty_and_validation_is_drawn(self, tmp_path: Path) -> None:
        path = tmp_path / "split.json"
        path.write_text(json.dumps({"train": list("abcde"), "test": ["f"]}))
        split = read_split(path, "abcdef", seed=1)
        assert sorted(split.trainval) == list("abcde")
        assert len(split.val) == 1
        assert split.test == ("f",)
        assert "validation" in split.origin

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"train": ["a"', "not a JSON file"),
            ("\xff", "not a JSON file"),
            ('["a"]', "expected"),
            ('{"train": "a"}', "expected"),
            ('{"train": [1]}', "expected"),
            ('{"train": ["a"], "valid": ["b"]}', "expected"),
            ('{"train": ["a", "x", "y"]}', r"no scan of case x \(and 1 more\)"),
            ('{"train": ["a", "a"]}', "twice in train"),
            ('{"train": ["a"], "val": ["b"], "test": ["a"]}', "in both train and test"),
            ('{"train": ["../a"]}', "not allowed"),
            ('{"val": ["a"]}', "no training case"),
            ("{}", "no training case"),
            ('{"train": ["a"]}', "too few"),
        ],
    )
    def test_bad_file_raises_and_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "split.json"
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(UserError, match=message) as caught:
            read_split(path, "abc")
        assert message == "too few" or "split.json" in str(caught.value)

    def test_missing_file_raises(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"split\.json: cannot be read"):
            read_split(tmp_path / "split.json", "abc")
