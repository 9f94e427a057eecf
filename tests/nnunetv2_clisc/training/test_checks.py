"""Bad input is named in one line before any training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunetv2_clisc.training.fold import FoldFolder
from nnunetv2_clisc.training.rounds import SelfTraining
from nnunetv2_clisc.training.trainer import CLISCTrainer, CLISCTrainer_noS3F
from tests.helpers.tiny_nnunet import CASES, CLISC_ENTRY, NAME, TinyDataset
from tests.helpers.trained_fold import TRAIN, VAL, s3f_again


@pytest.mark.parametrize("kind", [CLISCTrainer, CLISCTrainer_noS3F])
def test_dataset_without_pseudo_labels_is_refused(tiny: TinyDataset, kind: type[CLISCTrainer]) -> None:
    with pytest.raises(SystemExit, match=r"error: .*no 'clisc' entry; run nnUNetv2_clisc pseudo_label -d 611"):
        tiny.trainer(kind, clisc=None).run_training()


def test_sam_that_is_not_there_is_found_before_training(tiny: TinyDataset) -> None:
    entry = CLISC_ENTRY | {"weights": {"sam": {"spec": "/no/such/sam.pth"}}}
    with pytest.raises(SystemExit, match=r"error: /no/such/sam\.pth"):
        tiny.trainer(CLISCTrainer, clisc=entry).run_training()
    with pytest.raises(SystemExit, match=r"error: .*does not name the SAM"):
        tiny.trainer(CLISCTrainer, clisc={"settings": {}}).run_training()


def test_missing_scan_or_raw_folder_is_found_before_training(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(tiny.root / "raw", raw)
    monkeypatch.setenv("nnUNet_raw", str(raw))
    (raw / NAME / "imagesTr" / f"{CASES[2]}_0000.nii.gz").unlink()
    with pytest.raises(SystemExit, match=rf"error: .*{CASES[2]}_0000\.nii\.gz: the scan is missing"):
        tiny.trainer().run_training()
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SystemExit, match="error: nnUNet_raw: not set"):
        tiny.trainer().run_training()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            {"train": ["stranger"], "val": VAL},
            r"case 'stranger' has no scan .*take it out of \S*/preprocessed/\S*splits_final.json, or put",
        ),
        ({"train": [], "val": VAL}, "at least one training and one validation case"),
        ({"train": TRAIN, "val": []}, "at least one training and one validation case"),
    ],
)
def test_bad_split_is_refused(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: dict[str, Any], message: str
) -> None:
    shutil.copytree(tiny.root / "preprocessed", tmp_path / "preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    (tmp_path / "preprocessed" / NAME / "splits_final.json").write_text(json.dumps([split]))
    with pytest.raises(SystemExit, match=message):
        tiny.trainer().run_training()


@pytest.mark.parametrize(("ending", "kept"), [("_seg.b2nd", None), ("_seg.b2nd", 200), (".b2nd", -1), (".pkl", -5)])
def test_case_that_was_not_preprocessed_whole_is_named(
    ending: str, kept: int | None, tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny.root / "preprocessed", tmp_path / "preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    file = tmp_path / "preprocessed" / NAME / "nnUNetPlans_3d_fullres" / f"{CASES[1]}{ending}"
    content = file.read_bytes()
    file.unlink()
    if kept is not None:  # as a preprocessing leaves it that was killed
        file.write_bytes(content[:kept])
    with pytest.raises(SystemExit, match=rf"{CASES[1]}.*run nnUNetv2_plan_and_preprocess -d 611 -c 3d_fullres"):
        tiny.trainer().run_training()


def test_several_foreground_labels_are_refused(tiny: TinyDataset) -> None:
    with pytest.raises(SystemExit, match="exactly one foreground label"):
        tiny.trainer(labels={"background": 0, "tumour": 1, "oedema": 2}).run_training()


def test_unreadable_state_is_named(tiny: TinyDataset) -> None:
    trainer = tiny.trainer()
    (trainer.folder.path / "clisc_state.json").write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*clisc_state\.json.*delete it"):
        trainer.run_training()


def test_empty_predictions_everywhere_stop_before_round_2(fold: FoldFolder, tiny: TinyDataset) -> None:
    def nothing(trainer: SelfTraining) -> None:
        trainer.label_manager.convert_logits_to_segmentation = (
            lambda logits: np.zeros(  # type: ignore[method-assign]
                logits.shape[1:], dtype=np.uint8
            )
        )

    with pytest.raises(ValueError, match=r"keeps none of 5 training cases \(5 with an empty prediction\)"):
        s3f_again(fold, tiny, nothing)
    assert not (fold.s3f / "similarities.csv").exists()
