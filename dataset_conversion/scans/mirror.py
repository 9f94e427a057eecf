"""A scan's mirror image across the patient's midline, brought over the scan by a rigid registration (AISCT-SAM).

What both halves of a head share lies on itself then, and what only one half has stands out. Rigid, never deformable: a
deformation would warp away what a lesion does to its surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image

from dataset_conversion.files import copy_file
from dataset_conversion.scans.volumes import write_image
from dataset_conversion.threads import in_threads

CHANNEL = "mirrored"  # the channel's name in dataset.json
SCAN, MIRROR = "_0000.nii.gz", "_0001.nii.gz"  # ends of their names in a folder of both
LEVELS_MM = (8.0, 4.0)  # edges of the voxels that are compared, coarse to fine
TILTS_DEG = tuple(range(-20, 21, 5))  # a head that is turned by 10 degrees has a mirror image turned by 20
SHARE_LEFT_OUT, ROBUST_STEPS = 0.1, 4  # of the voxels, those that fit least, in so many last steps
DARKEST, BRIGHTEST = 1.0, 99.0  # percentiles; what lies outside is cut off where scans are compared
EDGE = 256  # pixels of a picture's panels, at most


class Mirrored(NamedTuple):
    """A scan's mirror image.

    Attributes:
        image: on the scan's grid, in its pixel type; what was outside of the field of view has the scan's least value.
        transform: rigid, from points of the scan to points of the flipped scan.
    """

    image: sitk.Image
    transform: sitk.Euler3DTransform


def mirrored(scan: sitk.Image) -> Mirrored:
    """Flip a scan along the patient's left-right axis, whatever order it is stored in, and register it to the scan.

    Args:
        scan: 3D, one value a voxel.
    """
    flipped = flip_left_right(scan)
    transform = rigid(scan, flipped)
    least = float(sitk.GetArrayViewFromImage(scan).min())
    found = sitk.Resample(
        sitk.Cast(flipped, sitk.sitkFloat32), scan, transform, sitk.sitkLinear, least, sitk.sitkFloat32
    )
    if scan.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64):
        found = sitk.Round(found)
    return Mirrored(sitk.Cast(found, scan.GetPixelID()), transform)


def left_right_axis(scan: sitk.Image) -> int:
    """Which index (x 0, y 1, z 2) runs along the patient's left-right axis."""
    return int(np.abs(np.array(scan.GetDirection()).reshape(3, 3)[0]).argmax())


def flip_left_right(scan: sitk.Image) -> sitk.Image:
    """The voxels in reverse order along the left-right axis, on the same grid."""
    axis = left_right_axis(scan)
    flipped = sitk.GetImageFromArray(np.flip(sitk.GetArrayViewFromImage(scan), 2 - axis))
    flipped.CopyInformation(scan)
    return flipped


