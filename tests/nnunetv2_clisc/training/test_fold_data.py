"""What a fold's data say of themselves."""

from __future__ import annotations

import pytest

from tests.helpers.tiny_nnunet import CASES, NAME, TinyDataset
from tests.helpers.trained_fold import TRAIN, VAL


def test_fold_data_are_those_of_the_trainer(tiny: TinyDataset) -> None:
    trainer = tiny.trainer()
    data = trainer.fold_data
    assert (data.name, data.number, data.train, data.val) == (NAME, 611, TRAIN, VAL)
    assert (str(data.folder), str(data.cases_folder)) == (
        trainer.preprocessed_dataset_folder_base,
        trainer.preprocessed_dataset_folder,
    )
    assert data.settings.s3f.beta == 30.0
    assert data.preprocess_command == "nnUNetv2_plan_and_preprocess -d 611 -c 3d_fullres"
    data.plans.plans["plans_name"] = "Mine"
    assert data.preprocess_command.endswith("(with the flags that made Mine)")


def test_sam_is_shown_the_flair_channel(tiny: TinyDataset) -> None:
    data = tiny.trainer(channel_names={"0": "T1", "1": "FLAIR"}).fold_data
    scans = [tiny.raw / "imagesTr" / f"{CASES[0]}_000{channel}.nii.gz" for channel in (0, 1)]
    assert data.raw_scans(CASES[0]) == scans
    assert data.shown(CASES[0]) == scans[1:]


def test_folder_that_is_not_set_is_named(tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(SystemExit, match="error: nnUNet_preprocessed: not set"):
        tiny.trainer().run_training()
