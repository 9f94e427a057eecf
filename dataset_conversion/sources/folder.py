"""Any folder of FLAIR volumes, one file a case, with optional masks and split file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import (
    CaseSource,
    Content,
    ConversionSummary,
    check_masks_given,
    unused_masks,
    write_dataset,
)
from dataset_conversion.raw.splits import choose_split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.foreign import foreign_files
from dataset_conversion.scans.mirror import CHANNEL, with_mirrored
from dataset_conversion.scans.tiff import EXTENSIONS as TIFF_EXTENSIONS
from dataset_conversion.scans.tiff import read_stack
from dataset_conversion.scans.volumes import EXTENSIONS, list_volumes, read_unified
from dataset_conversion.sources.mirrored import PICTURES, draw_some

_EXTENSIONS = (*EXTENSIONS, *TIFF_EXTENSIONS)


def convert_folder(
    images: Path,
    *,
    dataset_id: int,
    name: str,
    labels: Path | None = None,
    split: Path | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    mirrored: bool = False,
) -> ConversionSummary:
    """Convert a folder of `.nii.gz`, `.nii`, `.mha`, `.nrrd` or 3D `.tif` scans.

    A case is named by its file without extension and without `_0000`. Its mask has the same case name; the extension
    may differ. Without a split file every case goes to `imagesTr`, four fifths of them for training, and there are no
    test cases; cases that a split file does not name are left out.

    Args:
        labels: folder of masks, label > 0 = tumour. Only masks of test cases are opened, and with `fullsup_id` those
            of training and validation cases too, so the folder need not hold others.
        split: JSON file `{"train": [...], "val": [...], "test": [...]}`.
        fullsup_id: id of a second dataset with ground truth for training.
        seed: of the random split, where one is drawn.
        spacing: edges of a voxel in mm, z first, for TIFF, which does not say; see `tiff.read_stack`.
        mirrored: give each scan its mirror image as a second channel; see `mirror`.

    Raises:
        UserError: see `prepare_target`, `choose_split` and `write_dataset`.
    """
    images, labels = Path(images), None if labels is None else Path(labels)
    target = prepare_target(dataset_id, name, fullsup_id)
    check_masks_given(labels, fullsup_id)
    scans = list_volumes(images, extensions=_EXTENSIONS)
    masks: dict[str, Path] = {}
    if labels is not None:
        if labels.resolve() == images.resolve():
            raise UserError(f"--labels {labels}: is the folder of the scans; keep the masks in another folder")
        masks = list_volumes(labels, extensions=_EXTENSIONS)
        if not masks.keys() & scans.keys():
            raise UserError(f"--labels {labels}: no mask is named like a scan in {images}; rename them to match")
    if spacing is not None and not any(map(_is_tiff, scans.values())):
        raise UserError(f"--spacing: {images} holds no TIFF, and other formats say it themselves; leave it out")
    cases = {case: _case(case, path, masks.get(case), spacing, mirrored) for case, path in scans.items()}
    chosen = choose_split(None if split is None else Path(split), cases, seed=seed)
    notes = unused_masks(labels, fullsup_id, chosen)
    if foreign := foreign_files(images):
        notes += (f"{foreign[0].name} was left out: it is {foreign[1]}, which is not read; {foreign[2]}",)
    content = Content(channels=("FLAIR", CHANNEL)) if mirrored else Content()
    summary = write_dataset(target, cases, chosen, source="folder", notes=notes, seed=seed, content=content)
    if mirrored:
        draw_some(summary.dataset / "imagesTr", summary.dataset / PICTURES)
    return summary


def _case(name: str, image: Path, mask: Path | None, spacing: Sequence[float] | None, mirrored: bool) -> CaseSource:
    read_scan, read_mask = (
        partial(read_stack, spacing=spacing) if file is not None and _is_tiff(file) else read_unified
        for file in (image, mask)
    )
    return CaseSource(name, image, mask, partial(with_mirrored, read=read_scan) if mirrored else read_scan, read_mask)


def _is_tiff(file: Path) -> bool:
    return file.name.lower().endswith(TIFF_EXTENSIONS)
