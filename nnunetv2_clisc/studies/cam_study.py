"""CAM methods side by side: does each find what its classifier uses, better than chance and than permuted labels?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnunetv2_clisc.scoring.metrics import iou
from nnunetv2_clisc.scoring.statistics import MetricSummary, summarise
from nnunetv2_clisc.scoring.tables import NOTHING, Table, mean_sd
from pseudo_labeling.cam import CamMethod, case_cam, mapped_slices
from pseudo_labeling.cam_methods import cam_methods
from pseudo_labeling.classifier import SliceClassifier, classifier_input, classifier_slices, train_classifier
from pseudo_labeling.controls.cam_quality import area, deletion_and_insertion, hits
from pseudo_labeling.roi import roi_from_cam
from pseudo_labeling.run.inputs import TABLE
from pseudo_labeling.run.new_cases import FinishedRun
from pseudo_labeling.settings import CamName
from pseudo_labeling.slice_labels import head_fraction, read_image_labels
from pseudo_labeling.slices import read_shown

CONTROL: CamName = "randomcam"
CURVE_SLICES = 4  # of a case, for deletion and insertion
PERMUTED = "permuted labels"
MEASURES = {
    "iou": "ROI IoU (%)",
    "pointing": "pointing game (%)",
    "deletion": "deletion AUC (%)",
    "insertion": "insertion AUC (%)",
}
Rows = dict[str, dict[str, dict[str, float] | None]]


class CamStudy:
    """Measures CAM methods on cases of a labelled dataset; nothing of it is changed.

    Args:
        finished: what labelling has learned; its classifier before AMDA is mapped, or the one without.
        methods: their names; RandomCAM is always among them.
        permuted: also train a classifier on the same slices with their labels permuted, and map that.
        seed: of permutation, training and RandomCAM.
    """

    def __init__(self, finished: FinishedRun, methods: Sequence[CamName], *, permuted: bool, seed: int) -> None:
        self.finished, self.seed = finished, seed
        self._table: dict[str, np.ndarray] = {}
        names = tuple(dict.fromkeys((*methods, CONTROL)))
        self.cam = dataclasses.replace(finished.settings.cam, method=names)
        self.classifiers = {"": finished.classifier("raw")}
        if permuted:
            self.classifiers[f", {PERMUTED}"] = self._trained_on_permuted()
        self.methods: dict[str, CamMethod] = {
            f"{name}{suffix}": method
            for suffix, classifier in self.classifiers.items()
            for name, method in zip(names, cam_methods(self.cam, classifier, seed), strict=True)
        }
        self.found: dict[str, dict[str, list[float]]] = {name: {m: [] for m in MEASURES} for name in self.methods}

    def case(self, case: str, gt: Path | None) -> None:
        """Measure one case; without masks only deletion and insertion are."""
        settings, files = self.finished.settings, self.finished.files
        grid, slices = read_shown(files.shown(case), settings.window)
        mapped = mapped_slices(self.labels(case), self.cam)
        if not mapped.any():
            return
        mask = None if gt is None else grid.read_mask(gt, "give masks of these scans")
        size, device = settings.classifier.image_size, self.finished.device
        places = np.flatnonzero(mapped)
        chosen = curve_slices(places)
        inputs = classifier_input(classifier_slices(slices[chosen], size)).to(device)
        for name, method in self.methods.items():
            found = self.found[name]
            if mask is not None:
                cam = case_cam(slices, mapped, size, method, device, weighted=self.cam.weighted)
                found["iou"].append(iou(roi_from_cam(cam, slices, settings.roi), mask))
                found["pointing"].extend(map(float, hits(cam, mask)))
            # both classifiers' maps are judged by the trained one: what it heeds is what they are to show
            judge = self.classifiers[""]
            with torch.inference_mode():
                explained = method.explained(judge(inputs))
            curves = deletion_and_insertion(judge, inputs, method(inputs.clone()).detach(), target=explained)
            for measure, curve in zip(("deletion", "insertion"), curves, strict=True):
                found[measure].extend(area(curve).tolist())

    def labels(self, case: str) -> np.ndarray:
        """The slice labels that trained the classifier, `(z,)` from foot to head."""
        files = self.finished.files
        if not self._table:
            depths = {each: len(files.slice_record(each)["file_slices"]) for each in files.cases()}
            self._table = read_image_labels(files.root / TABLE, depths)
        return self._table[case][files.slice_record(case)["file_slices"]]

    def rows(self) -> Rows:
        """Mean, sd and number of each measure by method, None for what was not measured."""
        return {
            name: {measure: summary_of(values) for measure, values in found.items()}
            for name, found in self.found.items()
        }

    def _trained_on_permuted(self) -> SliceClassifier:
        """A classifier that had the same slices and as many labels of each class, on the wrong slices."""
        finished, settings = self.finished, self.finished.settings
        slices, labels = [], []
        for case in tqdm(finished.files.cases(), desc="reading slices", unit="case", leave=False):
            _, volume = read_shown(finished.files.shown(case), settings.window)
            use = head_fraction(volume) >= settings.slice_labels.min_head_fraction
            slices.append(classifier_slices(volume[use], settings.classifier.image_size))
            labels.append(self.labels(case)[use])
        targets = np.random.default_rng([self.seed, 31]).permutation(np.concatenate(labels))
        model = finished.untrained()
        # nothing is held out: on permuted labels the first epoch would win
        train_classifier(
            model,
            np.concatenate(slices),
            targets,
            np.zeros(len(targets), dtype=bool),
            settings.classifier,
            seed=self.seed,
            device=finished.device,
            title=PERMUTED,
        )
        return model


def table_of(rows: Rows, cases: int) -> Table:
    """The measures of each method."""
    shown = [[name, *(NOTHING if of is None else _percent(of) for of in row.values())] for name, row in rows.items()]
    return Table(
        f"CAM methods ({cases} cases, mean ± sd). Healthy: every method above randomcam and above permuted labels in "
        "IoU, pointing game and insertion, below them in deletion",
        ["Method", *MEASURES.values()],
        shown,
    )


def _percent(of: dict[str, Any]) -> str:
    return mean_sd(MetricSummary(**of, nan=0), scale=100, digits=1)


def curve_slices(places: np.ndarray) -> np.ndarray:
    """Some slices of a case, spread evenly over the mapped ones `(n,)`, for deletion and insertion."""
    return places[np.unique(np.linspace(0, len(places) - 1, CURVE_SLICES).astype(int))]


def summary_of(values: list[float] | None) -> dict[str, float] | None:
    """Mean, sd and number of what was measured, None where nothing was."""
    if not values:
        return None
    found = summarise(values)
    return {"mean": found.mean, "sd": found.sd, "n": found.n}
