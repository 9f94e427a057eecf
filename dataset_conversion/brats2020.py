"""BraTS 2020 training data as Kaggle and CBICA distribute it: FLAIR only, whole tumour, the paper's split."""

from __future__ import annotations

import re
from pathlib import Path

from dataset_conversion.case_folders import find_cases
from dataset_conversion.errors import ConversionError
from dataset_conversion.raw_dataset import CaseSource, ConversionSummary, write_dataset
from dataset_conversion.splits import read_split
from dataset_conversion.target import prepare_target

PAPER_SPLIT = Path(__file__).parent / "data" / "brats2020_paper_split.json"
ARCHIVE_FOLDER = "MICCAI_BraTS2020_TrainingData"
_CASE_FOLDER = re.compile(r"BraTS20_Training_\d{3}")
# As distributed, one mask of the 369 carries another name.
MISNAMED_MASKS = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}


def convert_brats2020(
    source: Path,
    *,
    dataset_id: int,
    name: str = "BraTS2020FLAIR",
    split: Path | None = None,
    fullsup_id: int | None = None,
) -> ConversionSummary:
    """Convert `BraTS20_Training_NNN/BraTS20_Training_NNN_flair.nii[.gz]`, with `_seg` > 0 as tumour.

    Args:
        source: folder of the case folders, or one or two levels above `MICCAI_BraTS2020_TrainingData`.
        split: JSON file; by default the 257/37/75 split of the paper (Sec. 3.1).
        fullsup_id: id of a second dataset with ground truth for training.

    Raises:
        ConversionError: not such a folder, or see `prepare_target`, `read_split` and `write_dataset`.
    """
    target = prepare_target(dataset_id, name, fullsup_id)
    cases = find_cases(source, _CASE_FOLDER, ARCHIVE_FOLDER, _find_case)
    chosen = read_split(PAPER_SPLIT if split is None else Path(split), cases)
    return write_dataset(target, cases, chosen, source="brats2020")


def _find_case(folder: Path) -> CaseSource:
    case = folder.name
    image = _find_file(folder, f"{case}_flair")
    if image is None:
        raise ConversionError(f"{folder}: has no {case}_flair.nii or .nii.gz; fetch this case again")
    mask = _find_file(folder, f"{case}_seg")
    if mask is None and case in MISNAMED_MASKS:
        mask = _find_file(folder, MISNAMED_MASKS[case])
    return CaseSource(case, image, mask)


def _find_file(folder: Path, stem: str) -> Path | None:
    found = [path for path in (folder / f"{stem}.nii", folder / f"{stem}.nii.gz") if path.is_file()]
    if len(found) > 1:
        raise ConversionError(f"{found[1]}: second file beside {found[0].name}; keep one of them")
    return found[0] if found else None
