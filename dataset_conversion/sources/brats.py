"""BraTS training data of 2020, 2021 and 2023 as they are distributed: FLAIR only, whole tumour as one class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource
from dataset_conversion.scans.integrity import check_fetched
from dataset_conversion.scans.volumes import read_unified
from dataset_conversion.sources.case_folders import Archive

PAPER_SPLIT = Path(__file__).parent / "brats2020_paper_split.json"


@dataclass(frozen=True)
class Year:
    """How one year's files are named after their case, and what its labels mean.

    Attributes:
        name: of the year.
        scan, mask: what follows the case's name in the name of its FLAIR file and of its mask.
        tumour: largest label that is tumour; a larger one is of another year.
        misnamed: masks that are distributed under another name, by case.
    """

    name: str
    scan: str
    mask: str
    tumour: int
    misnamed: Mapping[str, str] = field(default_factory=dict)


def _archive(year: Year, dataset: str, pattern: str, folder: str, split: Path | None = None) -> Archive:
    return Archive(year.name, dataset, re.compile(pattern), folder, partial(_find_case, year), split)


def _find_case(year: Year, folder: Path) -> CaseSource:
    case = folder.name
    image = _find_file(folder, case + year.scan)
    if image is None:
        raise UserError(f"{folder}: has no {case}{year.scan}.nii or .nii.gz; fetch this case again")
    mask = _find_file(folder, case + year.mask)
    if mask is None and case in year.misnamed:
        mask = _find_file(folder, year.misnamed[case])
    return CaseSource(case, image, mask, read_mask=partial(_read_mask, year))


def _find_file(folder: Path, stem: str) -> Path | None:
    both = (folder / f"{stem}.nii", folder / f"{stem}.nii.gz")
    for path in both:
        check_fetched(path)
    found = [path for path in both if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{found[1]}: second file beside {found[0].name}; keep one of them")
    return found[0] if found else None


def _read_mask(year: Year, path: Path) -> sitk.Image:
    mask = read_unified(path)
    largest = float(sitk.GetArrayViewFromImage(mask).max())
    if largest > year.tumour + 0.5:
        raise UserError(
            f"{path}: has the label {largest:g}, but {year.name} has 0 to {year.tumour}; if these are the data of "
            "another year, convert scans and masks with `convert folder`, with masks of the tumour only"
        )
    return mask


_2020 = Year("brats2020", "_flair", "_seg", 4, {"BraTS20_Training_355": "W39_1998.09.19_Segm"})
_2021 = Year("brats2021", "_flair", "_seg", 4)
_2023 = Year("brats2023", "-t2f", "-seg", 3)  # in 2024, 4 is the resection cavity, which is no tumour
LAYOUTS = {
    archive.name: archive
    for archive in (
        _archive(_2020, "BraTS2020FLAIR", r"BraTS20_Training_\d{3}", "MICCAI_BraTS2020_TrainingData", PAPER_SPLIT),
        _archive(_2021, "BraTS2021FLAIR", r"BraTS2021_\d{5}", "*BraTS2021*"),
        _archive(_2023, "BraTS2023FLAIR", r"BraTS-[A-Za-z]+-\d{5}-\d{3}", "*BraTS2023*"),
    )
}
convert_brats = Archive.convert  # with one of the layouts first
