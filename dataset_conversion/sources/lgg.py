"""The Kaggle LGG segmentation set (`kaggle_3m`): a folder of TIFF slices a patient, FLAIR in the green channel.

`TCGA_xx_yyyy_date/TCGA_xx_yyyy_date_N.tif` and `…_N_mask.tif` become volumes, slices in the order of N. Their spacing,
1 x 1 x (140 / slices) mm, is nominal, so distances in mm are nominal too.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource
from dataset_conversion.sources.case_folders import Archive

FLAIR_CHANNEL = 1  # the three are pre-contrast, FLAIR, post-contrast
NOMINAL_HEIGHT_MM = 140.0  # the slice spacing was not distributed; the stacks cover a head, so share its height out


def read_flair_stack(folder: Path) -> sitk.Image:
    """FLAIR volume of one patient's folder, uint8."""
    return _stack([_read_slice(path, "RGB")[..., FLAIR_CHANNEL] for path in _slice_files(folder, "")], folder)


def read_mask_stack(folder: Path) -> sitk.Image:
    """Mask of one patient's folder, uint8, 255 = tumour as distributed."""
    return _stack([_read_slice(path, "L") for path in _slice_files(folder, "_mask")], folder)


def _find_case(folder: Path) -> CaseSource:
    has_masks = any(folder.glob("*_mask.tif"))
    return CaseSource(folder.name, folder, folder if has_masks else None, read_flair_stack, read_mask_stack)


def _slice_files(folder: Path, suffix: str) -> list[Path]:
    """Slice files 1 … N in the order of their numbers; a gap is an error, since it would shift all later slices.

    N comes from scans and masks together, so that a lost last slice is noticed.
    """
    pattern = re.compile(re.escape(folder.name) + r"_(\d+)(_mask)?\.tif")
    matches = [match for file in folder.iterdir() if (match := pattern.fullmatch(file.name))]
    found = {int(match[1]): folder / match[0] for match in matches if (match[2] or "") == suffix}
    last = max((int(match[1]) for match in matches), default=0)
    for number in range(1, max(last, 1) + 1):
        if number not in found:
            missing = folder / f"{folder.name}_{number}{suffix}.tif"
            raise UserError(f"{missing}: slice is missing; fetch this case again or leave it out of the split")
    return [found[number] for number in range(1, last + 1)]


def _read_slice(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode != mode:
                raise UserError(f"{path}: pixel mode {image.mode}, expected {mode}; fetch this case again")
            return np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on a broken TIFF header
        raise UserError(f"{path}: cannot be read as an image; fetch this case again") from error


def _stack(slices: list[np.ndarray], folder: Path) -> sitk.Image:
    if len(slices) < 2 or len({one.shape for one in slices}) != 1:
        raise UserError(f"{folder}: needs two or more slices of one size; fetch this case again or leave it out")
    image = sitk.GetImageFromArray(np.stack(slices))
    image.SetSpacing((1.0, 1.0, round(NOMINAL_HEIGHT_MM / len(slices), 2)))
    return image


LGG = Archive("lgg", "LGG", re.compile(r"TCGA_\w+_\d{8}", re.ASCII), "kaggle_3m", _find_case)
convert_lgg = LGG.convert
