"""Small real image files for tests, and a look at what is in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.errors import UserError

SPACING = (0.9, 0.8, 3.0)
ORIGIN = (-90.5, 126.25, -72.0)
# A proper rotation about no axis of the grid, as in a scan planned obliquely.
OBLIQUE = (0.8, -0.6, 0.0, 0.48, 0.64, -0.6, 0.36, 0.48, 0.8)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
LEFT_HANDED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def voxels(seed: int = 0, shape: tuple[int, int, int] = (5, 8, 9)) -> np.ndarray:
    """A `(z, y, x)` int16 scan of noise."""
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def cube(shape: tuple[int, int, int] = (5, 8, 9), value: int = 1) -> np.ndarray:
    """A `(z, y, x)` uint8 mask with a block of one label."""
    mask = np.zeros(shape, np.uint8)
    mask[1:4, 2:6, 3:7] = value
    return mask


def write(
    path: Path,
    array: np.ndarray,
    *,
    spacing: tuple[float, ...] = SPACING,
    origin: tuple[float, ...] = ORIGIN,
    direction: tuple[float, ...] = OBLIQUE,
) -> Path:
    """Write a `(z, y, x)` array as a volume with a geometry; makes the folder."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write_upright(
    path: Path, array: np.ndarray, order: str = "LPS", spacing: tuple[float, ...] = (1.0, 1.0, 5.0)
) -> Path:
    """Write an upright array `(z, y, x)` in another storage order: the same patient; makes the folder."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-30.0, 12.0, 5.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, order), str(path))
    return path


def read(path: Path) -> np.ndarray:
    """Voxels `(z, y, x)` of a file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def geometry(path: Path) -> np.ndarray:
    """Spacing, origin and direction of a file in one vector."""
    image = sitk.ReadImage(str(path))
    return np.array([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def unmade_nnunet_folders(parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point nnU-Net at `raw` and `pre` in a folder that does not exist yet, and at no results; returns that folder."""
    for variable, folder in (("nnUNet_raw", "raw"), ("nnUNet_preprocessed", "pre")):
        monkeypatch.setenv(variable, str(parent / "nn" / folder))
    monkeypatch.delenv("nnUNet_results", raising=False)
    return parent / "nn"


@contextmanager
def nothing_is_made(nnunet: Path, message: str) -> Iterator[None]:
    """Inside, a conversion is refused in one line that matches; it leaves nothing where datasets go."""
    with pytest.raises(UserError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert [*nnunet.glob("*/*"), *nnunet.glob("*/.*")] == []


def write_nifti(
    path: Path,
    array: np.ndarray,
    *,
    sform: np.ndarray | None = None,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] = (1, 1),
    unit: str = "mm",
    pixdim: tuple[float, ...] | None = None,
) -> Path:
    """Write a `(z, y, x)` array with the header fields as given, by nibabel; codes of sform and qform, RAS affines."""
    image = nibabel.Nifti1Image(np.asarray(array).T, None)
    if qform is not None:
        image.header.set_qform(qform, codes[1])
    if sform is not None:
        image.header.set_sform(sform, codes[0])
        if qform is None:
            image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    image.header.set_xyzt_units(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def affine(spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = (90.0, -120.0, -70.0)) -> np.ndarray:
    """An oblique RAS affine `(4, 4)`, as nibabel has it."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(OBLIQUE).reshape(3, 3) * spacing
    matrix[:3, 3] = origin
    return matrix
