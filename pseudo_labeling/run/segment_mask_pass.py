"""Last pass of the segment route: the chosen cluster's segments of a case become its label (UM-SAM, Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from pseudo_labeling.run.cluster_pass import ClusterPass, read_clusters
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.mask_pass import STAGE
from pseudo_labeling.run.overlays import save_overlay
from pseudo_labeling.run.segment_pass import SegmentPass
from pseudo_labeling.run.workspace import key_of
from pseudo_labeling.sam.segmenter import cleaned
from pseudo_labeling.sam.segments import Segments, object_segments
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import Grid, write_mask


class SegmentMaskPass:
    """Pseudo-labels of the cases of a run from their segments; they may be shared among processes.

    Args:
        run: what all stages share.
        segments: of each case.
        clusters: of all of them.
        overlay_every: one overlay for this many cases.
    """

    def __init__(self, run: RunInputs, segments: SegmentPass, clusters: ClusterPass, overlay_every: int) -> None:
        self.run = run
        self.segments = segments
        self.clusters = clusters
        self.overlay_every = overlay_every

    def record(self, case: str) -> dict[str, Any] | None:
        """The record of a finished case, None when it must be (re)done; a label corrected by hand is finished."""
        record = None if self._clusters is None else self.run.files.record(STAGE, case, self._key(case))
        if record is None and (record := self.run.changed_by_hand(STAGE, case)) is not None:
            record["mask_voxels"] = record["voxels"]
        return record

    def prepare(self) -> None:
        """Nothing to load: segments and clusters are on disk."""

    def make(self, case: str) -> Callable[[], object]:
        """Choose among the segments of a case.

        Returns:
            What writes the label and, last, its record; it may run while the next case is made.
        """
        self.run.files.forget_finished_run()
        scan, slices = self.run.read(case)
        segments = self.segments.segments(case)
        centroids, chosen = read_clusters(self.run.files)
        mask, numbers = mask_of(segments, self.run.settings, centroids, chosen, len(slices))
        return partial(self._write, case, scan, slices, segments, numbers, mask)

    def _write(
        self, case: str, scan: Grid, slices: np.ndarray, segments: Segments, numbers: np.ndarray, mask: np.ndarray
    ) -> None:
        files = self.run.files
        write_mask(scan, mask, files.label(case), partial(files.announce, STAGE, case))
        if self.run.cases.index(case) % self.overlay_every == 0:
            picture = files.path("overlays", f"{case}.png")
            save_overlay(picture, slices, segments=numbered(segments, len(slices)), mask=mask, title=case)
        files.finish(
            STAGE,
            case,
            self._key(case),
            [files.label(case)],
            segments=len(segments),
            chosen_segments=len(numbers),
            mask_voxels=int(scan.from_squares(mask).sum()),
            device=str(self.run.device),
        )

    @cached_property
    def _clusters(self) -> dict[str, Any] | None:
        return self.clusters.record

    def _key(self, case: str) -> str:
        settings, segments = self.run.settings, self.segments.record(case)
        made = None if segments is None else segments["files"]
        clusters = None if self._clusters is None else [self._clusters["key"], self._clusters["files"]]
        cleaning = [settings.sam.closing, settings.sam.keep_fraction]
        return key_of(made, clusters, settings.clusters.per_slice, cleaning, *self.run.squares(case))


def mask_of(
    segments: Segments, settings: Settings, centroids: np.ndarray, chosen: int, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mask `(z, y, x)` bool of a case, cleaned, and the numbers of the segments that it is made of.

    Args:
        segments: all of the case.
        settings: shape prior, clusters, clean-up.
        centroids: `(k, d)`.
        chosen: the object's cluster.
        depth: slices of the case.
    """
    one = settings.clusters.per_slice == "nearest"
    numbers = object_segments(segments, settings.segments, centroids, chosen, one_per_slice=one)
    return cleaned(segments.union(numbers, depth), settings.sam), numbers


def numbered(segments: Segments, depth: int) -> np.ndarray:
    """Each pixel's segment, `(z, y, x)` int, 0 = none, for drawing: the smaller of several lies on top."""
    shown = np.zeros((depth, *segments.shape), dtype=np.int32)
    for number in np.argsort(-segments.area, kind="stable"):
        shown[segments.slice[number]][segments.mask(number)] = number + 1
    return shown
