"""The stages strung together: scans of an nnU-Net raw dataset in, `labelsTr` out; resumes where it was killed.

`slice_labels` and `masks` go case by case, so several processes may each take a share of the cases at the same time.
The stage between them and the last one need all cases and say which are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from tqdm import tqdm

from pseudo_labeling.ahead import BehindWriter
from pseudo_labeling.run.cam_pass import CamPasses
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.run.finish import Summary, finish_run
from pseudo_labeling.run.inputs import RunInputs, labels_beside
from pseudo_labeling.run.mask_pass import MaskPass
from pseudo_labeling.run.slice_label_pass import SliceLabelPass
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import SliceLabels, read_label_rows
from pseudo_labeling.weights.files import WeightSpecs

__all__ = ["PseudoLabeling", "Summary", "WeightSpecs"]

logger = logging.getLogger(__name__)


class PseudoLabeling:
    """One run of all stages, or of one of them, over the cases in `imagesTr` of a dataset (paper 2.1 and 2.2).

    Args:
        dataset, settings, specs, device, image_labels, redo: as of :class:`RunInputs`; of pictures, the labels that
            `convert` wrote beside them are taken where no others are given.
        overlay_every: one overlay for this many cases.

    Raises:
        UserError: no scans, a table of slice labels that cannot be read, or an unknown name in `redo`.
    """

    def __init__(
        self,
        dataset: Path,
        settings: Settings,
        specs: WeightSpecs,
        *,
        device: str = "cpu",
        image_labels: Path | None = None,
        overlay_every: int = 4,
        redo: Sequence[str] | None = None,
    ) -> None:
        image_labels = image_labels or labels_beside(dataset)
        if image_labels is not None:
            read_label_rows(image_labels)  # now, not after hours of the stages before it is needed
        self.inputs = RunInputs(dataset, settings, specs, device, image_labels, redo)
        self.overlay_every = overlay_every
        self.cases = self.inputs.cases
        self._slice_labels = SliceLabelPass(self.inputs)

    def run(self) -> Summary:
        """Run what is not yet done, of all stages.

        Raises:
            UserError: whatever the user can mend.
        """
        self.slice_labels(self.cases)
        self.classifier()
        self.masks(self.cases)
        return self.finish()

    def slice_labels(self, cases: Sequence[str]) -> None:
        """Ask CLIP about the slices of some cases.

        Raises:
            UserError: cases that failed; the others are done.
        """
        self.inputs.files.claim_labels()
        self._each("slice labels", cases, self._slice_labels)

    def classifier(self) -> None:
        """Train the classifier, twice with AMDA, on the slice labels of all cases.

        Raises:
            UserError: slice labels that are missing, or nothing to learn from.
        """
        self.inputs.files.claim_labels()
        torch.manual_seed(self.inputs.settings.seed)
        self._slice_labels.write_table(self._labels)
        self._passes.train()

    def masks(self, cases: Sequence[str]) -> None:
        """CAM, ROI, prompts and SAM masks of some cases.

        Raises:
            UserError: the classifier is not trained, or cases that failed; the others are done.
        """
        self.inputs.files.claim_labels()
        self._passes.check_trained()
        self._each("masks", cases, self._masks)

    def finish(self) -> Summary:
        """Verify every case and declare the dataset complete.

        Raises:
            UserError: something is missing; it names the stage to run.
        """
        self.inputs.files.claim_labels()
        self._passes.check_trained()
        return finish_run(self.inputs, self._labels, self._slice_labels.given, self._passes, self._masks)

    @cached_property
    def _labels(self) -> dict[str, SliceLabels]:
        return self._slice_labels.labels()

    @cached_property
    def _passes(self) -> CamPasses:
        return CamPasses(self.inputs, self._labels)

    @cached_property
    def _masks(self) -> MaskPass:
        return MaskPass(self.inputs, self._passes, self.overlay_every)

    def _each(self, title: str, cases: Sequence[str], stage: SliceLabelPass | MaskPass) -> None:
        """Do the cases that are not done; a broken one does not stop the others."""
        todo = [case for case in cases if stage.record(case) is None]
        if todo:
            stage.prepare()
        failures = CaseFailures()
        self.inputs.expect(todo)
        with BehindWriter() as behind:
            for case in tqdm(todo, desc=title, unit="case", initial=len(cases) - len(todo), total=len(cases)):
                with failures.of(case):
                    behind.submit(failures.guarded(case, stage.make(case)))
                    if not self.inputs.fits_beside_another(case):
                        behind.wait()
        failures.check(title, len(cases))
