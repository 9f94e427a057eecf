"""Scans with their mirror images beside them, as a network of two channels wants them (AISCT-SAM)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.files import check_output, copy_file, whole
from dataset_conversion.raw.dataset import FILE_ENDING, write_channels
from dataset_conversion.scans.mirror import draw, with_mirrored
from dataset_conversion.scans.volumes import check_scan, list_volumes, read_unified, write_image
from dataset_conversion.threads import in_threads

PICTURES = "mirrored"  # folder of PNGs: scan, mirror image, difference
DRAWN = 12  # cases at most


def mirror_folder(images: Path, output: Path, cases: Sequence[str] | None = None) -> list[str]:
    """Write each scan as `CASE_0000.nii.gz` and its registered mirror image as `CASE_0001.nii.gz`.

    For scans to be predicted; `convert folder --mirrored` makes those to train on. Pictures of some cases lie in the
    folder `mirrored`. Every call writes its cases anew, each file whole or not at all.

    Args:
        images: folder of scans, `CASE.nii.gz` or `CASE_0000.nii.gz` (or another format that `convert folder` reads).
        output: folder, made if need be.
        cases: only these.

    Returns:
        The cases written.

    Raises:
        UserError: a scan is not as it must be; those before it are written.
    """
    scans = list_volumes(images)
    check_output(output, {"--images": images})
    chosen = sorted(scans) if cases is None else list(cases)
    output.mkdir(parents=True, exist_ok=True)
    in_threads(_mirror_case, {case: (case, scans[case], output) for case in chosen}, "mirroring")
    draw_some(output, output / PICTURES, chosen)
    return chosen


def _mirror_case(case: str, scan: Path, output: Path) -> None:
    image = with_mirrored(scan, read_unified)
    check_scan(image, scan)
    write_channels(image, output, case)


def draw_some(images: Path, pictures: Path, cases: Sequence[str] | None = None) -> None:
    """Draw scan, mirror image and difference of some cases of a folder with two channels.

    Args:
        images: folder of `CASE_0000.nii.gz` and `CASE_0001.nii.gz`.
        pictures: folder for `CASE.png`.
        cases: to choose from; by default all of the folder.
    """
    if cases is None:
        cases = sorted(file.name.removesuffix(f"_0001{FILE_ENDING}") for file in images.glob(f"*_0001{FILE_ENDING}"))
    pictures.mkdir(parents=True, exist_ok=True)
    for case in cases[:: max(1, -(-len(cases) // DRAWN))]:
        both = [sitk.DICOMOrient(sitk.ReadImage(str(images / f"{case}_{n:04d}{FILE_ENDING}")), "LPS") for n in (0, 1)]
        with whole(pictures / f"{case}.png") as temporary:
            draw(*(sitk.GetArrayFromImage(each).astype("float32") for each in both)).save(temporary, format="PNG")


def exchange_mirrors(images: Path, output: Path) -> None:
    """Give each scan of a folder with two channels the mirror image of another one: a control.

    The other head's image is laid over the scan by their centres, on the scan's grid.

    Args:
        images: folder of `CASE_0000.nii.gz` and `CASE_0001.nii.gz`.
        output: folder to make, with the same names in it.
    """
    scans = sorted(images.glob(f"*_0000{FILE_ENDING}"))
    jobs = {scan.name: (scan, other, output) for scan, other in zip(scans, [*scans[1:], *scans[:1]], strict=True)}
    output.mkdir(parents=True)
    in_threads(_exchange, jobs, "exchanging")


def _exchange(scan: Path, other: Path, output: Path) -> None:
    first, second = f"_0000{FILE_ENDING}", f"_0001{FILE_ENDING}"
    here, there = sitk.ReadImage(str(scan)), sitk.ReadImage(str(other.with_name(other.name.replace(first, second))))
    moved = sitk.CenteredTransformInitializer(
        here, there, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    least = float(sitk.GetArrayViewFromImage(there).min())
    found = sitk.Resample(there, here, moved, sitk.sitkLinear, least, here.GetPixelID())
    copy_file(scan, output / scan.name)
    write_image(found, output / scan.name.replace(first, second))
