"""The pictures of a report: every stage of chosen cases, what S3F dropped, and predictions of other cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunetv2_clisc.report.measures import Choice, Measures, pick, read_as_stored
from nnunetv2_clisc.report.pictures import Line, Panel, View, draw, slices_to_show, view_of, whole_view
from nnunetv2_clisc.report.records import decisions
from nnunetv2_clisc.report.sources import Run
from nnunetv2_clisc.training.s3f import Decision
from pseudo_labeling.prompts import Prompt, prompts_from_roi
from pseudo_labeling.run.workspace import ENDING
from pseudo_labeling.settings import PromptSettings, Settings
from pseudo_labeling.slices import Grid, read_shown

DROPPED_SHOWN = 16  # pictures of more would make the file slow to open
ROWS, ROWS_DROPPED = 3, 2


@dataclass(frozen=True)
class Row:
    """The panels of one slice, with its number as the file counts it and why it was chosen."""

    number: int
    why: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Pictures:
    """One case: what it stands for, a line of numbers, rows of panels."""

    case: str
    role: str
    facts: str
    rows: Sequence[Row] = field(default_factory=tuple)


@dataclass(frozen=True)
class Layer:
    """A column of panels with the outline of a mask.

    Attributes:
        title, alt: words, as of a :class:`Panel`.
        mask: `(z, y, x)` bool, None where there is none.
        colour: of the outline.
        prompts: for SAM, one a slice, drawn too.
    """

    title: str
    alt: str
    mask: np.ndarray | None
    colour: str
    prompts: Sequence[Prompt | None] | None = None


@dataclass(frozen=True)
class Shown:
    """A case, read for drawing."""

    scan: Grid
    images: np.ndarray  # (z, y, x) uint8, at square pixels; of a picture (1, y, x, 3)

    def view(self, prompts: Sequence[Prompt | None] = ()) -> View:
        """What the panels show: the head and all of the prompts' boxes; of a picture everything."""
        if self.images.ndim == 4:
            return whole_view(self.images.shape[1:3])
        return view_of(self.images, (1.0, 1.0), [p.box for p in prompts if p is not None and p.box is not None])

    def prompts(self, roi: np.ndarray | None, prompting: PromptSettings) -> list[Prompt | None] | None:
        """What SAM is asked from a region `(z, y, x)` bool, None where there is none."""
        return None if roi is None else prompts_from_roi(roi, self.images, prompting, self.scan.pixel_mm)

    def pick(self, masks: dict[str, np.ndarray | None], most: int) -> list[tuple[int, str]]:
        """The slices to show with the reason for each; the middle one where no mask marks anything."""
        return slices_to_show(masks, most) or [(len(self.images) // 2, "middle; nothing is marked")]

    def mask(self, path: Path | None) -> np.ndarray | None:
        """A mask `(z, y, x)` bool at square pixels, None where there is none.

        Raises:
            UserError: it does not fit the scan.
        """
        return None if path is None or not path.is_file() else self.scan.read_mask(path, "make it again")


class Galleries:
    """Draws cases of one run with the settings that its labels were made with."""

    def __init__(self, run: Run, measures: Measures) -> None:
        self.run = run
        self.measures = measures
        self.settings = _drawn_from(run.record.get("settings", {}))
        self.similarities = {d.agreement.case: d.agreement.similarity for d in decisions(run)[0]}

    def stages(self, choice: Choice) -> list[Pictures]:
        """Scan, CAM, ROI with prompts, SAM's mask and the network's prediction of the chosen cases."""
        return [
            self._stages(role, case)
            for role, case, _ in tqdm(choice.cases, desc="pictures of cases", unit="case", disable=None)
        ]

    def dropped(self, decided: Sequence[Decision], summary: Mapping[str, Any]) -> list[Pictures]:
        """What S3F compared in the dropped cases, the least similar first, with the prompts of its own time."""
        prompting = _drawn_from(summary.get("settings", {})).prompts if "settings" in summary else self.settings.prompts
        dropped = sorted((d for d in decided if not d.kept), key=lambda d: d.agreement.similarity or 0.0)
        shown = tqdm(dropped[:DROPPED_SHOWN], desc="pictures of dropped cases", unit="case", disable=None)
        return [self._dropped(decision, prompting) for decision in shown]

    def others(self) -> list[Pictures]:
        """Predictions of cases outside the training set: best, median and worst by DSC, or by volume without masks."""
        cases = [case for case in self.run.pred if self.run.test_image(case) is not None]
        if self.measures.pred is not None:
            scores = self.measures.pred.cases
            chosen = pick({case: scores[case]["dsc"] for case in cases if case in scores})
            return [self._other(role, case, f"DSC {100 * value:.1f} %") for role, case, value in chosen]
        volumes = {case: float(read_as_stored(self.run.pred[case])[0].sum()) for case in cases}
        names = {"best": "largest", "median": "median", "worst": "smallest"}
        return [self._other(names[role], case, f"{int(value)} voxels") for role, case, value in pick(volumes)]

    def _stages(self, role: str, case: str) -> Pictures:
        run = self.run
        shown = self._read(run.files.shown(case))
        roi, label = shown.mask(run.roi(case)), shown.mask(run.files.label(case))
        found = run.prediction(case)
        prediction = shown.mask(found[0]) if found else None
        reference = shown.mask(run.gt.get(case))
        cam = self._cam(case, shown)
        prompts = shown.prompts(roi, self.settings.prompts)
        layers = [
            Layer("ROI and prompts", "outline of the ROI with box and points for SAM", roi, "blue", prompts),
            Layer("SAM mask", "outline of the pseudo-label", label, "orange"),
            Layer(found[1] if found else "", "outline of the network's prediction", prediction, "pink"),
        ]
        slices = shown.pick({"SAM mask": label, "reference": reference, "prediction": prediction, "ROI": roi}, ROWS)
        rows = self._rows(shown, slices, layers, reference, scan=True, cam=cam)
        return Pictures(case, role, self._facts(case), rows)

    def _dropped(self, decision: Decision, prompting: PromptSettings) -> Pictures:
        run, case = self.run, decision.agreement.case
        if run.fold is None:
            raise ValueError("S3F without a fold")
        shown = self._read(run.files.shown(case))
        prediction = shown.mask(run.fold.prediction(case, ENDING))
        sam, reference = shown.mask(run.fold.sam_mask(case, ENDING)), shown.mask(run.gt.get(case))
        prompts = shown.prompts(prediction, prompting)
        words = "outline of round 1's prediction with box and points for SAM"
        layers = [
            Layer("round 1 and prompts", words, prediction, "pink", prompts),
            Layer("answer of SAM", "outline of SAM's mask", sam, "orange"),
        ]
        slices = shown.pick({"prediction": prediction, "answer of SAM": sam}, ROWS_DROPPED)
        rows = self._rows(shown, slices, layers, reference)
        facts = f"similarity {decision.agreement.similarity or 0:.3f}"
        if not decision.reason.startswith("similarity"):
            facts += f", {decision.reason}"
        scores = self.measures.round_1.cases if self.measures.round_1 is not None else {}
        if case in scores:
            facts += f", DSC {100 * scores[case]['dsc']:.1f} %"
        return Pictures(case, "dropped", facts, rows)

    def _other(self, role: str, case: str, facts: str) -> Pictures:
        files = self.run.test_image(case)
        if files is None:
            raise ValueError(f"{case} has no scan")
        shown = self._read(files)
        prediction, reference = shown.mask(self.run.pred[case]), shown.mask(self.run.gt.get(case))
        layers = [Layer("prediction", "outline of the prediction", prediction, "pink")]
        slices = shown.pick({"reference": reference, "prediction": prediction}, ROWS_DROPPED)
        rows = self._rows(shown, slices, layers, reference, scan=True)
        return Pictures(case, role, facts, rows)

    def _read(self, files: Sequence[Path]) -> Shown:
        return Shown(*read_shown(files, self.settings.window))

    def _rows(
        self,
        shown: Shown,
        slices: Sequence[tuple[int, str]],
        layers: Sequence[Layer],
        reference: np.ndarray | None,
        *,
        scan: bool = False,
        cam: np.ndarray | None = None,
    ) -> list[Row]:
        """A row for each slice: the scan, the CAM over it, and every layer that is there, with the reference dashed."""
        asked = [layer.prompts[z] for layer in layers if layer.prompts is not None for z, _ in slices]
        view, rows = shown.view(asked), []
        for z, why in slices:
            image, where = shown.images[z], f", slice {shown.scan.file_slice(z)}"
            panels = [draw("scan", "the scan" + where, image, view)] if scan else []
            if cam is not None:
                panels.append(draw("CAM", "class activation map over the scan" + where, image, view, heat=cam[z]))
            for layer in layers:
                if layer.mask is not None:
                    lines = [Line(layer.mask[z], layer.colour)]
                    lines += [] if reference is None else [Line(reference[z], "white", dashed=True)]
                    prompt = None if layer.prompts is None else layer.prompts[z]
                    panels.append(draw(layer.title, layer.alt + where, image, view, lines=lines, prompt=prompt))
            rows.append(Row(shown.scan.file_slice(z), why, panels))
        return rows

    def _cam(self, case: str, shown: Shown) -> np.ndarray | None:
        """A case's CAM `(z, y, x)`, stretched so that its hottest voxel is 1."""
        path = self.run.cam(case)
        if not path.is_file():
            return None
        with np.load(path) as arrays:
            cam = arrays["cam"].astype(np.float32)
        return cam / max(float(cam.max()), 1e-6) if cam.shape == shown.images.shape[:3] else None

    def _facts(self, case: str) -> str:
        facts = []
        for words, of in (("pseudo-label", self.measures.labels), ("round 1", self.measures.round_1)):
            if of is not None and case in of.cases:
                facts.append(f"DSC of {words} {100 * of.cases[case]['dsc']:.1f} %")
        similarity = self.similarities.get(case)
        if similarity is not None:
            facts.append(f"S3F similarity {similarity:.3f}")
        if case in self.measures.agreement:
            facts.append(f"Dice of ROI and SAM mask {self.measures.agreement[case]:.2f}")
        return ", ".join(facts)


def _drawn_from(recorded: Mapping[str, Any]) -> Settings:
    """Window and prompts as recorded; a record of another version may hold settings that this one does not know."""
    return Settings().merged({name: recorded[name] for name in ("window", "prompts") if name in recorded})
