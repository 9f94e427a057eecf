"""Two rounds with S3F between them: what is on disk, and what a variant changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_clisc.training.fold import FoldFolder
from nnunetv2_clisc.training.trainer import CLISCTrainer_small_noS3F
from nnunetv2_clisc.training.trainer import CLISCTrainer_small_noSelfTraining as OneRound
from tests.helpers.tiny_nnunet import CASES, CLISC_ENTRY, Quick, QuickTrainer, TinyDataset
from tests.helpers.trained_fold import TRAIN, VAL, fold_of, properties_of, rows, seg_of


class QuickNoS3F(Quick, CLISCTrainer_small_noS3F):
    """Round 2 with every case."""

    def build_segmenter(self) -> Any:
        raise AssertionError("SAM is not asked without S3F")


class QuickOneRound(Quick, OneRound):
    """Round 1 only."""


# ---- what a run leaves behind


def test_two_rounds_leave_both_models_and_curves(fold: FoldFolder) -> None:
    assert json.loads((fold.path / "clisc_state.json").read_text())["stage"] == "done"
    for folder in (fold.path, fold.path / "round_1"):
        assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png"} <= {p.name for p in folder.iterdir()}
        assert not (folder / "checkpoint_latest.pth").exists()
    first, second = (torch.load(fold.final(number), weights_only=True)["network_weights"] for number in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert not list(fold.path.rglob("*.tmp"))
    assert not list(fold.path.rglob("tmp-*"))


def test_table_follows_the_percentile_and_the_masks_on_disk(fold: FoldFolder, tiny: TinyDataset) -> None:
    table = rows(fold)
    assert [row["case"] for row in table] == TRAIN
    similarities = [float(row["similarity"]) for row in table]
    threshold = np.percentile(similarities, CLISC_ENTRY["settings"]["s3f"]["beta"])  # type: ignore[index]
    for row in table:
        predicted, sam = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
            for path in (fold.prediction(row["case"], ".nii.gz"), fold.sam_mask(row["case"], ".nii.gz"))
        )
        assert (int(row["predicted_voxels"]), int(row["sam_voxels"])) == (predicted.sum(), sam.sum())
        dice = 2 * (predicted & sam).sum() / (predicted.sum() + sam.sum())
        assert float(row["similarity"]) == pytest.approx(dice, abs=1e-6)
        assert row["kept"] == str(int(dice >= threshold - 1e-6))
        scan = sitk.ReadImage(str(tiny.raw / "imagesTr" / f"{row['case']}_0000.nii.gz"))
        assert sitk.ReadImage(str(fold.prediction(row["case"], ".nii.gz"))).GetDirection() == scan.GetDirection()
    dropped = [row["case"] for row in table if row["kept"] == "0"]
    assert dropped
    assert sorted(p.stem for p in (fold.s3f / "dropped").iterdir()) == dropped
    summary = json.loads((fold.s3f / "summary.json").read_text())
    assert (summary["beta"], summary["dropped"]) == (30.0, dropped)
    assert summary["settings"]["prompts"]["kind"] == "both"


def test_round_2_trains_on_kept_predictions_with_their_own_locations(fold: FoldFolder, tiny: TinyDataset) -> None:
    original = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    for case in TRAIN:
        new, old = seg_of(fold.training_files, case), seg_of(original, case)
        assert new.shape == old.shape
        assert new.dtype == old.dtype
        assert (fold.training_files / f"{case}.b2nd").read_bytes() == (original / f"{case}.b2nd").read_bytes()
        locations = properties_of(fold.training_files, case)["class_locations"]
        assert list(locations) == [1]
        np.testing.assert_array_equal(
            np.unique(locations[1], axis=0), np.argwhere(new == 1) if (new == 1).sum() < 10000 else locations[1]
        )
        # the grid is the scan's own here, so the exported prediction, cropped, is the new label
        exported = sitk.GetArrayFromImage(sitk.ReadImage(str(fold.prediction(case, ".nii.gz"))))
        box = tuple(slice(*edge) for edge in properties_of(original, case)["bbox_used_for_cropping"])
        np.testing.assert_array_equal(exported[box], new[0] == 1)
    trainer = tiny.trainer()
    trainer.initialize()
    trainer.round = 2
    train, val = trainer.get_tr_and_val_datasets()
    assert train.identifiers == [row["case"] for row in rows(fold) if row["kept"] == "1"]
    assert Path(train.source_folder) == fold.training_files
    assert (val.identifiers, Path(val.source_folder)) == (VAL, original)
    trainer.round = 1
    assert trainer.get_tr_and_val_datasets()[0].identifiers == TRAIN


def test_new_labels_are_what_nnunet_predicts_with_round_1(
    fold: FoldFolder, tiny: TinyDataset, found_by_nnunet: None
) -> None:
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold.path.parent), (0,), "round_1/checkpoint_final.pth")
    for case in TRAIN:
        scan = str(tiny.raw / "imagesTr" / f"{case}_0000.nii.gz")
        (expected,) = predictor.predict_from_files_sequential([[scan]], None)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(fold.prediction(case, ".nii.gz"))))
        assert found.any()
        np.testing.assert_array_equal(found, expected)


def test_final_validation_scores_the_validation_cases(fold: FoldFolder, tiny: TinyDataset) -> None:
    trainer = tiny.trainer()
    trainer.load_checkpoint(str(fold.final(2)))
    trainer.perform_actual_validation()
    summary = json.loads((fold.path / "validation" / "summary.json").read_text())
    assert [Path(row["prediction_file"]).name for row in summary["metric_per_case"]] == [f"{VAL[0]}.nii.gz"]


# ---- settings of a variant


def test_epoch_is_one_pass_over_the_cases_of_the_round(
    fold: FoldFolder, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(QuickTrainer):
        min_iterations = 1
        warm_start = False  # nothing is trained here that round 2 could go on from

    trainer = tiny.trainer(Counting)
    counts = []
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: None)
    shutil.copytree(fold.s3f, trainer.folder.s3f)
    for number in (1, 2):
        trainer._train_round(number)
        counts.append((trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch))
    kept = sum(row["kept"] == "1" for row in rows(fold))
    assert counts == [(3, 1), (-(-kept // 2), 1)]


class StandingStill(QuickTrainer):
    """Round 2 with a learning rate of zero ends with the weights that it began with."""

    def configure_optimizers(self) -> Any:
        self.initial_lr = 0.0 if self.round == 2 else self.learning_rate
        return super().configure_optimizers()


class StandingStillFromScratch(StandingStill):
    """The same, as the paper's settings have it."""

    warm_start = False


