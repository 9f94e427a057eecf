"""BIDS trees: `sub-*/[ses-*/]anat/*_FLAIR.nii[.gz]`, with lesion masks from a derivative where one is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.raw.dataset import CaseSource, ConversionSummary, check_masks_given, unused_masks, write_dataset
from dataset_conversion.raw.splits import choose_split
from dataset_conversion.raw.target import prepare_target
from dataset_conversion.scans.integrity import check_fetched
from dataset_conversion.scans.volumes import check_case_name

_NIFTI = re.compile(
    r"(?P<stem>sub-[A-Za-z0-9]+(?:_[A-Za-z0-9]+-[A-Za-z0-9]+)*)(?:_FLAIR)?_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?"
)
_MASK_SUFFIXES = ("mask", "dseg", "roi", "msk", "seg", "lesion")
_OF_MASKS_ONLY = ("space", "desc", "label", "res", "den", "seg", "atlas")  # say what a mask is, not whose
_NO_LESION = re.compile(r"(?:desc|label)-(?:brain|head|face|defac\w*|GM|WM|CSF)(?:_|$)", re.IGNORECASE)


def convert_bids(
    source: Path,
    *,
    dataset_id: int,
    name: str,
    labels: Path | None = None,
    split: Path | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
) -> ConversionSummary:
    """Convert every FLAIR scan of a BIDS data set; a case is named by its file up to `_FLAIR`.

    Args:
        source: the folder of the folders `sub-*`.
        labels: a folder of masks, mostly below `derivatives`: files anywhere in it named after subject and session
            (and acquisition, run, ... where they say so), ending in `_mask`, `_dseg`, `_roi`, `_msk`, `_seg` or
            `_lesion`. Masks of the brain, by their `desc` or `label`, are passed over.
        split, fullsup_id, seed: as for `convert folder`; sessions of a subject stay together.

    Raises:
        UserError: no FLAIR scan, no or several masks that fit, or see `choose_split` and `write_dataset`.
    """
    source = Path(source)
    target = prepare_target(dataset_id, name, fullsup_id)
    check_masks_given(labels, fullsup_id)
    scans = _find_scans(source)
    masks = {} if labels is None else _find_masks(Path(labels), scans)
    cases = {case: CaseSource(case, path, masks.get(case)) for case, path in scans.items()}
    chosen = choose_split(None if split is None else Path(split), cases, seed=seed)
    notes = unused_masks(labels, fullsup_id, chosen)
    return write_dataset(target, cases, chosen, source="bids", notes=notes, seed=seed)


def _find_scans(source: Path) -> dict[str, Path]:
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder of the folders sub-* to --source")
    found: dict[str, Path] = {}
    for path in sorted([*source.glob("sub-*/anat/*"), *source.glob("sub-*/ses-*/anat/*")]):
        match = _NIFTI.fullmatch(path.name)
        if match is None or match["suffix"] != "FLAIR":
            continue
        check_fetched(path)
        case = match["stem"]
        check_case_name(case, path)
        if case in found:
            raise UserError(f"{path}: second file of case {case}, beside {found[case].name}; keep one of them")
        found[case] = path
    if not found:
        raise UserError(
            f"{source}: has no sub-*/[ses-*/]anat/*_FLAIR.nii.gz; give the top folder of a BIDS data set to --source"
        )
    return found


def _find_masks(labels: Path, scans: Mapping[str, Path]) -> dict[str, Path]:
    if not labels.is_dir():
        raise UserError(f"--labels {labels}: no such folder; give the folder that holds the masks")
    candidates: dict[str, list[tuple[dict[str, str], Path]]] = {}
    for path in sorted(labels.rglob("sub-*.nii*")):
        match = _NIFTI.fullmatch(path.name)
        if match is None or match["suffix"] not in _MASK_SUFFIXES or _NO_LESION.search(match["stem"]):
            continue
        check_fetched(path)
        entities = _entities(match["stem"])
        candidates.setdefault(entities["sub"], []).append((entities, path))
    found: dict[str, Path] = {}
    for case in scans:
        entities = _entities(case)
        fitting = [path for said, path in candidates.get(entities["sub"], []) if _fits(said, entities)]
        if len(fitting) > 1:
            raise UserError(
                f"{fitting[1]}: second mask of {case}, beside {fitting[0].name}; give --labels a folder with lesion "
                "masks only"
            )
        if fitting:
            found[case] = fitting[0]
    if not found:
        raise UserError(f"--labels {labels}: no mask is named like a scan (sub-..._mask.nii.gz); rename them")
    return found


def _fits(mask: Mapping[str, str], scan: Mapping[str, str]) -> bool:
    """Whether a mask is of a scan: the same session, and no other entity that contradicts the scan's."""
    if mask.get("ses") != scan.get("ses"):
        return False
    return all(scan.get(key) == value for key, value in mask.items() if key not in _OF_MASKS_ONLY)


def _entities(stem: str) -> dict[str, str]:
    return {key: value for key, _, value in (part.partition("-") for part in stem.split("_"))}
