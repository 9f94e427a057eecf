"""Find, read and check volumes: what a scan must be, what a mask must be, and when the two lie on the same grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import ConversionError
from dataset_conversion.files import write_image_with
from dataset_conversion.integrity import check_complete

EXTENSIONS = (".nii.gz", ".nii", ".mha", ".nrrd")
GRID_TOLERANCE = 1e-3  # mm for spacing and origin, cosines for direction: above float32 rounding, far below a voxel
_CASE_NAME = re.compile(r"\w[\w.+=@() -]*", re.ASCII)


def check_case_name(name: str, where: Path) -> None:
    """Raise unless a case name is safe as part of a file name."""
    if not _CASE_NAME.fullmatch(name) or ".." in name or name != name.strip() or len(name) > 200:
        raise ConversionError(
            f"{where}: case name {name!r} is not allowed; use letters, digits, '_', '-' and single '.' only"
        )


def volume_extension(file: Path) -> str | None:
    """The extension if the file's name is that of a volume we read, else `None`."""
    return next((ending for ending in EXTENSIONS if file.name.lower().endswith(ending)), None)


def list_volumes(folder: Path, *, strip_channel: bool = True) -> dict[str, Path]:
    """Volumes directly in a folder, by case name.

    Args:
        strip_channel: take nnU-Net's channel number `_0000` off the names.

    Raises:
        ConversionError: no such folder, no volume in it, two files for one case, several channels, or an odd name.
    """
    if not folder.is_dir():
        raise ConversionError(f"{folder}: no such folder; give the folder that holds the volumes")
    cases: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        ending = volume_extension(file)
        if ending is None or file.name.startswith(".") or not file.is_file():
            continue
        name = file.name[: -len(ending)]
        if strip_channel:
            name = name.removesuffix("_0000")
        check_case_name(name, file)
        if name in cases:
            raise ConversionError(f"{file}: second file of case {name}, beside {cases[name].name}; keep one of them")
        cases[name] = file
    if not cases:
        raise ConversionError(f"{folder}: holds no {', '.join(EXTENSIONS)} file; give the folder of the volumes")
    if strip_channel:
        for name, file in cases.items():
            base, _, channel = name.rpartition("_")
            if re.fullmatch(r"\d{4}", channel) and base in cases:
                raise ConversionError(f"{file}: looks like a further channel of case {base}; give the FLAIR files only")
    return cases


def read_volume(path: Path) -> sitk.Image:
    """Read one file that must hold one whole 3D volume with one value a voxel.

    Raises:
        ConversionError: unreadable, truncated, 2D, 4D, or with several values a voxel.
    """
    check_complete(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise ConversionError(f"{path}: the axes of the volume are not orthogonal; resample it first") from error
        raise ConversionError(f"{path}: cannot be read as an image; replace the file or leave this case out") from error
    kind = image.GetPixelIDTypeAsString()
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or "complex" in kind:
        found = f"{image.GetDimension()}D, {image.GetNumberOfComponentsPerPixel()} component(s), {kind}"
        raise ConversionError(f"{path}: expected one 3D volume of numbers, found {found}; give one 3D volume a case")
    if min(image.GetSize()) < 2:
        raise ConversionError(f"{path}: only one voxel thick (size {image.GetSize()}); give a 3D volume, not a slice")
    return image


def write_image(image: sitk.Image, path: Path, before: Callable[[Path], object] | None = None) -> None:
    """Write a compressed image whole or not at all; `before` as in :func:`dataset_conversion.files.whole`.

    Raises:
        ConversionError: it did not get to the disk, e.g. because that is full.
    """
    write_image_with(lambda temporary: sitk.WriteImage(image, str(temporary), useCompression=True), path, before)


def check_scan(image: sitk.Image, path: Path) -> None:
    """Raise if a scan has NaN or infinite voxels, or only one value."""
    voxels = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(voxels).all():
        raise ConversionError(f"{path}: has NaN or infinite voxels; repair this case or leave it out")
    if voxels.min() == voxels.max():
        raise ConversionError(f"{path}: every voxel has the value {voxels.min():g}; leave this case out")


def binarise_mask(mask: sitk.Image, path: Path) -> np.ndarray:
    """Whole tumour of a label map: `(z, y, x)` uint8, 1 where the label is above 0.

    Raises:
        ConversionError: the values are not the whole numbers from 0 up that a label map has.
    """
    voxels = sitk.GetArrayViewFromImage(mask)
    if not np.isfinite(voxels).all() or voxels.min() < 0 or (voxels != np.rint(voxels)).any():
        raise ConversionError(f"{path}: not a mask (negative, fractional or NaN values); give labels 0, 1, 2, …")
    return (voxels > 0).astype(np.uint8)


def check_same_grid(first: sitk.Image, first_path: Path, second: sitk.Image, second_path: Path) -> None:
    """Raise unless two volumes have the same shape and the same place in space."""
    if first.GetSize() != second.GetSize():
        raise ConversionError(
            f"{second_path}: shape {second.GetSize()} differs from {first.GetSize()} of {first_path}; "
            "bring both to the same grid"
        )
    for what in ("Spacing", "Origin", "Direction"):
        ours, theirs = (np.array(getattr(image, f"Get{what}")()) for image in (first, second))
        if not np.allclose(ours, theirs, rtol=0, atol=GRID_TOLERANCE):
            raise ConversionError(
                f"{second_path}: {what.lower()} {_numbers(theirs)} differs from {_numbers(ours)} of {first_path}; "
                "bring both to the same grid"
            )


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in values) + ")"
