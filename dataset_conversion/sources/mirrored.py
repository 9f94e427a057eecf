"""Scans with their mirror images beside them, as a network of two channels wants them (AISCT-SAM)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.files import check_output, whole
from dataset_conversion.raw.dataset import FILE_ENDING, write_channels
from dataset_conversion.scans.mirror import draw, with_mirrored
from dataset_conversion.scans.volumes import check_scan, list_volumes, read_unified
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
