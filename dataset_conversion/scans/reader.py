"""The one way from a file to an image: by content, whole, and with voxels whose size is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.scans.geometry import check_edges, check_header
from dataset_conversion.scans.integrity import Content, check_complete, content_of
from dataset_conversion.scans.nifti_header import NiftiHeader

_KNOWN_BY = {".nii": (".nii", ".nii.gz")}  # names by which ITK takes a file for what it is, where there are several


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies, x first as SimpleITK has it: size in voxels, spacing and origin in mm, direction."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


def read_geometry(path: Path) -> Geometry:
    """Where a volume lies, from its header only.

    Raises:
        UserError: unreadable.
    """
    with _reader(path, content_of(path)) as reader:
        return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def read_with_header(path: Path, pixel_type: int | None = None) -> tuple[sitk.Image, NiftiHeader | None]:
    """Read one whole 3D volume with one value a voxel, and its header where that is NIfTI, whatever it means.

    Args:
        pixel_type: SimpleITK's number of the type to convert to while reading; by default the file's own.

    Raises:
        UserError: unreadable, truncated, not such a volume, or of unknown size or place.
    """
    content = check_complete(path)
    header = content.nifti
    if content.not_finite:
        raise UserError(
            f"{path}: has NaN or infinite voxels ({content.not_finite}), which ITK would read as 0; write 0 there if "
            "they are air, or leave this case out"
        )
    if header is not None and header.dims[0] >= 3:
        check_header(header, path)
    with _reader(path, content) as reader:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or "complex" in kind:
            found = f"{reader.GetDimension()}D, {reader.GetNumberOfComponents()} component(s), {kind}"
            raise UserError(f"{path}: expected one 3D volume of numbers, found {found}; give one 3D file a case")
        check_edges(reader.GetSpacing(), path, 0 if header is None else header.unit)
        if pixel_type is not None:
            reader.SetOutputPixelType(pixel_type)
        return reader.Execute(), header


@contextmanager
def _reader(path: Path, content: Content) -> Iterator[sitk.ImageFileReader]:
    """A reader that has seen the header; a name that hides what the file is from ITK is replaced by a link's."""
    reader = sitk.ImageFileReader()
    with ExitStack() as stack:
        name = path
        if not path.name.endswith(_KNOWN_BY.get(content.ending, content.ending)):
            name = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clisc-")), "volume" + content.ending)
            name.symlink_to(path.absolute())
        reader.SetFileName(str(name))
        try:
            reader.ReadImageInformation()
            yield reader
        except RuntimeError as error:
            if "orthonormal" in str(error):
                raise UserError(f"{path}: the axes of the volume are not orthogonal; resample it first") from error
            raise UserError(f"{path}: cannot be read as an image; replace the file or leave this case out") from error
