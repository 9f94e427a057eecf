"""Find, read and check volumes: what a scan must be, what a mask must be, and when the two lie on the same grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import UserError, free_space
from dataset_conversion.files import whole
from dataset_conversion.scans.foreign import foreign_files
from dataset_conversion.scans.geometry import check_edges, numbers, place_by_sform, two_meanings
from dataset_conversion.scans.integrity import check_complete, check_fetched, content_of
from dataset_conversion.scans.reader import read_with_header

EXTENSIONS = (".nii.gz", ".nii", ".mha", ".nrrd")
LABEL_TOLERANCE = 1e-3  # around the whole number that a label is
GRID_TOLERANCE = 1e-3  # mm for spacing and origin, cosines for direction: above float32 rounding, far below a voxel
_CASE_NAME = re.compile(r"\w[\w.+=@() -]*", re.ASCII)


def check_case_name(name: str, where: Path) -> None:
    """Raise unless a case name is safe as part of a file name."""
    if not _CASE_NAME.fullmatch(name) or ".." in name or name != name.strip() or len(name) > 200:
        raise UserError(
            f"{where}: case name {name!r} is not allowed; rename it with at most 200 of the letters a-z and A-Z, "
            "digits, '_', '-' and single '.' only"
        )


def volume_extension(file: Path, extensions: Sequence[str] = EXTENSIONS) -> str | None:
    """The extension if the file's name is that of a volume we read, else `None`."""
    return next((ending for ending in extensions if file.name.lower().endswith(ending)), None)


