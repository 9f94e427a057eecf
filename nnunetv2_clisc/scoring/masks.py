"""Masks as people have them: which values are the tumour, and the axes in the order of another file's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import check_same_grid

Foreground = Literal["any"] | tuple[int, ...]
"""Which labels are the tumour: any above 0, or these."""

WHOLE_WITHIN = 1e-3  # a value this near a whole number is that number: scaling factors and resaving leave 0.99999994
MANY_VALUES = 20  # a file with more than so many is no mask


@dataclass(frozen=True)
class Mask:
    """The tumour of one file.

    Attributes:
        voxels: `(z, y, x)` bool.
        labels: all values above 0 of the file; 1 where it holds 0 and 255 only.
    """

    voxels: np.ndarray
    labels: frozenset[int]


def parse_foreground(text: str) -> Foreground:
    """`any`, or whole numbers above 0 with commas between.

    Raises:
        ValueError: neither.
    """
    if text.strip().lower() == "any":
        return "any"
    labels = tuple(sorted({int(part) for part in text.split(",")}))
    if labels[0] < 1:
        raise ValueError(f"{labels[0]} is no label of a tumour")
    return labels


def read_mask(image: sitk.Image, path: Path, foreground: Foreground | None = None) -> Mask:
    """The tumour in a label map.

    Args:
        image: of the file, 3D with one value a voxel.
        path: named in errors.
        foreground: the tumour's labels. By default a mask has one value beside 0, which is 1 or 255. Where 255 is the
            only value beside 0 it counts as 1, unless it is asked for.

    Raises:
        UserError: a value that is not a whole number from 0 up, or values that say nothing without `foreground`.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind == "f":
        voxels = _whole_numbers(voxels, path)
    values = np.unique(voxels[voxels != 0])
    if values.size and values[0] < 0:
        raise UserError(f"{path}: has the value {values[0]:.9g}, but a mask holds whole numbers from 0 up; mend it")
    if values.size > MANY_VALUES:
        raise UserError(f"{path}: has {values.size} different values; is it a scan? Give the folder of the masks")
    labels = frozenset(int(value) for value in values)
    if labels == {255} and not (isinstance(foreground, tuple) and 255 in foreground):
        voxels, labels = (voxels != 0).astype(np.uint8), frozenset({1})
    if foreground is None and not labels <= {1}:
        several = "values" if len(labels) > 1 else "value"
        raise UserError(
            f"{path}: has the {several} {listed(labels)}, but a mask holds 0 and 1, or 0 and 255; say which are the "
            f"tumour with --foreground any or --foreground {listed(labels, ',')} (evaluate, compare, stages)"
        )
    if foreground is None or foreground == "any":
        return Mask(voxels != 0, labels)
    return Mask(np.isin(voxels, foreground), labels)


def turned_to(reference: sitk.Image, reference_path: Path, image: sitk.Image, path: Path) -> sitk.Image:
    """A volume with its axes in the order and direction of another one on the same voxels; no value changes.

    Raises:
        UserError: the two do not have the same voxels, however the axes are turned.
    """
    try:
        check_same_grid(reference, reference_path, image, path)
    except UserError as as_stored:
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(reference.GetDirection())
        turned = sitk.DICOMOrient(image, code)
        try:
            check_same_grid(reference, reference_path, turned, path)
        except UserError:
            raise as_stored from None
        return turned
    return image


def image_of(voxels: np.ndarray, like: sitk.Image) -> sitk.Image:
    """A `(z, y, x)` bool mask as an image on the grid of another one."""
    image = sitk.GetImageFromArray(voxels.astype(np.uint8))
    image.CopyInformation(like)
    return image


def listed(labels: Iterable[int], between: str = ", ") -> str:
    """Labels in order, as a user would write them."""
    return between.join(map(str, sorted(labels)))


def _whole_numbers(voxels: np.ndarray, path: Path) -> np.ndarray:
    """Floating-point labels as the whole numbers that they mean."""
    whole = np.rint(voxels)
    wrong = ~(np.abs(voxels - whole) <= WHOLE_WITHIN)  # this way round NaN is wrong too
    if wrong.any():
        value = voxels[wrong][0]
        raise UserError(
            f"{path}: has the value {value:.9g}, but a mask holds whole numbers; set a threshold if it is a probability"
        )
    if voxels.any() and not whole.any():  # a scale factor in the header: rounding would leave an empty mask
        raise UserError(f"{path}: its largest value is {voxels.max():.9g}, but a mask holds whole numbers; rescale it")
    return whole
