"""What must be in place before a self-training begins, found at once instead of hours later."""

from __future__ import annotations

import pickle
from pathlib import Path

import blosc2

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.fold_data import FoldData
from nnunetv2_clisc.training.stale_labels import check_current
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.weights.files import locate


def check_before_training(data: FoldData, *, rounds: int, use_s3f: bool, compare_files: bool = True) -> None:
    """Find what would stop a later stage before the first one has begun.

    Args:
        data: of the fold to train.
        rounds: how many the trainer has.
        use_s3f: whether it asks SAM between them.
        compare_files: also compare labels and scans with those that were preprocessed; among ranks one does it.

    Raises:
        UserError: data, split, labels or scans that are missing or cannot be trained on; the SAM that S3F will
            ask is not there.
    """
    where = f"splits_final.json, fold {data.fold}"
    if not data.train or not data.val:
        raise UserError(f"{where}: needs at least one training and one validation case")
    for case in (*data.train, *data.val):
        _check_preprocessed(data, case, where)
    _check_complete(data)
    if rounds == 2:
        _check_labels(data)
        if use_s3f:
            locate("sam", data.sam_spec)
            for case in data.train:
                for path in data.shown(case):
                    if not path.is_file():
                        raise UserError(f"{path}: the scan is missing; S3F shows it to SAM, so put it back")
    if compare_files:
        check_current(data)


def _check_preprocessed(data: FoldData, case: str, where: str) -> None:
    if _whole(data.cases_folder, case):
        return
    if data.raw is not None and data.raw.is_dir():
        scan = data.raw / "imagesTr" / f"{case}_0000{data.ending}"
        if not scan.exists():  # preprocessing again would not help
            splits = [data.folder / "splits_final.json", data.raw / "splits_final.json"]
            files = " and ".join(str(path) for path in splits if path.exists() and f'"{case}"' in path.read_text())
            raise UserError(f"{where}: case '{case}' has no scan {scan}; take it out of {files}, or put the scan back")
    raise UserError(f"{where}: case '{case}' is not preprocessed, or not whole; run {data.preprocess_command}")


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


def _check_complete(data: FoldData) -> None:
    """No training on pseudo-labels that are not, or were not when they were preprocessed, complete."""
    if data.raw is None or not (raw := Workspace(data.raw)).holds_pseudo_labels:
        return
    if "clisc" not in data.dataset_json or not raw.complete:
        raise UserError(
            f"{data.name}: its pseudo-labels are not complete, or were not when they were preprocessed; run "
            f"nnUNetv2_clisc pseudo_label -d {data.number} --stage finish, which names what is missing, then "
            f"nnUNetv2_plan_and_preprocess -d {data.number} again"
        )


def _check_labels(data: FoldData) -> None:
    if "clisc" not in data.dataset_json:
        raise UserError(
            f"{data.name}/dataset.json: has no 'clisc' entry; run nnUNetv2_clisc pseudo_label -d {data.number} and "
            f"nnUNetv2_plan_and_preprocess -d {data.number} first"
        )
    if len(data.labels.foreground_labels) != 1 or data.labels.has_regions:
        raise UserError(f"{data.name}/dataset.json: self-training needs exactly one foreground label")
