"""How good segments and clusters are against masks: Fig. 3 (a) of UM-SAM, with controls. Evaluation only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunetv2_clisc.scoring.metrics import dice, iou
from nnunetv2_clisc.scoring.tables import NOTHING, Table
from pseudo_labeling.clusters import cluster_segments, nearest
from pseudo_labeling.run.cluster_pass import read_clusters
from pseudo_labeling.run.segment_pass import read_segments
from pseudo_labeling.run.workspace import ENDING, Workspace
from pseudo_labeling.sam.segmenter import cleaned
from pseudo_labeling.sam.segments import Segments, attribute_of, plausible_segments
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import read_grid

THRESHOLDS = (0.3, 0.5, 0.7)  # of the IoU above which a segment counts as the object
SHUFFLES = 5  # repetitions of that control
Choice = dict[str, np.ndarray]
"""Numbers of the segments of each case that make its label."""


@dataclass(frozen=True)
class Judged:
    """The segments of a case beside its mask.

    Attributes:
        segments: all.
        iou: `(n,)` of each with the mask of its slice.
        mask: `(z, y, x)` bool at square pixels.
        plausible: `(m,)` numbers of those that keep to the shape prior.
        attribute: `(n,)` that clusters are chosen by.
    """

    segments: Segments
    iou: np.ndarray
    mask: np.ndarray
    plausible: np.ndarray
    attribute: np.ndarray

    @property
    def features(self) -> np.ndarray:
        """`(m, d)` of the plausible ones."""
        return self.segments.features[self.plausible]


class SegmentStudy:
    """Everything, what the shape prior leaves, and the chosen cluster, against masks and controls.

    Args:
        files: of a dataset that was labelled from segments.
        settings: of its labels.
        gt: folder of masks.
        cases: that have one.
        seed: of the shuffled features.
    """

    def __init__(self, files: Workspace, settings: Settings, gt: Path, cases: Sequence[str], seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.centroids, self.chosen = read_clusters(files)
        self.cases = {case: self._judged(files, case, gt) for case in tqdm(cases, desc="segments", unit="case")}

    def choices(self) -> dict[str, list[Choice]]:
        """What is compared, by its title; of a control several, whose mean counts."""
        clusters = [self._cluster(number) for number in range(len(self.centroids))]
        best = max(clusters, key=self.dsc)
        return {
            "all segments (Ω₀)": [{case: np.arange(len(each.segments)) for case, each in self.cases.items()}],
            "shape prior (Ω_v)": [{case: each.plausible for case, each in self.cases.items()}],
            "chosen cluster (D_p)": [clusters[self.chosen]],
            "control: a cluster at random": clusters,
            "control: features shuffled": [self._shuffled(self.seed + number) for number in range(SHUFFLES)],
            "the best cluster by the masks (no method)": [best],
        }

    def rows(self) -> dict[str, dict[str, Any]]:
        """Segments, precision at each threshold (NaN without segments) and mean DSC of the labels of each choice."""
        return {
            title: {
                "segments": float(np.mean([sum(map(len, choice.values())) for choice in choices])),
                "precision": np.nanmean([self.precision(choice) for choice in choices], axis=0).tolist(),
                "dsc": float(np.mean([self.dsc(choice) for choice in choices])),
            }
            for title, choices in self.choices().items()
        }

    def precision(self, choice: Choice) -> list[float]:
        """Share of the segments that overlap their slice's mask by more than each threshold (UM-SAM, Fig. 3 a)."""
        found = np.concatenate([self.cases[case].iou[numbers] for case, numbers in choice.items()])
        return [float((found > threshold).mean()) if len(found) else float("nan") for threshold in THRESHOLDS]

    def dsc(self, choice: Choice) -> float:
        """Mean DSC of the labels that a choice makes."""
        scores = []
        for case, numbers in choice.items():
            each = self.cases[case]
            label = cleaned(each.segments.union(numbers, len(each.mask)), self.settings.sam)
            scores.append(dice(label, each.mask, both_empty=1.0))
        return float(np.mean(scores))

    # ---- helpers

    def _judged(self, files: Workspace, case: str, gt: Path) -> Judged:
        grid, segments = read_grid(files.image(case)), read_segments(files, case)
        mask = grid.read_mask(gt / f"{case}{ENDING}", "give masks of these scans")
        overlap = [iou(segments.mask(number), mask[segments.slice[number]]) for number in range(len(segments))]
        attribute = attribute_of(segments, self.settings.clusters.attribute, grid.pixel_mm)
        return Judged(
            segments, np.array(overlap), mask, plausible_segments(segments, self.settings.segments), attribute
        )

    def _cluster(self, number: int) -> Choice:
        found = {}
        for case, each in self.cases.items():
            inside = nearest(each.features, self.centroids) == number if len(each.plausible) else each.plausible > 0
            found[case] = each.plausible[inside]
        return found

    def _shuffled(self, seed: int) -> Choice:
        """The same rule on features that belong to other segments: what clustering alone would earn."""
        asked = self.settings.clusters
        filled = {case: each for case, each in self.cases.items() if len(each.plausible)}
        features = np.concatenate([each.features for each in filled.values()])
        attribute = np.concatenate([each.attribute[each.plausible] for each in filled.values()])
        names = np.repeat(list(filled), [len(each.plausible) for each in filled.values()])
        order = np.random.default_rng([seed, 17]).permutation(len(features))
        count = min(asked.count, len(features))
        clusters = cluster_segments(features[order], attribute, names, count, asked.prior, self.settings.seed)
        inside = clusters.member == clusters.chosen
        return {
            case: each.plausible[inside[names == case]] if case in filled else each.plausible
            for case, each in self.cases.items()
        }


def table_of(rows: Mapping[str, Mapping[str, Any]], cases: int) -> Table:
    """The rows of a study as a table."""
    shown = []
    for title, row in rows.items():
        precision = [NOTHING if value != value else f"{100 * value:.1f}" for value in row["precision"]]
        shown.append([title, f"{row['segments']:.0f}", *precision, f"{100 * row['dsc']:.1f}"])
    return Table(
        f"Segments ({cases} cases). Healthy: precision rises from Ω₀ to Ω_v to D_p, and D_p is above both controls",
        ["Set", "segments", *(f"precision at IoU {threshold:g} (%)" for threshold in THRESHOLDS), "labels' DSC (%)"],
        shown,
    )
