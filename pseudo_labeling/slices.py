"""Read a scan, turn it into 8-bit axial slices, and put a stack of masks back into the scan's own geometry."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pseudo_labeling.errors import PseudoLabelError
from pseudo_labeling.settings import WindowSettings


@dataclass(frozen=True)
class Scan:
    """One volume, reoriented so that axis 0 counts axial slices from foot to head.

    Attributes:
        volume: `(z, y, x)` float32, y towards posterior and x towards left (LPS), so a face looks up.
        reoriented: the volume as an image, for its geometry in the LPS frame.
        orientation: orientation code of the file, e.g. `LPS` or `RAS`.
    """

    volume: np.ndarray
    reoriented: sitk.Image
    orientation: str

    @property
    def slice_mm(self) -> float:
        """Distance of neighbouring axial slices in mm."""
        return float(self.reoriented.GetSpacing()[2])

    def file_slice(self, z: int) -> int:
        """Index of axial slice `z` as the file counts it (a viewer's number): files may run from head to foot."""
        return len(self.volume) - 1 - z if "I" in self.orientation else z

    def to_file_geometry(self, mask: np.ndarray) -> sitk.Image:
        """A `(z, y, x)` stack as a uint8 image on exactly the grid of the scan's file."""
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.CopyInformation(self.reoriented)
        return sitk.DICOMOrient(image, self.orientation)

    def stack_from_image(self, image: sitk.Image) -> np.ndarray:
        """A mask on the grid of the scan's file as a `(z, y, x)` bool stack of axial slices."""
        return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")) > 0


def read_scan(path: str | Path) -> Scan:
    """Read one 3D scan.

    Raises:
        PseudoLabelError: unreadable, not 3D, with NaN or Inf, or constant; the message names the file.
    """
    try:
        if str(path).endswith(".gz"):
            _check_whole(path)
        image = sitk.ReadImage(str(path))
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise PseudoLabelError(f"{path}: cannot be read as an image; replace the file") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        found = f"{image.GetDimension()}D with {image.GetNumberOfComponentsPerPixel()} value(s) a voxel"
        raise PseudoLabelError(f"{path}: expected one 3D volume, found {found}; give one 3D file a case")
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    reoriented = sitk.DICOMOrient(image, "LPS")
    volume = sitk.GetArrayFromImage(reoriented).astype(np.float32)
    if not np.isfinite(volume).all():
        raise PseudoLabelError(f"{path}: has NaN or infinite voxels; repair or leave out this case")
    if volume.min() == volume.max():
        raise PseudoLabelError(f"{path}: every voxel has the value {volume.min():g}; leave out this case")
    return Scan(volume, reoriented, orientation)


def _check_whole(path: str | Path) -> None:
    """Read a compressed file to its end, where its checksum is: ITK fills what a truncated one lacks with garbage."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def window_volume(volume: np.ndarray, settings: WindowSettings = WindowSettings()) -> np.ndarray:
    """Map a volume's percentile window to 0-255.

    One window for the whole volume, not one a slice, so that a slice without a lesion does not look bright.

    Args:
        volume: `(z, y, x)` in any unit.

    Returns:
        `(z, y, x)` uint8.
    """
    head = volume[volume > volume.mean()]
    low = float(np.percentile(volume, settings.lower_percentile))
    high = float(np.percentile(head, settings.upper_percentile))
    scaled = (volume - low) * (255.0 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def write_mask(scan: Scan, mask: np.ndarray, path: str | Path) -> None:
    """Write a `(z, y, x)` stack in the scan's own geometry, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    sitk.WriteImage(scan.to_file_geometry(mask), str(temporary), useCompression=True)
    os.replace(temporary, path)
