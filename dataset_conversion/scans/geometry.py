"""Headers that mean two things: which volumes lie in one place only, and what is done about the others.

A NIfTI header has two transforms from voxel to space. ITK takes the sform where its code is 1 or the qform is unused,
and the qform otherwise; the voxel's size it always takes from pixdim. nibabel and most viewers take the sform wherever
it is used, and the voxel's size with it. Where the answers differ, a mask drawn in one program is elsewhere in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.scans.nifti_header import CODES, FIRST_VOXEL, MILLIMETRES, UNITS, NiftiHeader

APART = 0.1  # of the shortest edge of a voxel: corners further apart under two transforms are in two places
EDGES_MM = (0.01, 50.0)  # of a voxel of any head, a mouse's included
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_header(header: NiftiHeader, path: Path) -> None:
    """Raise where a header does not say where its volume lies, or how large a voxel is.

    Raises:
        UserError: a code of qform or sform that the standard does not know, which ITK takes for used and nibabel
            for unused; pixdim that is 0, negative or NaN; a used transform that is not finite or is flat; voxels that
            would begin inside the header.
    """
    if not FIRST_VOXEL <= header.data_offset < 1e9:
        raise UserError(
            f"{path}: its header lets the voxels begin at byte {header.data_offset:g}, not at {FIRST_VOXEL} or later; "
            "write the file anew"
        )
    for name, code in zip(("qform", "sform"), header.codes, strict=True):
        if code not in CODES:
            raise UserError(f"{path}: its {name}_code is {code}, not 0 to {CODES[-1]}; mend the header")
    used = max(1, min(3, header.dims[0]))
    edges = header.pixdim[:used]
    if not (np.isfinite(edges).all() and (edges > 0).all()):
        raise UserError(
            f"{path}: its header gives voxels of {numbers(edges)} (pixdim), so their size is unknown; mend the header"
        )
    for name, affine in (("qform", header.qform), ("sform", header.sform)):
        if affine is None:
            continue
        if not np.isfinite(affine).all():
            raise UserError(f"{path}: its {name} holds NaN or infinity; mend the header")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-6 * header.pixdim.prod():
            raise UserError(f"{path}: its {name} is flat (a voxel has no volume under it); mend the header")


def two_meanings(header: NiftiHeader) -> str:
    """In words how a checked header contradicts itself; empty where every program sees the volume in one place."""
    if header.sform is None:
        return ""
    columns = np.linalg.norm(header.sform[:3, :3], axis=0)
    resized = header.sform.copy()
    resized[:3, :3] *= header.pixdim / columns
    unit = MILLIMETRES.get(header.unit, 1.0)
    if _apart(header, header.sform, resized):
        return f"voxels are {numbers(header.pixdim * unit)} mm by pixdim and {numbers(columns * unit)} mm by the sform"
    if header.qform is not None and (apart := _apart(header, header.sform, header.qform)):
        return f"sform and qform place it up to {apart * unit:.3g} mm apart"
    return ""


def _apart(header: NiftiHeader, first: np.ndarray, second: np.ndarray) -> float:
    """How far apart two transforms place the volume's corners, in the header's unit; 0 where that does not matter."""
    apart = float(np.linalg.norm(((first - second) @ header.corners)[:3], axis=0).max())
    return apart if apart > APART * header.pixdim.min() else 0.0


def place_by_sform(image: sitk.Image, header: NiftiHeader, path: Path) -> None:
    """Move an image to where its header's sform has it, as nibabel and most viewers do.

    Raises:
        UserError: the sform is sheared, which no image with a spacing and three directions can be.
    """
    if header.sform is None:
        raise ValueError("the header has no sform")
    affine = _TO_LPS @ header.sform
    affine[:3] *= MILLIMETRES.get(header.unit, 1.0)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    direction = left @ right  # the nearest to it with three axes at right angles
    straight = affine.copy()
    straight[:3, :3] = direction * spacing
    apart = np.linalg.norm(((affine - straight) @ header.corners)[:3], axis=0).max()
    if apart > APART * spacing.min():
        raise UserError(f"{path}: its sform is sheared, so its axes are not orthogonal; resample it first")
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())


def check_edges(spacing: Sequence[float], path: Path, unit: int = 0) -> None:
    """Raise where the edges of a voxel cannot be millimetres.

    Args:
        spacing: as it was read, in what should be mm.
        unit: the header's code of the unit that was heeded in reading; 0 = none.

    Raises:
        UserError: too long or too short, with the unit that they look like.
    """
    edges = np.asarray(spacing, dtype=float)
    if _plausible(edges):
        return
    raw = edges / MILLIMETRES.get(unit, 1.0)
    likely = next((UNITS[code] for code in (2, 1, 3) if code != unit and _plausible(raw * MILLIMETRES[code])), "")
    said = f", since its header says {UNITS[unit]}" if unit in (1, 3) else ""
    looks = f"; its numbers {numbers(raw)} look like {likely}" if likely else ""
    raise UserError(
        f"{path}: voxels of {numbers(edges)} mm{said}, which no head scan has{looks}; write the volume in mm"
    )


def _plausible(edges: np.ndarray) -> bool:
    return bool((edges >= EDGES_MM[0]).all() and (edges <= EDGES_MM[1]).all())


def numbers(values: np.ndarray) -> str:
    """A vector in a message."""
    return "(" + ", ".join(f"{value:.7g}" for value in values) + ")"
