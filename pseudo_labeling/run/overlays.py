"""Pictures a researcher checks labels with: image, CAM, prompts and mask of a few slices of a case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dataset_conversion.files import whole
from pseudo_labeling.prompts import Prompt

ROWS = 4
SPREAD = 7  # from one segment's colour to the next one's, of 20
BLUE, ORANGE = "#4477ff", "#ff9922"  # tell apart with any colour vision, also on grey


def save_overlay(
    path: str | Path,
    images: np.ndarray,
    *,
    cam: np.ndarray | None = None,
    roi: np.ndarray | None = None,
    prompts: Sequence[Prompt | None] | None = None,
    votes: np.ndarray | None = None,
    segments: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Write one PNG with up to four slices of a case, a row each: image, what led to the mask, mask.

    Args:
        path: file to write.
        images: `(z, y, x)` uint8, or `(z, y, x, 3)` in colour.
        cam: `(z, y, x)` float, 0 where there is none.
        roi: `(z, y, x)` bool, drawn as a blue line.
        prompts: one for each slice; box and points in orange, background points as crosses.
        votes: `(z, y, x)`, share of SAM's candidates that mark a pixel, None where there was one candidate.
        segments: `(z, y, x)` int, each pixel's segment, 0 = none, each in a colour of its own.
        mask: `(z, y, x)` bool, drawn as an orange line.
        title: written above.
    """
    occupied = next((a > 0 for a in (mask, roi, cam, segments) if a is not None and a.any()), None)
    rows = representative_slices(occupied, len(images))
    columns = ["image"] + (["CAM"] if cam is not None else [])
    columns += ["ROI and prompts"] if roi is not None or prompts is not None else []
    columns += ["candidates"] if votes is not None else []
    columns += ["segments"] if segments is not None else []
    columns += ["mask"] if mask is not None else []
    figure = Figure(figsize=(2.4 * len(columns), 2.4 * len(rows) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, z in zip(axes, rows, strict=True):
        for axis, column in zip(line, columns, strict=True):
            axis.imshow(images[z], cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
            if z == rows[0]:
                axis.set_title(column, fontsize=9)
            if column == "CAM" and cam is not None:
                axis.imshow(cam[z], cmap="inferno", alpha=0.55, vmin=0, vmax=max(float(cam.max()), 1e-6))
            elif column == "ROI and prompts":
                if roi is not None and roi[z].any():
                    axis.contour(roi[z], [0.5], colors=BLUE, linewidths=1)
                if prompts is not None:
                    _draw_prompt(axis, prompts[z])
            elif column == "candidates" and votes is not None:
                axis.imshow(votes[z], cmap="viridis", alpha=0.6, vmin=0, vmax=1)
            elif column == "segments" and segments is not None:
                colours = np.ma.masked_equal(segments[z], 0) * SPREAD % 20  # neighbours differ
                axis.imshow(colours, cmap="tab20", alpha=0.6, vmin=0, vmax=19, interpolation="nearest")
            elif column == "mask" and mask is not None and mask[z].any():
                axis.contour(mask[z], [0.5], colors=ORANGE, linewidths=1.2)
        line[0].set_ylabel(f"slice {z}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    with whole(Path(path)) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def representative_slices(where: np.ndarray | None, depth: int) -> list[int]:
    """Up to four slices spread over the occupied part of a volume (over all of it when nothing is).

    Args:
        where: `(z, y, x)` bool, or None.
        depth: number of slices.
    """
    occupied = np.flatnonzero(where.any(axis=(1, 2))) if where is not None else np.arange(depth)
    picks = np.linspace(0, len(occupied) - 1, min(ROWS, len(occupied)) + 2)[1:-1]
    return sorted({int(occupied[round(p)]) for p in picks})


def _draw_prompt(axis: object, prompt: Prompt | None) -> None:
    if prompt is None:
        return
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=ORANGE, linewidth=1))  # type: ignore[attr-defined]
    if prompt.points is not None and prompt.point_labels is not None:
        for label, marker in ((1, "o"), (0, "x")):
            chosen = prompt.points[prompt.point_labels == label]
            axis.scatter(chosen[:, 0], chosen[:, 1], s=18, c=ORANGE, marker=marker)  # type: ignore[attr-defined]
