"""What must be in place before a self-training begins, found at once instead of hours later."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import blosc2
from nnunetv2.paths import nnUNet_raw

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.stale_labels import check_current, preprocess_command
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.weights.files import locate

if TYPE_CHECKING:
    from nnunetv2_clisc.training.rounds import SelfTraining


def check_before_training(trainer: SelfTraining) -> None:
    """Find what would stop a later stage before the first one has begun.

    Raises:
        UserError: data, split, labels or scans that are missing or cannot be trained on; the SAM that S3F will
            ask is not there.
    """
    if trainer.preprocessed_dataset_folder_base is None:
        raise UserError("nnUNet_preprocessed: not set; export it and run the command again")
    train, val = trainer.do_split()
    where = f"splits_final.json, fold {trainer.fold}"
    if not train or not val:
        raise UserError(f"{where}: needs at least one training and one validation case")
    for case in (*train, *val):
        _check_preprocessed(trainer, case, where)
    _check_complete(trainer)
    if trainer.rounds == 2:
        _check_labels(trainer)
        for case in train if trainer.use_s3f else ():
            if not (path := trainer.raw_scan(case)).is_file():
                raise UserError(f"{path}: the scan is missing; S3F shows it to SAM, so put it back")
    if trainer.local_rank == 0:
        check_current(trainer)


def _check_preprocessed(trainer: SelfTraining, case: str, where: str) -> None:
    folder = Path(trainer.preprocessed_dataset_folder)
    if _whole(folder, case):
        return
    name = trainer.plans_manager.dataset_name
    if nnUNet_raw.is_set() and (raw := Path(nnUNet_raw, name)).is_dir():
        scan = raw / "imagesTr" / f"{case}_0000{trainer.dataset_json['file_ending']}"
        if not scan.exists():  # preprocessing again would not help
            splits = [folder.parent / "splits_final.json", raw / "splits_final.json"]
            files = " and ".join(str(path) for path in splits if path.exists() and f'"{case}"' in path.read_text())
            raise UserError(f"{where}: case '{case}' has no scan {scan}; take it out of {files}, or put the scan back")
    raise UserError(f"{where}: case '{case}' is not preprocessed, or not whole; run {preprocess_command(trainer)}")


def _whole(folder: Path, case: str) -> bool:
    """Whether nnU-Net's files of a case are there and not cut short, as a preprocessing that was killed leaves them."""
    try:
        for ending in (".b2nd", "_seg.b2nd"):
            blosc2.open(urlpath=str(folder / f"{case}{ending}"), mode="r")  # refuses a file without its end
        with open(folder / f"{case}.pkl", "rb") as file:
            pickle.load(file)  # written by nnU-Net's preprocessing on this machine
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return False
    return True


def _check_complete(trainer: SelfTraining) -> None:
    """No training on pseudo-labels that are not, or were not when they were preprocessed, complete."""
    name = trainer.plans_manager.dataset_name
    if not nnUNet_raw.is_set() or not (raw := Workspace(Path(nnUNet_raw, name))).holds_pseudo_labels:
        return
    if "clisc" not in trainer.dataset_json or not raw.complete:
        raise UserError(
            f"{name}: its pseudo-labels are not complete, or were not when they were preprocessed; run "
            f"nnUNetv2_clisc pseudo_label -d {int(name[7:10])} --stage finish, which names what is missing, then "
            f"nnUNetv2_plan_and_preprocess -d {int(name[7:10])} again"
        )


def _check_labels(trainer: SelfTraining) -> None:
    name = trainer.plans_manager.dataset_name
    if "clisc" not in trainer.dataset_json:
        number = int(name[7:10])
        raise UserError(
            f"{name}/dataset.json: has no 'clisc' entry; run nnUNetv2_clisc pseudo_label -d {number} and "
            f"nnUNetv2_plan_and_preprocess -d {number} first"
        )
    if len(trainer.label_manager.foreground_labels) != 1 or trainer.label_manager.has_regions:
        raise UserError(f"{name}/dataset.json: self-training needs exactly one foreground label")
    if trainer.use_s3f:
        locate("sam", trainer.sam_spec())