def list_volumes(
    folder: Path, *, strip_channel: bool = True, extensions: Sequence[str] = EXTENSIONS
) -> dict[str, Path]:
    """Volumes directly in a folder, by case name.

    Args:
        strip_channel: take nnU-Net's channel number `_0000` off the names.
        extensions: of the volumes.

    Raises:
        UserError: no such folder, no volume in it, two files for one case, several channels, an odd name, or a
            link to a file that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the volumes")
    cases: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        ending = volume_extension(file, extensions)
        if ending is None or file.name.startswith("."):
            continue
        check_fetched(file)
        if not file.is_file():
            continue
        name = file.name[: -len(ending)]
        if strip_channel:
            name = name.removesuffix("_0000")
        check_case_name(name, file)
        if name in cases:
            raise UserError(f"{file}: second file of case {name}, beside {cases[name].name}; keep one of them")
        cases[name] = file
    if not cases:
        if foreign := foreign_files(folder):
            raise UserError(f"{foreign[0]}: is {foreign[1]}, which is not read; {foreign[2]}")
        raise UserError(f"{folder}: holds no {', '.join(extensions)} file; give the folder of the volumes")
    if strip_channel:
        for name, file in cases.items():
            base, _, channel = name.rpartition("_")
            own_number = file.name.startswith(f"{name}_0000.")
            if re.fullmatch(r"\d{4}", channel) and base in cases and not own_number:
                raise UserError(
                    f"{file}: looks like a further channel of case {base}; give the FLAIR files only, or if it is a "
                    f"case of its own, name it {name}_0000{volume_extension(file, extensions)}"
                )
    return cases


def read_image(path: Path, pixel_type: int | None = None) -> sitk.Image:
    """Read one file that must hold one whole 3D volume with one value a voxel, whatever its name ends in.

    Args:
        pixel_type: SimpleITK's number of the type to convert to while reading; by default the file's own.

    Raises:
        UserError: unreadable, truncated, 2D, 4D, or with several values a voxel; or the header means two things.
    """
    image, header = read_with_header(path, pixel_type)
    if header is not None and (trouble := two_meanings(header)):
        raise UserError(
            f"{path}: {trouble}, so programs see it in different places; `nnUNetv2_clisc convert` keeps the sform, "
            "or write the file anew with one of them"
        )
    return image


def read_unified(path: Path) -> sitk.Image:
    """Read one volume, and where its header means two things, place it by the sform: see `what_was_unified`.

    Raises:
        UserError: as `read_image`; only one voxel thick; or the sform that must be taken is sheared.
    """
    image, header = read_with_header(path)
    if min(image.GetSize()) < 2:
        raise UserError(
            f"{path}: only one voxel thick (size {image.GetSize()}); give a 3D volume (pictures: `convert pictures`)"
        )
    if header is not None and two_meanings(header):
        place_by_sform(image, header, path)
        check_edges(image.GetSpacing(), path)
    return image


def what_was_unified(path: Path) -> str:
    """In words how the header of a readable file contradicts itself; empty where it does not."""
    header = content_of(path).nifti
    return "" if header is None else two_meanings(header)


def may_be_copied(path: Path) -> bool:
    """Whether a readable file may become `.nii.gz` as it is: a compressed NIfTI in mm whose header means one thing."""
    content = content_of(path)
    return (
        content.compressed_nifti
        and content.nifti is not None
        and content.nifti.unit in (0, 2)
        and not (two_meanings(content.nifti))
    )


def write_image_with(
    write: Callable[[Path], object], path: Path, before: Callable[[Path], object] | None = None
) -> None:
    """Let a function write an image file, and give it its name once it is known to be whole.

    ITK's NIfTI writer says nothing when a disk is full, and its reader takes a truncated file without complaint.

    Args:
        write: called with the path to write to.
        path: of the image.
        before: as in :func:`whole`.

    Raises:
        UserError: it did not get to the disk, e.g. because that is full.
    """
    with whole(path, before) as temporary:
        try:
            write(temporary)
            check_complete(temporary)
        except (RuntimeError, UserError) as error:
            raise UserError(
                f"{path}: could not be written whole ({free_space(path)}); make room or check its rights, and run the "
                "same command again"
            ) from error


def write_image(image: sitk.Image, path: Path, before: Callable[[Path], object] | None = None) -> None:
    """Write a compressed image whole or not at all; `before` as in :func:`dataset_conversion.files.whole`.

    Raises:
        UserError: it did not get to the disk, e.g. because that is full.
    """
    write_image_with(lambda temporary: sitk.WriteImage(image, str(temporary), useCompression=True), path, before)


def check_scan(image: sitk.Image, path: Path) -> None:
    """Raise if a scan has NaN or infinite voxels, or only one value."""
    voxels = sitk.GetArrayViewFromImage(image)
    if not all(np.isfinite(each).all() for each in voxels):  # a slice at a time, for memory
        raise UserError(f"{path}: has NaN or infinite voxels; repair this case or leave it out")
    if voxels.min() == voxels.max():
        raise UserError(f"{path}: every voxel has the value {voxels.min():g}; leave this case out")


def binarise_mask(mask: sitk.Image, path: Path) -> np.ndarray:
    """Whole tumour of a label map: `(z, y, x)` uint8, 1 where the label is above 0.

    Values within 1e-3 of a whole number are that number: resampling and scaling leave 0.99999994 for 1.

    Raises:
        UserError: the values are not the whole numbers from 0 up that a label map has.
    """
    voxels = sitk.GetArrayViewFromImage(mask)
    if voxels.dtype.kind != "f":
        labels = voxels
    else:
        labels = np.rint(voxels)
        if not np.isfinite(voxels).all() or (np.abs(voxels - labels) > LABEL_TOLERANCE).any():
            raise _not_a_mask(path)
        if voxels.any() and not labels.any():  # a scale factor in the header: rounding would leave an empty mask
            raise UserError(f"{path}: not a mask (its largest value is {voxels.max():.9g}); give labels 0, 1, 2, …")
    if labels.min() < 0:
        raise _not_a_mask(path)
    return (labels > 0).astype(np.uint8)


def _not_a_mask(path: Path) -> UserError:
    return UserError(f"{path}: not a mask (negative, fractional or NaN values); give labels 0, 1, 2, …")


def check_same_grid(first: sitk.Image, first_path: Path, second: sitk.Image, second_path: Path) -> None:
    """Raise unless two volumes have the same shape and the same place in space."""
    if first.GetSize() != second.GetSize():
        raise UserError(
            f"{second_path}: shape {second.GetSize()} differs from {first.GetSize()} of {first_path}; "
            "bring both to the same grid"
        )
    for what in ("Spacing", "Origin", "Direction"):
        ours, theirs = (np.array(getattr(image, f"Get{what}")()) for image in (first, second))
        if not np.allclose(ours, theirs, rtol=0, atol=GRID_TOLERANCE):
            raise UserError(
                f"{second_path}: {what.lower()} {numbers(theirs)} differs from {numbers(ours)} of {first_path}; "
                "bring both to the same grid"
            )
