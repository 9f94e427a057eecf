"""Baselines that need no dataset: a classical method and SaLIP, on any folder of scans."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_clisc.environment import usable_device
from nnunetv2_clisc.running.labelling import resolve_weights
from nnunetv2_clisc.studies.baselines.folder import BaselineFolder
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.rivals.classical import CLASSES, EDGE_MM, classical_mask
from pseudo_labeling.rivals.salip import Salip, SalipSettings
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import Grid
from pseudo_labeling.weights.checkpoints import read_state_dict
from pseudo_labeling.weights.files import identify, locate
from pseudo_labeling.weights.models import load_clip, load_sam, published_sam


def classical_baseline(images: Path, output: Path, *, classes: int = CLASSES) -> list[Path]:
    """Head mask, multi-Otsu, largest component, one 3D mask a case.

    Args:
        images: folder of scans.
        output: folder that gets `CASE.nii.gz` in the scans' geometry.
        classes: of multi-Otsu.

    Returns:
        The masks, one a case.

    Raises:
        UserError: whatever the user can mend, in one line.
    """

    def segment(_case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
        return classical_mask(slices, (scan.pixel_mm, scan.pixel_mm), classes)

    return BaselineFolder("classical", images, output).run(segment, {"classes": classes, "edge_mm": EDGE_MM})


def salip_baseline(
    images: Path,
    output: Path,
    *,
    weights: str | None = None,
    clip_weights: str | None = None,
    sam_weights: str | None = None,
    points_per_side: int = SalipSettings.points_per_side,
    device: str | None = None,
) -> list[Path]:
    """SaLIP with the weights of `pseudo_label`; slice labels follow the preset that belongs to the CLIP.

    Args:
        images: folder of scans.
        output: folder that gets `CASE.nii.gz` in the scans' geometry.
        weights, clip_weights, sam_weights: as of `pseudo_label`.
        points_per_side: of SAM's grid of prompts; time grows with its square.
        device: `cpu` or `cuda`.

    Returns:
        The masks, one a case.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    specs = resolve_weights(weights, clip_weights, sam_weights, "none")
    where = usable_device(device)
    folder = BaselineFolder("salip", images, output)
    settings = dataclasses.replace(SalipSettings(), points_per_side=points_per_side)
    preset = "embedded" if specs.clip == "embedded" else "paper"
    labelling = Settings().merged(PRESETS[preset]).slice_labels
    salip = Salip(
        load_sam(specs.sam, where).model,
        load_clip(specs.clip, where),
        settings,
        labelling,
        where,
        one_mask=_learned_one_mask(specs.sam),
    )

    def segment(_case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
        return salip.segment(slices, scan.slice_mm)

    facts: dict[str, Any] = {
        "salip": dataclasses.asdict(settings),
        "slice_labels": dataclasses.asdict(labelling),
        "weights": {
            "clip": dataclasses.asdict(identify("clip", specs.clip)),
            "sam": dataclasses.asdict(identify("sam", specs.sam)),
        },
    }
    return folder.run(segment, facts)


def _learned_one_mask(spec: str) -> bool:
    """Whether a SAM is of the embedded kind, which was trained for one mask a prompt only."""
    return published_sam(read_state_dict(locate("sam", spec)[0])) is None
