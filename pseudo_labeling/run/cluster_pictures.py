"""What a person judges clusters of segments by: some segments of each, and the curve over their number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dataset_conversion.files import whole
from pseudo_labeling.clusters import Clusters
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.overlays import BLUE, ORANGE
from pseudo_labeling.run.segment_pass import read_segments


def save_contact_sheet(
    path: Path, run: RunInputs, case: np.ndarray, number: np.ndarray, clusters: Clusters, shown: int
) -> None:
    """Write one PNG with a row a cluster: some of its segments, drawn at random, each outlined in its slice.

    Args:
        path: file to write.
        run: whose scans are shown.
        case: `(n,)` case of each clustered segment.
        number: `(n,)` its number in that case.
        clusters: of them.
        shown: segments of each cluster.
    """
    rng = np.random.default_rng(run.settings.seed)
    count = len(clusters.centroids)
    drawn = []
    for k in range(count):
        mine = np.flatnonzero(clusters.member == k)
        drawn.append(np.sort(rng.choice(mine, min(shown, len(mine)), replace=False)))
    figure = Figure(figsize=(1.5 * shown + 1, 1.6 * count + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, shown, squeeze=False)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for name in np.unique(case[np.concatenate(drawn)]):
        _, slices = run.read(str(name))
        segments = read_segments(run.files, str(name))
        for k, numbers in enumerate(drawn):
            for column, which in enumerate(numbers):
                if case[which] == name:
                    axis, segment = axes[k, column], number[which]
                    axis.imshow(slices[segments.slice[segment]], cmap="gray", vmin=0, vmax=255)
                    colour = ORANGE if k == clusters.chosen else BLUE
                    axis.contour(segments.mask(segment), [0.5], colors=colour, linewidths=1)
    for k in range(count):
        chosen = " (chosen)" if k == clusters.chosen else ""
        axes[k, 0].set_ylabel(f"{k}{chosen}\nof {int((clusters.member == k).sum())}", fontsize=8)
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def save_error_curve(path: Path, errors: Mapping[int, float], count: int) -> None:
    """Write the sum of squared errors over the number of clusters; the number that was used is marked."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(list(errors), list(errors.values()), "o-", color=BLUE, markersize=4)
    if count in errors:
        axis.plot([count], [errors[count]], "o", color=ORANGE)
    axis.set_xlabel("clusters")
    axis.set_ylabel("sum of squared errors")
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
