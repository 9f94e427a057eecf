"""The last pass over a case: its CAM and ROI where they are not there yet, then SAM's masks into `labelsTr`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pseudo_labeling.roi import prompting_regions
from pseudo_labeling.run.cam_pass import CamPasses
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.overlays import save_overlay
from pseudo_labeling.run.workspace import chance_of, key_of
from pseudo_labeling.sam.segmenter import SamSegmenter, Segmented
from pseudo_labeling.slices import Grid, write_mask
from pseudo_labeling.weights.files import identify
from pseudo_labeling.weights.models import load_sam

STAGE = "masks"


class MaskPass:
    """Pseudo-labels of the cases of a run (paper 2.2); no case needs another, so they may be shared among processes.

    Args:
        run: what all stages share.
        passes: the trained classifier's CAMs and ROIs.
        overlay_every: one overlay for this many cases.
    """

    def __init__(self, run: RunInputs, passes: CamPasses, overlay_every: int) -> None:
        self.run = run
        self.passes = passes
        self.overlay_every = overlay_every
        self._segmenter: SamSegmenter | None = None

    def record(self, case: str) -> dict[str, Any] | None:
        """The record of a finished case, None when it must be (re)done; a label corrected by hand is finished."""
        roi = self.passes.roi_record(self.passes.final, case)
        record = None if roi is None else self.run.files.record(STAGE, case, self._key(case, roi))
        if record is None and (record := self.run.changed_by_hand(STAGE, case)) is not None:
            record["mask_voxels"] = record["voxels"]
        return record

    def prepare(self) -> None:
        """Load SAM, so that a broken weight file is no failure of a case."""
        model = load_sam(self.run.specs.sam, self.run.device).model
        self._segmenter = SamSegmenter(model, self.run.settings.sam, self.run.device)

    def make(self, case: str) -> Callable[[], object]:
        """Map, prompt and segment one case.

        Returns:
            What writes the label and, last, its record; it may run while the next case is made.
        """
        files, final = self.run.files, self.passes.final
        files.forget_finished_run()
        scan, slices = self.run.read(case)
        key = self._key(case, self.passes.map_case(final, case, scan, slices))
        roi = self.passes.roi(final, case)
        settings = self.run.settings
        sampled = settings.prompts.points == "sampled"
        asks_cams = sampled or len(settings.cam.methods) > 1
        if asks_cams or self._draws(case):
            self.passes.make_cam(final, case, slices)
        if self._segmenter is None:
            raise RuntimeError("prepare() loads SAM before the first case")
        cams = self.passes.cams(final, case) if asks_cams else []
        found = self._segmenter.segment(
            slices,
            prompting_regions(roi, cams, slices, settings.roi, sampled=sampled),
            settings.prompts,
            scan.pixel_mm,
            seed=chance_of(settings.seed, case),
        )
        return partial(self._write, case, key, scan, slices, roi, found)

    def _write(
        self,
        case: str,
        key: str,
        scan: Grid,
        slices: np.ndarray,
        roi: np.ndarray,
        found: Segmented,
    ) -> None:
        files, final, (mask, prompts, agreement, votes) = self.run.files, self.passes.final, found
        write_mask(scan, mask, files.label(case), partial(files.announce, STAGE, case))
        if self._draws(case):
            picture = files.path("overlays", f"{case}.png")
            cam = self.passes.cam(final, case)
            save_overlay(picture, slices, cam=cam, roi=roi, prompts=prompts, votes=votes, mask=mask, title=case)
        files.finish(
            STAGE,
            case,
            key,
            [files.label(case)],
            prompted_slices=int(roi.any((1, 2)).sum()),
            roi_voxels=int(scan.from_squares(roi).sum()),
            mask_voxels=int(scan.from_squares(mask).sum()),
            device=str(self.run.device),
            **({} if np.isnan(agreement).all() else {"agreement": round(float(np.nanmean(agreement)), 4)}),
        )

    def _draws(self, case: str) -> bool:
        return self.run.cases.index(case) % self.overlay_every == 0

    def _key(self, case: str, roi: dict[str, Any]) -> str:
        settings = self.run.settings
        return key_of(
            self.run.images[case],
            next(iter(roi["files"].values())),
            settings.window,
            settings.prompts,
            settings.sam,
            identify("sam", self.run.specs.sam).sha256,
            *(*self.run.squares(case), *self.run.ignored(case), *self.run.pixel_mm(case)),
        )
