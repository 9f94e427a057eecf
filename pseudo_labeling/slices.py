"""Read a scan, turn it into 8-bit axial slices, and put a stack of masks back into the scan's own geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import ConversionError
from dataset_conversion.reader import voxel_count
from dataset_conversion.volumes import read_image, write_image
from pseudo_labeling.errors import PseudoLabelError
from pseudo_labeling.settings import WindowSettings

AHEAD_VOXELS = 2**26  # of a scan that is read ahead; reading takes up to 12 bytes a voxel


@dataclass(frozen=True)
class Grid:
    """Where the axial slices of a scan lie; everything about a scan but its voxels.

    Attributes:
        shape: `(z, y, x)`; axis 0 counts axial slices from foot to head, y towards posterior, x towards left (LPS), so
            a face looks up.
        geometry: spacing in mm, origin in mm and direction of the reoriented volume, x first, as SimpleITK has them.
        orientation: orientation code of the file, e.g. `LPS` or `RAS`.
    """

    shape: tuple[int, int, int]
    geometry: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    orientation: str

    @property
    def slice_mm(self) -> float:
        """Distance of neighbouring axial slices in mm."""
        return float(self.geometry[0][2])

    def file_slice(self, z: int) -> int:
        """Index of axial slice `z` as the file counts it (a viewer's number): files may run from head to foot."""
        return self.shape[0] - 1 - z if "I" in self.orientation else z

    def to_file_geometry(self, mask: np.ndarray) -> sitk.Image:
        """A `(z, y, x)` stack as a uint8 image on exactly the grid of the scan's file."""
        if mask.shape != self.shape:
            raise ValueError(f"a stack of {mask.shape} voxels does not fit a scan of {self.shape}")
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        spacing, origin, direction = self.geometry
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
        return sitk.DICOMOrient(image, self.orientation)

    def stack_from_image(self, image: sitk.Image) -> np.ndarray:
        """A mask on the grid of the scan's file as a `(z, y, x)` bool stack of axial slices."""
        return stack_from_image(image)


@dataclass(frozen=True)
class Scan(Grid):
    """One volume on its grid.

    Attributes:
        volume: `(z, y, x)` float32.
    """

    volume: np.ndarray

    @property
    def grid(self) -> Grid:
        """The scan without its voxels."""
        return Grid(self.shape, self.geometry, self.orientation)


def read_scan(path: str | Path) -> Scan:
    """Read one 3D scan.

    Raises:
        PseudoLabelError: unreadable, not 3D, with a header that means two things, with NaN or Inf, or constant; the
            message names the file.
    """
    try:
        image = read_image(Path(path), sitk.sitkFloat32)
    except ConversionError as error:
        raise PseudoLabelError(str(error)) from error
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    image = sitk.DICOMOrient(image, "LPS")  # a large scan is copied here and below, so no name keeps the old one
    geometry = (image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    volume = sitk.GetArrayFromImage(image)
    del image
    if not all(np.isfinite(each).all() for each in volume):
        raise PseudoLabelError(f"{path}: has NaN or infinite voxels; repair or leave out this case")
    if volume.min() == volume.max():
        raise PseudoLabelError(f"{path}: every voxel has the value {volume.min():g}; leave out this case")
    return Scan(volume.shape, geometry, orientation, volume)


def read_slices(path: str | Path, settings: WindowSettings = WindowSettings()) -> tuple[Grid, np.ndarray]:
    """Read one scan and keep only what the stages need: its grid and its windowed slices `(z, y, x)` uint8.

    Raises:
        PseudoLabelError: as :func:`read_scan`.
    """
    scan = read_scan(path)
    return scan.grid, window_volume(scan.volume, settings)


def fits_beside_another(path: str | Path) -> bool:
    """Whether a scan is small enough to be read while another one is worked on; reads the header only."""
    try:
        return voxel_count(Path(path)) <= AHEAD_VOXELS
    except ConversionError:
        return False  # reading it will say why


def window_volume(volume: np.ndarray, settings: WindowSettings = WindowSettings()) -> np.ndarray:
    """Map a volume's percentile window to 0-255.

    One window for the whole volume, not one a slice, so that a slice without a lesion does not look bright.

    Args:
        volume: `(z, y, x)` in any unit.

    Returns:
        `(z, y, x)` uint8.
    """
    low = float(np.percentile(volume, settings.lower_percentile))
    head = volume[volume > volume.mean()]
    high = float(np.percentile(head, settings.upper_percentile, overwrite_input=True))
    del head
    windowed = np.empty(volume.shape, dtype=np.uint8)
    for z, each in enumerate(volume):  # a slice at a time: float copies of the volume would not fit in memory
        windowed[z] = np.clip(np.rint((each - low) * (255.0 / max(high - low, 1e-6))), 0, 255)
    return windowed


def stack_from_image(image: sitk.Image) -> np.ndarray:
    """A mask as a `(z, y, x)` bool stack of axial slices, in the order of :class:`Grid`."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")) > 0


def write_mask(scan: Grid, mask: np.ndarray, path: str | Path, before: Callable[[Path], object] | None = None) -> None:
    """Write a `(z, y, x)` stack in the scan's own geometry, whole or not at all; `before` as in `files.whole`."""
    write_image(scan.to_file_geometry(mask), Path(path), before)
