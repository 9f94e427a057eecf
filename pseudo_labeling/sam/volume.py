"""SAM's part of the chain on one scan in memory: window, prompts of a rough region, masks (paper 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from pseudo_labeling.roi import Region
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import axial_slices, scan_of


def segment_scan(volume: sitk.Image, roi: np.ndarray, segmenter: SamSegmenter, settings: Settings) -> np.ndarray:
    """The mask that a labelling makes of a scan and its ROI.

    Args:
        volume: one scan, in any orientation.
        roi: `(z, y, x)` bool on its voxels; slices where it is empty stay empty.
        segmenter: SAM, with its settings.
        settings: `window` and `prompts`.

    Returns:
        `(z, y, x)` bool on the same voxels.

    Raises:
        UserError: shapes that differ, and whatever `scan_of` and `axial_slices` refuse.
    """
    scan = scan_of(volume)
    region, shape = np.asarray(roi), volume.GetSize()[::-1]
    if region.shape != shape or region.dtype != bool:
        raise UserError(f"roi: {region.shape} of {region.dtype}, but the image has {shape} voxels; give a bool each")
    given = sitk.GetImageFromArray(region.astype(np.uint8))
    given.CopyInformation(volume)
    slices = axial_slices(scan, settings.window, "image")
    asked = [Region(scan.squares(scan.stack_from_image(given)))]
    mask = segmenter.segment(slices, asked, settings.prompts, scan.pixel_mm).mask
    found: np.ndarray = sitk.GetArrayFromImage(scan.to_file_geometry(scan.from_squares(mask))) > 0
    return found


def volume_of(image: np.ndarray | sitk.Image, spacing: Sequence[float] | None) -> sitk.Image:
    """An image as it is, or an array `(z, y, x)` with its spacing in mm.

    Raises:
        UserError: an array without spacing, an image with one, or other than three axes.
    """
    if isinstance(image, sitk.Image):
        if spacing is not None:
            raise UserError("spacing: a SimpleITK image has its own; leave it out")
        return image
    if spacing is None:
        raise UserError("spacing: an array does not say it; give (z, y, x) in mm")
    voxels = np.asarray(image, dtype=np.float32)
    if voxels.ndim != 3 or len(spacing) != 3:
        raise UserError(f"image: {voxels.ndim} axes, {len(spacing)} spacings; give (z, y, x) of both")
    volume = sitk.GetImageFromArray(voxels)
    volume.SetSpacing([float(mm) for mm in reversed(spacing)])
    return volume
