"""SAM-Seg similarity-based filtering, S3F (paper 2.3): which predictions of round 1 are trusted in round 2.

A prediction is trusted as far as SAM, prompted from it, draws the same thing. Nothing here knows the network or reads
a mask made by hand: images and predictions come in, similarities and a list of cases go out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib import style

from dataset_conversion.errors import UserError
from dataset_conversion.files import write_json, write_text
from nnunetv2_clisc.scoring.metrics import dice
from pseudo_labeling.prompts import prompts_from_roi
from pseudo_labeling.run.overlays import save_overlay
from pseudo_labeling.settings import PromptSettings, WindowSettings
from pseudo_labeling.slices import Grid, read_shown, write_mask

Segment = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Images as :class:`Shown` has them, a ROI `(z, y, x)` bool and the edge of a pixel in mm to SAM's masks, bool."""


@dataclass(frozen=True)
class Agreement:
    """How far SAM and the network agree on one case; similarity and SAM voxels are None without S3F."""

    case: str
    predicted_voxels: int
    sam_voxels: int | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class Shown:
    """What SAM is shown of one case.

    Attributes:
        grid: of the scan.
        images: `(z, y, x)` uint8 at square pixels; of a picture `(1, y, x, 3)`.
        prediction: `(z, y, x)` bool on the scan's own grid.
    """

    grid: Grid
    images: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class Decision:
    """What becomes of one case in round 2."""

    agreement: Agreement
    kept: bool
    reason: str = ""


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Volume Dice of two masks (paper 2.3, F); 0 when both are empty, since nothing then speaks for the case.

    Args:
        first: `(z, y, x)` bool.
        second: `(z, y, x)` bool.
    """
    return dice(first, second, both_empty=0.0)


def read_case(files: Sequence[Path], prediction: Path, window: WindowSettings) -> Shown:
    """Read what SAM is shown of one case.

    Args:
        files: the raw scan, or the channels of a picture.
        prediction: the network's mask on the raw scan's grid.
        window: the window that the first pass showed to SAM.

    Raises:
        UserError: the scan is missing, unreadable, or of another shape than its prediction.
    """
    for image in files:
        if not image.is_file():
            raise UserError(f"{image}: the scan is missing; S3F shows it to SAM, so put it back")
    grid, images = read_shown(files, window)
    roi = grid.stack_from_image(sitk.ReadImage(str(prediction)))
    if roi.shape != grid.shape:
        raise UserError(f"{files[0]}: {grid.shape} voxels, but its prediction has {roi.shape}; preprocess again")
    return Shown(grid, images, roi)


def compare_case(case: str, shown: Shown, sam_mask: Path, segment: Segment) -> Agreement:
    """Prompt SAM from one prediction, write its mask on the scan's grid, and measure how similar the two are.

    Args:
        case: name of the case.
        shown: its scan and prediction.
        sam_mask: file to write.
        segment: SAM with the first pass's prompts.
    """
    grid, roi = shown.grid, shown.prediction
    squares = segment(shown.images, grid.squares(roi), grid.pixel_mm)
    write_mask(grid, squares, sam_mask)
    mask = grid.from_squares(squares)
    return Agreement(case, int(roi.sum()), int(mask.sum()), similarity(roi, mask))


def decide(agreements: Sequence[Agreement], beta: float) -> tuple[float, list[Decision]]:
    """Keep the cases whose similarity reaches the β-th percentile of all similarities (paper 2.3, T_β).

    An empty prediction has similarity 0 and is never kept. β = 0 filters nothing else; with β > 0 a case without any
    overlap is dropped too, also when so many have none that the threshold is 0.

    Args:
        agreements: one for each training case.
        beta: percentile in [0, 100].

    Returns:
        The threshold, and one decision for each case, ordered by case.

    Raises:
        UserError: no case is left.
    """
    ordered = sorted(agreements, key=lambda a: a.case)
    values = {a.case: a.similarity or 0.0 for a in ordered}
    threshold = float(np.percentile(list(values.values()), beta))
    decisions = []
    for agreement in ordered:
        value = values[agreement.case]
        if agreement.predicted_voxels == 0:
            reason = "empty prediction"
        elif value < threshold or (value == 0.0 and beta > 0):
            reason = f"similarity below {threshold:.6f}" if threshold > 0 else "no overlap with SAM"
        else:
            reason = ""
        decisions.append(Decision(agreement, reason == "", reason))
    if not any(d.kept for d in decisions):
        empty = sum(a.predicted_voxels == 0 for a in ordered)
        raise UserError(
            f"S3F keeps none of {len(ordered)} training cases ({empty} with an empty prediction): look at the "
            "pseudo-labels in labelsTr and at round_1/progress.png, then make labels or train again"
        )
    return threshold, decisions


def keep_all(agreements: Sequence[Agreement]) -> list[Decision]:
    """Every case goes into round 2, as in the paper's ablation without S3F."""
    return [Decision(a, True) for a in sorted(agreements, key=lambda a: a.case)]


