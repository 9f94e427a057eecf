"""S3F's pass in parts: the same table and the same files as in one `nnUNetv2_train`, with the installed commands."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.parts import Part
from nnunetv2_clisc.running.slurm import Command, Training, chain
from nnunetv2_clisc.training.fold import FoldFolder
from nnunetv2_clisc.training.fold_data import FoldData
from nnunetv2_clisc.training.relabel_part import relabel_share
from nnunetv2_clisc.training.s3f import load_agreement
from tests.helpers.commands import Run, program
from tests.helpers.tiny_nnunet import CASES, CLISC_ENTRY, NAME, TinyDataset, digest
from tests.helpers.trained_fold import back_to

TRAIN = CASES[:5]


def relabel(number: int) -> list[object]:
    return ["relabel", "-d", 611, "-tr", "QuickTrainer", "-device", "cpu", "-num_parts", 2, "-part_id", number]


def train(**environment: str) -> None:
    subprocess.run(
        [program("nnUNetv2_train"), "611", "3d_fullres", "0", "-tr", "QuickTrainer", "-device", "cpu"],
        env=os.environ | environment,
        capture_output=True,
        check=True,
    )


def test_parts_between_the_rounds_equal_one_training(
    fold: FoldFolder,
    tiny: TinyDataset,
    found_by_nnunet: None,
    clisc: Run,
) -> None:
    """Round 1 stops by itself, two parts relabel, and training finds nothing left to relabel."""
    expected = digest(fold.s3f), digest(fold.training_files)
    back_to(fold, "s3f", ["s3f", "round_2", "checkpoint_final.pth", "checkpoint_best.pth"])
    train(CLISC_STOP_AFTER_ROUND_1="1")
    assert json.loads((fold.path / "clisc_state.json").read_text())["stage"] == "s3f"
    assert "part 1 of 2: done (2 cases)" in clisc(*relabel(1)).stdout
    assert [case for case in TRAIN if load_agreement(fold.finished_cases, case)] == TRAIN[1::2]
    clisc(*relabel(0))
    finished = {path: path.stat().st_mtime_ns for path in fold.finished_cases.iterdir()}
    train()
    assert {path: path.stat().st_mtime_ns for path in fold.finished_cases.iterdir()} == finished
    assert (digest(fold.s3f), digest(fold.training_files)) == expected
    assert "nothing to do" in clisc(*relabel(0)).stdout


def test_job_queued_again_while_its_model_was_validated_validates_it(
    fold: FoldFolder, tiny: TinyDataset, found_by_nnunet: None
) -> None:
    """What `submit` queues again after a time limit, or is submitted a second time, keeps the finished model."""
    steps = chain(LabellingOptions(611, device="cpu"), 1, Training("QuickTrainer"))
    before = {number: fold.final(number).read_bytes() for number in (1, 2)}
    assert not (fold.path / "validation").exists()
    Command(steps[-1].commands[0], steps[-1].environment)()
    assert {number: fold.final(number).read_bytes() for number in (1, 2)} == before
    assert (fold.path / "validation" / "summary.json").is_file()
    assert [path.name for path in fold.path.parent.glob("*fold_0")] == ["fold_0"]


def test_relabelling_before_round_1_is_finished_is_refused(
    tiny: TinyDataset, found_by_nnunet: None, clisc: Run
) -> None:
    done = clisc(*relabel(0), ok=False)
    assert done.returncode == 2
    assert "round 1 is not finished" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_failed_case_stops_no_other(
    fold: FoldFolder, tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_to(fold, "s3f", ["s3f"])
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    shown = FoldData.shown
    monkeypatch.setattr(FoldData, "shown", lambda data, case: [broken] if case == TRAIN[2] else shown(data, case))
    with pytest.raises(ValueError, match=f"1 of 3 cases failed \\({TRAIN[2]}\\)"):
        relabel_share(tiny.trainer(), Part(0, 2))
    assert [case for case in TRAIN if load_agreement(fold.finished_cases, case)] == [TRAIN[0], TRAIN[4]]


@pytest.mark.parametrize("where", ["raw", "preprocessed"])
def test_training_on_unfinished_pseudo_labels_is_refused(
    where: str, tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither labels that were preprocessed before `finish`, nor a dataset whose labels are being made anew."""
    raw = tmp_path / "raw" / NAME
    (raw / "clisc").mkdir(parents=True)
    (raw / "clisc" / "labels_are_pseudo_labels").touch()
    (raw / "imagesTr").symlink_to(tiny.raw / "imagesTr")
    complete = json.loads((tiny.raw / "dataset.json").read_text())
    unfinished = {name: value for name, value in complete.items() if name != "clisc"}
    (raw / "dataset.json").write_text(json.dumps(unfinished if where == "raw" else complete))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    trainer = tiny.trainer(clisc=CLISC_ENTRY if where == "raw" else None)
    with pytest.raises(SystemExit) as caught:
        trainer.run_training()
    assert "pseudo-labels are not complete" in str(caught.value)
    assert "pseudo_label -d 611 --stage finish" in str(caught.value)