def rigid(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """The rotation and shift that bring one scan over another of the same contrast: least mean squares, coarse to fine.

    The same on every machine: in one thread, without random samples.

    Args:
        fixed: the scan that stays.
        moving: the one that is brought over it.

    Returns:
        From points of `fixed` to points of `moving`, in mm.
    """
    grey = [_cut(image) for image in (fixed, moving)]
    coarse = [_coarse(image, LEVELS_MM[0]) for image in grey]
    middle = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            *coarse, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    begins = [_turned(middle, roll, yaw) for roll, yaw in product(TILTS_DEG, TILTS_DEG)]
    transform = min(begins, key=lambda begin: _method(begin).MetricEvaluate(*coarse))
    for edge in LEVELS_MM:
        images = [_coarse(image, edge) for image in grey]
        transform = _closer(images, transform)
    for _ in range(ROBUST_STEPS):  # without what is most unlike: a lesion must not pull the other side over itself
        there = sitk.Resample(images[1], images[0], transform, sitk.sitkLinear, 0.0)
        unlike = sitk.GetArrayFromImage(sitk.Abs(images[0] - there))
        alike = sitk.GetImageFromArray((unlike <= np.quantile(unlike, 1 - SHARE_LEFT_OUT)).astype(np.uint8))
        alike.CopyInformation(images[0])
        transform = _closer(images, transform, alike)
    return transform


def _closer(
    images: Sequence[sitk.Image], begin: sitk.Euler3DTransform, where: sitk.Image | None = None
) -> sitk.Euler3DTransform:
    """From a transform to the nearest one with least mean squares, in the voxels of a mask where there is one."""
    method = _method(begin)
    if where is not None:
        method.SetMetricFixedMask(where)
    method.SetOptimizerAsGradientDescentLineSearch(
        learningRate=1.0,
        numberOfIterations=20,
        convergenceMinimumValue=1e-5,
        convergenceWindowSize=5,
        lineSearchEpsilon=0.1,  # a rough step is enough, more of them follow
        lineSearchMaximumIterations=8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return sitk.Euler3DTransform(sitk.CompositeTransform(method.Execute(*images)).GetNthTransform(0))


def _method(begin: sitk.Euler3DTransform) -> sitk.ImageRegistrationMethod:
    """Mean squares over all voxels, in one thread: sums of several depend on how many there are."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(sitk.Euler3DTransform(begin), inPlace=False)
    return method


def _turned(transform: sitk.Euler3DTransform, roll: float, yaw: float) -> sitk.Euler3DTransform:
    """The transform turned about the front-back and the down-up axis, in degrees; both tilt the midline."""
    turned = sitk.Euler3DTransform(transform)
    turned.SetRotation(0.0, float(np.deg2rad(roll)), float(np.deg2rad(yaw)))
    return turned


def _cut(image: sitk.Image) -> sitk.Image:
    """As float32 between two percentiles, as 0 to 1, so that a few bright voxels do not decide."""
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = np.percentile(voxels, (DARKEST, BRIGHTEST))
    if high <= low:
        low, high = float(voxels.min()), float(voxels.max())
    return sitk.IntensityWindowing(sitk.Cast(image, sitk.sitkFloat32), float(low), float(high), 0.0, 1.0)


def _coarse(image: sitk.Image, edge: float) -> sitk.Image:
    """The image on a grid whose voxels have at least these edges in mm, smoothed for it."""
    spacing = np.array(image.GetSpacing())
    size = np.array(image.GetSize())
    coarse = np.maximum(spacing, np.minimum(edge, spacing * size / 4))  # at least four voxels stay
    sigma = coarse / 2  # also between thick slices, or unturned ones, which need no interpolation, fit best
    for axis in range(3):
        image = sitk.RecursiveGaussian(
            image, float(sigma[axis]), False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
        )
    grid = np.maximum(np.floor(spacing * size / coarse), 1).astype(int)
    start = image.TransformContinuousIndexToPhysicalPoint(((coarse / spacing - 1) / 2).tolist())
    return sitk.Resample(
        image, grid.tolist(), sitk.Transform(), sitk.sitkLinear, start, coarse.tolist(), image.GetDirection(), 0.0,
        sitk.sitkFloat32,
    )  # fmt: skip


def with_mirrored(path: Path, read: Callable[[Path], sitk.Image]) -> sitk.Image:
    """Read a scan, and return it with its mirror image as a second value of each voxel."""
    scan = read(path)
    return sitk.Compose(scan, mirrored(scan).image)


def draw(scan: np.ndarray, other: np.ndarray) -> Image.Image:
    """Scan, mirror image and difference (red: brighter than the other side) of the slice where they differ most.

    The ends are left out: of a tilted head one half of the last slices has no other side in the picture.

    Args:
        scan: `(z, y, x)`, slices along the first axis.
        other: its mirror image.
    """
    low, high = np.percentile(scan, (DARKEST, BRIGHTEST))
    grey = [np.clip((each - low) / max(high - low, 1e-6), 0, 1) for each in (scan, other)]
    difference = grey[0] - grey[1]
    end = len(scan) // 5
    z = end + int(np.abs(difference[end : len(scan) - end]).mean((1, 2)).argmax())
    panels = [np.repeat(each[z][..., None], 3, -1) for each in grey]
    colour = np.stack([np.clip(difference[z], 0, 1), np.zeros_like(difference[z]), np.clip(-difference[z], 0, 1)], -1)
    picture = Image.fromarray((255 * np.concatenate([*panels, colour], 1)).astype(np.uint8))
    factor = min(1.0, EDGE / max(scan.shape[1:]))
    return picture.resize((round(picture.width * factor), round(picture.height * factor)))


def exchange_mirrors(images: Path, output: Path) -> None:
    """Give each scan of a folder with two channels the mirror image of another one: a control.

    The other head's image is laid over the scan by their centres, on the scan's grid.

    Args:
        images: folder of `CASE_0000.nii.gz` and `CASE_0001.nii.gz`.
        output: folder to make, with the same names in it.
    """
    scans = sorted(images.glob(f"*{SCAN}"))
    jobs = {scan.name: (scan, other, output) for scan, other in zip(scans, [*scans[1:], *scans[:1]], strict=True)}
    output.mkdir(parents=True)
    in_threads(_exchange, jobs, "exchanging")


def _exchange(scan: Path, other: Path, output: Path) -> None:
    here, there = sitk.ReadImage(str(scan)), sitk.ReadImage(str(other.with_name(other.name.replace(SCAN, MIRROR))))
    moved = sitk.CenteredTransformInitializer(
        here, there, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    least = float(sitk.GetArrayViewFromImage(there).min())
    found = sitk.Resample(there, here, moved, sitk.sitkLinear, least, here.GetPixelID())
    copy_file(scan, output / scan.name)
    write_image(found, output / scan.name.replace(SCAN, MIRROR))
