"""Read a scan, turn it into 8-bit axial slices, and put a stack of masks back into the scan's own geometry."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.scans.geometry import check_edges
from dataset_conversion.scans.reader import read_geometry
from dataset_conversion.scans.volumes import check_scan, read_image, write_image
from pseudo_labeling.settings import WindowSettings
from pseudo_labeling.window import window_slices

logger = logging.getLogger(__name__)

LONGEST_PIXEL = 25  # times its width; more is a mistake in the header, and would fill the memory with squares
SQUARE_WITHIN = 0.01  # pixels whose sides differ by less are square: networks see no difference
AHEAD_VOXELS = 2**26  # of a scan that is read ahead; reading takes up to 12 bytes a voxel


@dataclass(frozen=True)
class Grid:
    """Where the axial slices of a scan lie; everything about a scan but its voxels.

    Everything two-dimensional (slices, CAMs, ROIs, prompts, SAM's masks) lives on *square* pixels, since networks have
    learned from such: an axial slice of a sagittal or coronal acquisition is stretched otherwise. Files, and Dice
    between masks, are on the scan's own grid. Scans with square pixels have one grid for both.

    Attributes:
        shape: `(z, y, x)`; axis 0 counts axial slices from foot to head, y towards posterior, x towards left (LPS), so
            a face looks up.
        geometry: spacing in mm, origin in mm and direction of the reoriented volume, x first, as SimpleITK has them.
        orientation: orientation code of the file, e.g. `LPS` or `RAS`.
        ignored: voxels that the intensity window left out, in words; where the slices were not made, empty.
    """

    shape: tuple[int, int, int]
    geometry: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    orientation: str
    ignored: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def slice_mm(self) -> float:
        """Distance of neighbouring axial slices in mm."""
        return float(self.geometry[0][2])

    @property
    def pixel_mm(self) -> float:
        """Edge of the slices' square pixels in mm: the smaller spacing within a slice, so that nothing is lost."""
        return round(float(min(self.geometry[0][:2])), 5)  # a header's 0.99999994 is 1

    @property
    def square_shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the slices at square pixels."""
        depth, *sides = self.shape
        x_mm, y_mm, _ = self.geometry[0]
        edge = min(x_mm, y_mm)
        if max(x_mm, y_mm) <= edge * (1 + SQUARE_WITHIN):
            return self.shape
        y, x = (round(side * mm / edge) for side, mm in zip(sides, (y_mm, x_mm), strict=True))
        return depth, y, x

    def squares(self, mask: np.ndarray) -> np.ndarray:
        """A bool stack on the scan's grid `(z, y, x)` at square pixels: each takes the value of the pixel it lies in.

        Raises:
            ValueError: a stack of another shape.
        """
        _check_shape(mask, self.shape)
        for axis in (1, 2):
            if self.square_shape[axis] != self.shape[axis]:
                mask = mask.take(_pixel_of(self.shape[axis], self.square_shape[axis]), axis=axis)
        return mask

    def from_squares(self, mask: np.ndarray) -> np.ndarray:
        """A bool stack at square pixels back on the scan's grid: a pixel is set where at least half of its squares are.

        What :meth:`squares` made comes back exactly.

        Raises:
            ValueError: a stack of another shape.
        """
        _check_shape(mask, self.square_shape)
        for axis in (1, 2):
            if self.square_shape[axis] != self.shape[axis]:
                first = np.searchsorted(_pixel_of(self.shape[axis], self.square_shape[axis]), range(self.shape[axis]))
                counts = np.diff([*first, self.square_shape[axis]])
                counts = counts.reshape([-1 if each == axis else 1 for each in range(3)])
                mask = 2 * np.add.reduceat(mask, first, axis=axis, dtype=np.int32) >= counts
        return mask

    def file_slice(self, z: int) -> int:
        """Index of axial slice `z` as the file counts it (a viewer's number): files may run from head to foot."""
        return self.shape[0] - 1 - z if "I" in self.orientation else z

    def to_file_geometry(self, mask: np.ndarray) -> sitk.Image:
        """A `(z, y, x)` stack on the scan's grid as a uint8 image on exactly the grid of the scan's file."""
        _check_shape(mask, self.shape)
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        spacing, origin, direction = self.geometry
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
        return sitk.DICOMOrient(image, self.orientation)

    @staticmethod
    def stack_from_image(image: sitk.Image) -> np.ndarray:
        """A mask as a `(z, y, x)` bool stack of axial slices on its own grid."""
        return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")) > 0

    def read_mask(self, path: Path, cure: str) -> np.ndarray:
        """A mask file on the grid of the scan's file as a `(z, y, x)` bool stack at square pixels.

        Args:
            path: of the file.
            cure: what the error tells the user to do.

        Raises:
            UserError: unreadable, or of another shape than the scan.
        """
        mask = self.stack_from_image(read_image(path))
        if mask.shape != self.shape:
            raise UserError(f"{path}: {mask.shape} voxels, but its scan has {self.shape}; {cure}")
        return self.squares(mask)


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
        UserError: unreadable, not 3D, with a header that means two things, with NaN or Inf, or constant; the
            message names the file.
    """
    return _upright(partial(read_image, Path(path), sitk.sitkFloat32), path)


def scan_of(image: sitk.Image, name: str = "image") -> Scan:
    """One 3D scan in memory, as :func:`read_scan` has one of a file.

    Args:
        image: one value a voxel, spacing in mm.
        name: of the scan, for messages.

    Raises:
        UserError: not 3D, several values a voxel, of impossible spacing, with NaN or Inf, or constant.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        found = f"{image.GetDimension()}D, {image.GetNumberOfComponentsPerPixel()} value(s) a voxel"
        raise UserError(f"{name}: expected one 3D volume of numbers, found {found}; give one scan")
    check_edges(image.GetSpacing(), Path(name))
    return _upright(partial(sitk.Cast, image, sitk.sitkFloat32), name)


def _upright(read: Callable[[], sitk.Image], path: str | Path) -> Scan:
    """The float32 volume that a function returns, its axes in the order of :class:`Grid`."""
    image = read()  # here, so that nobody else holds it while it is copied
    check_scan(image, Path(path))
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    image = sitk.DICOMOrient(image, "LPS")  # a large scan is copied here and below, so no name keeps the old one
    geometry = (image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    volume = sitk.GetArrayFromImage(image)
    del image
    return Scan(volume.shape, geometry, orientation, volume)


def read_slices(path: str | Path, settings: WindowSettings = WindowSettings()) -> tuple[Grid, np.ndarray]:
    """Read one scan and keep only what the stages need: its grid, and its slices as :func:`axial_slices` makes them.

    Raises:
        UserError: as :func:`read_scan` and :func:`axial_slices`.
    """
    scan = read_scan(path)
    images, ignored = _axial_slices(scan, settings, str(path))
    return replace(scan.grid, ignored=ignored), images


def read_shown(files: Sequence[Path], settings: WindowSettings = WindowSettings()) -> tuple[Grid, np.ndarray]:
    """What the stages see of a case: of a scan as :func:`read_slices`, of a picture its colours as they are.

    Args:
        files: the scan's file, or the three channels R, G, B of a picture.
        settings: of a scan's window.

    Returns:
        The grid, and `(z, y, x)` or, of a picture, `(1, y, x, 3)` uint8.

    Raises:
        UserError: as :func:`read_slices`; a picture of more than 8 bit, or channels of several sizes.
    """
    if len(files) == 1:
        return read_slices(files[0], settings)
    grid = read_grid(files[0])
    channels = [sitk.GetArrayFromImage(read_image(file)) for file in files]
    if any(channel.dtype != np.uint8 or channel.shape != grid.shape for channel in channels):
        raise UserError(f"{files[0]}: its channels are not of 8 bit and one size; `convert pictures` makes such")
    return grid, np.stack(channels, axis=-1)


def grey(images: np.ndarray) -> np.ndarray:
    """Brightness of slices, `(z, y, x)` uint8: what is grey as it is, of `(z, y, x, 3)` the luma (ITU-R BT.601)."""
    if images.ndim == 3:
        return images
    return np.rint(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def axial_slices(scan: Scan, settings: WindowSettings = WindowSettings(), name: str | Path = "scan") -> np.ndarray:
    """The slices of a scan as every network sees them: windowed to 8 bit, at square pixels.

    Args:
        scan: the volume on its grid.
        settings: of the window.
        name: of the scan, for the log line where the window leaves voxels out.

    Returns:
        `(z, y, x)` uint8 of the shape `scan.square_shape`.

    Raises:
        UserError: pixels so long that the header must be wrong.
    """
    return _axial_slices(scan, settings, str(name))[0]


def _axial_slices(scan: Scan, settings: WindowSettings, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    x_mm, y_mm, _ = scan.geometry[0]
    if max(x_mm, y_mm) > LONGEST_PIXEL * min(x_mm, y_mm):
        raise UserError(
            f"{name}: pixels of {x_mm:g} x {y_mm:g} mm in the axial slice cannot be right; correct the header's spacing"
        )
    images, ignored = window_slices(scan.volume, settings)
    if ignored:
        logger.warning("%s: not heeded, and shown as air: %s", name, "; ".join(ignored))
    for axis in (1, 2):
        if scan.square_shape[axis] != scan.shape[axis]:
            images = _interpolated(images, scan.square_shape[axis], axis)
    return images, ignored


def read_grid(path: str | Path) -> Grid:
    """Where the axial slices of a scan lie, from its header alone.

    Raises:
        UserError: no 3D image.
    """
    found = read_geometry(Path(path))
    if len(found.size) != 3:
        raise UserError(f"{path}: expected one 3D volume, found {len(found.size)}D; give one 3D file a case")
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(found.direction)
    order = [next(i for i, letter in enumerate(orientation) if letter in pair) for pair in ("LR", "AP", "IS")]
    x, y, z = (found.size[i] for i in order)
    spacing = tuple(found.spacing[i] for i in order)
    return Grid((z, y, x), (spacing, found.origin, found.direction), orientation)


def fits_beside_another(path: str | Path) -> bool:
    """Whether a scan is small enough to be read while another one is worked on; reads the header only."""
    try:
        return math.prod(read_grid(path).square_shape) <= AHEAD_VOXELS
    except UserError:
        return False  # reading it will say why


def window_volume(volume: np.ndarray, settings: WindowSettings = WindowSettings()) -> np.ndarray:
    """Map a volume's percentile window to 0-255.

    One window for the whole volume, not one a slice, so that a slice without a lesion does not look bright.

    Args:
        volume: `(z, y, x)` in any unit.

    Returns:
        `(z, y, x)` uint8; what is at fault (:mod:`pseudo_labeling.window`) is dark.
    """
    return window_slices(volume, settings)[0]


def read_squares(path: Path) -> np.ndarray:
    """A mask that :func:`write_mask` wrote, `(z, y, x)` bool at square pixels."""
    upright = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    mask = sitk.GetArrayFromImage(upright) > 0
    geometry = (upright.GetSpacing(), upright.GetOrigin(), upright.GetDirection())
    return Grid(mask.shape, geometry, "LPS").squares(mask)


def write_mask(scan: Grid, mask: np.ndarray, path: str | Path, before: Callable[[Path], object] | None = None) -> None:
    """Write a `(z, y, x)` stack at square pixels in the scan's own geometry; `before` as in `files.whole`."""
    write_image(scan.to_file_geometry(scan.from_squares(mask)), Path(path), before)


def _check_shape(stack: np.ndarray, shape: tuple[int, int, int]) -> None:
    if stack.shape != shape:
        raise ValueError(f"a stack of {stack.shape} voxels does not fit a scan of {shape}")


def _pixel_of(pixels: int, squares: int) -> np.ndarray:
    """For each of the squares along an axis, the pixel with its centre; with as many or more, none is empty."""
    pixel: np.ndarray = (2 * np.arange(squares) + 1) * pixels // (2 * squares)
    return pixel


def _interpolated(images: np.ndarray, squares: int, axis: int) -> np.ndarray:
    """Slices `(z, y, x)` uint8, linear between the centres of pixels along an axis."""
    pixels = images.shape[axis]
    place = np.clip((np.arange(squares) + 0.5) * pixels / squares - 0.5, 0, pixels - 1)
    first = np.minimum(place.astype(int), max(pixels - 2, 0))
    second = np.minimum(first + 1, pixels - 1)
    share = (place - first).astype(np.float32)
    share = share[:, None] if axis == 1 else share
    shape = list(images.shape)
    shape[axis] = squares
    result = np.empty(shape, dtype=np.uint8)
    for z, each in enumerate(images):  # a slice at a time: floats of a whole volume would not fit in memory
        near, far = (each.take(index, axis=axis - 1).astype(np.float32) for index in (first, second))
        result[z] = np.rint(near + (far - near) * share)
    return result
