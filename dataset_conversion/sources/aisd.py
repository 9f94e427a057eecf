"""AISD, CT of acute ischaemic stroke, as NIfTI: the data set of AISCT-SAM, with its published test cases.

The data set comes as DICOM and PNG (https://github.com/GriffinLiang/AISD); those who compare on it make of them a
folder a patient with `CT.nii.gz` and `GT_hard.nii.gz`.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json
from dataset_conversion.raw.dataset import CaseSource, Content, ConversionSummary, write_dataset
from dataset_conversion.raw.splits import Split, draw_split, read_split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.integrity import check_fetched
from dataset_conversion.scans.mirror import with_mirrored
from dataset_conversion.scans.volumes import read_unified
from dataset_conversion.sources.case_folders import case_folders
from dataset_conversion.sources.mirrored import PICTURES, draw_some

# 52 of the 397 patients: the data set's page gives their number, code of several groups the same names
TEST_CASES = Path(__file__).parent / "aisd_test_cases.json"
VALIDATION = 0.118  # of the other 345: published code sets as many aside, but not by a rule that can be repeated
CASE, SCAN, MASK = re.compile(r"\d{7}"), "CT.nii.gz", "GT*.nii.gz"


def convert_aisd(
    source: Path,
    *,
    dataset_id: int,
    name: str = "AISD",
    split: Path | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
    mirrored: bool = False,
) -> ConversionSummary:
    """Convert AISD's CT scans: `0073410/CT.nii.gz` with `GT_hard.nii.gz` beside it.

    Args:
        source: folder of the patients' folders.
        dataset_id: NNN of `DatasetNNN_NAME`.
        name: its NAME.
        split: JSON file; by default the published test cases, and validation cases drawn from the others.
        fullsup_id: id of a second dataset with ground truth for training.
        seed: of the validation cases and the further folds.
        mirrored: give each scan its mirror image as a second channel; see `mirror`.

    Raises:
        UserError: no patients' folders, a scan or mask is missing or another one than expected; or see
            `prepare_target`, `read_split` and `write_dataset`.
    """
    target = prepare_target(dataset_id, name, fullsup_id)
    cases = {folder.name: _case(folder, mirrored) for folder in case_folders(Path(source), CASE, "*AISD*")}
    notes: tuple[str, ...] = ()
    if split is None:
        chosen, notes = _published(cases, seed)
    else:
        chosen = read_split(Path(split), cases, seed=seed)
    content = Content(("CT", "CT") if mirrored else ("CT",), "infarct")  # nnU-Net windows what is called CT
    summary = write_dataset(target, cases, chosen, source="aisd", notes=notes, seed=seed, content=content)
    if mirrored:
        draw_some(summary.dataset / "imagesTr", summary.dataset / PICTURES)
    return summary


def _case(folder: Path, mirrored: bool) -> CaseSource:
    scan, masks = folder / SCAN, sorted(folder.glob(MASK))
    check_fetched(scan)
    if not scan.is_file():
        raise UserError(f"{scan}: not there; make it of the patient's DICOM files, e.g. with dcm2niix")
    if len(masks) > 1:
        raise UserError(f"{masks[1]}: second mask beside {masks[0].name}; keep one of them")
    read_scan = partial(with_mirrored, read=read_unified) if mirrored else read_unified
    return CaseSource(folder.name, scan, masks[0] if masks else None, read_scan, _read_mask)


def _read_mask(path: Path) -> sitk.Image:
    mask = read_unified(path)
    largest = float(sitk.GetArrayViewFromImage(mask).max())
    if largest > 1:
        raise UserError(
            f"{path}: has the label {largest:g}; AISD's PNG masks number kinds of infarct (1 remote, 2 to 5 acute), so "
            "decide which count and write them as 1, the others as 0"
        )
    return mask


def _published(cases: dict[str, CaseSource], seed: int) -> tuple[Split, tuple[str, ...]]:
    published = list(read_json(TEST_CASES))
    test = tuple(case for case in published if case in cases)
    drawn = draw_split([case for case in cases if case not in test], seed=seed, val=VALIDATION)
    split = Split(drawn.train, drawn.val, test, f"AISD's published test cases, the others {drawn.origin}")
    missing = len(published) - len(test)
    note = f"{missing} of the {len(published)} published test cases are not in the folder"
    return split, (note,) if missing else ()
