"""BraTS training data of 2020, 2021 and 2023 as they are distributed: FLAIR only, whole tumour as one class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource, ConversionSummary, write_dataset
from dataset_conversion.raw.splits import draw_split, read_split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.integrity import check_fetched
from dataset_conversion.scans.volumes import read_unified
from dataset_conversion.sources.case_folders import find_cases

PAPER_SPLIT = Path(__file__).parent / "brats2020_paper_split.json"


@dataclass(frozen=True)
class BratsLayout:
    """How one year's data are laid out: a folder a case, named as the case, with its files named after it.

    Attributes:
        name: by which `convert` and `dataset.json` know it.
        dataset: default NAME of `DatasetNNN_NAME`.
        pattern: of the names of case folders.
        archive: pattern of the name of the folder above them, as downloaded.
        scan, mask: what follows the case's name in the name of its FLAIR file and of its mask.
        tumour: largest label that is tumour; a larger one is of another year.
        split: file of the default split; None draws 70:10:20, the paper's ratio (Sec. 3.1).
        misnamed: masks that are distributed under another name, by case.
    """

    name: str
    dataset: str
    pattern: re.Pattern[str]
    archive: str
    scan: str
    mask: str
    tumour: int
    split: Path | None = None
    misnamed: Mapping[str, str] = field(default_factory=dict)


LAYOUTS = {
    layout.name: layout
    for layout in (
        BratsLayout(
            name="brats2020",
            dataset="BraTS2020FLAIR",
            pattern=re.compile(r"BraTS20_Training_\d{3}"),
            archive="MICCAI_BraTS2020_TrainingData",
            scan="_flair",
            mask="_seg",
            tumour=4,
            split=PAPER_SPLIT,
            misnamed={"BraTS20_Training_355": "W39_1998.09.19_Segm"},
        ),
        BratsLayout(
            name="brats2021",
            dataset="BraTS2021FLAIR",
            pattern=re.compile(r"BraTS2021_\d{5}"),
            archive="*BraTS2021*",
            scan="_flair",
            mask="_seg",
            tumour=4,
        ),
        BratsLayout(
            name="brats2023",
            dataset="BraTS2023FLAIR",
            pattern=re.compile(r"BraTS-[A-Za-z]+-\d{5}-\d{3}"),
            archive="*BraTS2023*",
            scan="-t2f",
            mask="-seg",
            tumour=3,  # in 2024, 4 is the resection cavity, which is no tumour
        ),
    )
}


def convert_brats(
    layout: BratsLayout,
    source: Path,
    *,
    dataset_id: int,
    name: str | None = None,
    split: Path | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
) -> ConversionSummary:
    """Convert the FLAIR scans of one year's case folders, with every label above 0 as tumour.

    Args:
        layout: one of `LAYOUTS`.
        source: folder of the case folders, or one or two levels above the archive's folder.
        split: JSON file; by default the layout's. Where one is drawn, time points of a patient stay together.
        fullsup_id: id of a second dataset with ground truth for training.
        seed: of the split, where one is drawn.

    Raises:
        UserError: not such a folder, or see `prepare_target`, `read_split` and `write_dataset`.
    """
    target = prepare_target(dataset_id, name or layout.dataset, fullsup_id)
    cases = find_cases(source, layout.pattern, layout.archive, partial(_find_case, layout))
    split = split or layout.split
    if split is not None:
        chosen = read_split(Path(split), cases, seed=seed)
    else:
        chosen = draw_split(cases, seed=seed, val=0.1, test=0.2)
    return write_dataset(target, cases, chosen, source=layout.name, seed=seed)


def _find_case(layout: BratsLayout, folder: Path) -> CaseSource:
    case = folder.name
    image = _find_file(folder, case + layout.scan)
    if image is None:
        raise UserError(f"{folder}: has no {case}{layout.scan}.nii or .nii.gz; fetch this case again")
    mask = _find_file(folder, case + layout.mask)
    if mask is None and case in layout.misnamed:
        mask = _find_file(folder, layout.misnamed[case])
    return CaseSource(case, image, mask, read_mask=partial(_read_mask, layout))


def _find_file(folder: Path, stem: str) -> Path | None:
    both = (folder / f"{stem}.nii", folder / f"{stem}.nii.gz")
    for path in both:
        check_fetched(path)
    found = [path for path in both if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{found[1]}: second file beside {found[0].name}; keep one of them")
    return found[0] if found else None


def _read_mask(layout: BratsLayout, path: Path) -> sitk.Image:
    mask = read_unified(path)
    largest = float(sitk.GetArrayViewFromImage(mask).max())
    if largest > layout.tumour + 0.5:
        raise UserError(
            f"{path}: has the label {largest:g}, but {layout.name} has 0 to {layout.tumour}; if these are the data of "
            "another year, convert scans and masks with `convert folder`, with masks of the tumour only"
        )
    return mask
