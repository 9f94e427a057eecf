"""The stages strung together: scans of an nnU-Net raw dataset in, `labelsTr` out; resumes where it was killed.

The first and the third stage go case by case, so several processes may each take a share of the cases at the same
time. The stage between them and the last one need all cases and say which are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pseudo_labeling.ahead import BehindWriter
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.run.finish import Summary
from pseudo_labeling.run.inputs import RunInputs, labels_beside
from pseudo_labeling.run.routes import SharedPass, route_of
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import read_label_rows
from pseudo_labeling.weights.files import WeightSpecs

__all__ = ["PseudoLabeling", "Summary", "WeightSpecs"]

logger = logging.getLogger(__name__)


class PseudoLabeling:
    """One run of all stages, or of one of them, over the cases in `imagesTr` of a dataset (CLISC 2.1, 2.2; UM-SAM 2.1).

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
        self.cases = self.inputs.cases
        self.route = route_of(self.inputs, overlay_every)

    def run(self) -> Summary:
        """Run what is not yet done, of all stages.

        Raises:
            UserError: whatever the user can mend.
        """
        for stage in self.route.stages[:-1]:
            self.stage(stage)
        return self.finish()

    def stage(self, name: str, cases: Sequence[str] | None = None) -> None:
        """Run one stage but the last.

        Args:
            name: one of the route's.
            cases: of a stage that can be shared; all where None.

        Raises:
            UserError: a stage before it is not done, there is nothing to learn from, or cases failed; the others
                are done.
        """
        self.inputs.files.claim_labels()
        first, learned, masks, _ = self.route.stages
        asked = self.cases if cases is None else cases
        if name == first:
            self._each(name.replace("_", " "), asked, self.route.first)
        elif name == learned:
            self.route.learn()
        elif name == masks:
            self.route.check_learned()
            self._each(name, asked, self.route.masks)
        else:
            raise ValueError(f"no stage {name} in {self.route.stages}")

    def finish(self) -> Summary:
        """Verify every case and declare the dataset complete.

        Raises:
            UserError: something is missing; it names the stage to run.
        """
        self.inputs.files.claim_labels()
        return self.route.finish()

    def _each(self, title: str, cases: Sequence[str], stage: SharedPass) -> None:
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