@pytest.mark.parametrize("kind", [StandingStill, StandingStillFromScratch])
def test_round_2_begins_where_it_should(kind: type[StandingStill], fold: FoldFolder, tiny: TinyDataset) -> None:
    trainer = tiny.trainer(kind)
    for name in ("round_1", "s3f", "round_2/preprocessed"):
        shutil.copytree(fold.path / name, fold_of(trainer).path / name, symlinks=True)
    trainer._train_round(2)
    weights = [torch.load(fold_of(trainer).final(number), weights_only=True)["network_weights"] for number in (1, 2)]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert same == kind.warm_start


def test_without_s3f_every_case_is_relabelled_and_kept(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(QuickNoS3F)
    trainer.run_training()
    folder = fold_of(trainer)
    assert [(row["kept"], row["similarity"]) for row in rows(folder)] == [("1", "")] * 5
    assert folder.final(2).is_file()


def test_without_self_training_round_1_is_the_model_and_needs_no_pseudo_labels(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(QuickOneRound, clisc=None)
    trainer.run_training()
    names = {path.name for path in fold_of(trainer).path.iterdir()}
    assert "checkpoint_final.pth" in names
    assert not {"round_1", "s3f", "round_2"} & names


def test_fold_all_trains_on_every_case(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(fold="all")
    trainer.run_training()
    assert [row["case"] for row in rows(fold_of(trainer))] == CASES
    assert fold_of(trainer).final(2).is_file()