def write_results(folder: Path, decisions: Sequence[Decision], summary: Mapping[str, Any]) -> None:
    """Write the table and the summary, `similarities.csv` and `summary.json`; the same input gives the same bytes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "similarity", "kept", "predicted_voxels", "sam_voxels", "reason"])
    for d in decisions:
        a = d.agreement
        value = "" if a.similarity is None else f"{a.similarity:.6f}"
        voxels = "" if a.sam_voxels is None else a.sam_voxels
        table.writerow([a.case, value, int(d.kept), a.predicted_voxels, voxels, d.reason])
    write_text(folder / "similarities.csv", text.getvalue())
    kept = [d.agreement.case for d in decisions if d.kept]
    dropped = [d.agreement.case for d in decisions if not d.kept]
    write_json(folder / "summary.json", {**summary, "kept": kept, "dropped": dropped}, sort_keys=True)


def kept_cases(folder: Path) -> list[str]:
    """The training list of round 2, as written by :func:`write_results`.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "summary.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["kept"]
        if not kept or not all(isinstance(case, str) and case for case in kept):
            raise ValueError("no list of cases")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: does not say which cases S3F keeps; put "s3f" for "round_2" in '
            f"{folder.parent / 'clisc_state.json'} and run the same command: it is made anew from s3f/cases"
        ) from error
    return list(kept)


def save_agreement(folder: Path, agreement: Agreement) -> None:
    """Mark a case as finished."""
    write_json(folder / f"{agreement.case}.json", asdict(agreement), sort_keys=True)


def load_agreement(folder: Path, case: str) -> Agreement | None:
    """What was found for a case; None when it is not finished, or its record is damaged or of something else."""
    try:
        found = Agreement(**json.loads((folder / f"{case}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    counts = (found.predicted_voxels, *(() if found.sam_voxels is None else (found.sam_voxels,)))
    sound = found.case == case and all(type(count) is int and count >= 0 for count in counts)
    if found.similarity is not None:
        sound = sound and type(found.similarity) in (int, float) and 0 <= found.similarity <= 1
    return found if sound else None


def draw_case(
    picture: Path,
    decision: Decision,
    files: Sequence[Path],
    prediction: Path,
    sam_mask: Path,
    window: WindowSettings,
    prompts: PromptSettings,
) -> None:
    """Draw a dropped case for review: image, prediction with prompts, SAM's mask."""
    shown = read_case(files, prediction, window)
    grid, images, roi = shown.grid, shown.images, shown.grid.squares(shown.prediction)
    mask = grid.squares(grid.stack_from_image(sitk.ReadImage(str(sam_mask))))
    asked = prompts_from_roi(roi, images, prompts, grid.pixel_mm)
    title = f"{decision.agreement.case}: {decision.reason} (similarity {decision.agreement.similarity or 0:.3f})"
    with style.context("default"):  # nnU-Net's progress.png leaves its own fonts and colours behind
        save_overlay(picture, images, roi=roi, prompts=asked, mask=mask, title=title)
