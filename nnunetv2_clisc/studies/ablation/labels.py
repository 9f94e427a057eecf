"""The runs before the network: label variants in datasets of their own, and their CAMs and SAM masks of given scans."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json, write_json
from nnunetv2_clisc.scoring.metrics import dice
from nnunetv2_clisc.studies.ablation.runs import Run
from nnunetv2_clisc.studies.ablation.trainings import SEED_STEP
from nnunetv2_clisc.studies.baselines.cam_and_sam import folder_of
from pseudo_labeling.roi import roi_from_cam
from pseudo_labeling.run.classifier_files import final_pass
from pseudo_labeling.run.new_cases import FinishedRun
from pseudo_labeling.run.pipeline import PseudoLabeling, WeightSpecs
from pseudo_labeling.run.workspace import ENDING, Workspace, chance_of
from pseudo_labeling.sam.decoder import ScoredMasks
from pseudo_labeling.sam.segmenter import Pick
from pseudo_labeling.slices import Grid


class LabelRuns:
    """Pseudo-labels with another α or seed, and the first pass of each on the scans to be scored.

    Every stage that a change does not touch is copied from the user's dataset, which is only read: with another α the
    slice labels, the first classifier and its CAMs; with another seed the slice labels.

    Args:
        dataset: the user's raw dataset, labelled to the end.
        images: scans to predict.
        output: the ablation's folder.
        device: where to compute.
    """

    def __init__(self, dataset: Path, images: Path, output: Path, device: str) -> None:
        self.dataset, self.images, self.output, self.device = dataset, images, output, device
        self.finished = FinishedRun(Workspace(dataset), device)
        self.settings = self.finished.settings
        self._slice_labels: dict[tuple[int, ...], np.ndarray] = {}

    def labelled(self, alpha: float, seed: int) -> Path:
        """The raw dataset labelled with this α (above 0) and repetition; made if it is not there yet."""
        if seed == 0 and alpha == self.settings.amda.alpha:
            return self.dataset
        target = self.output / "labels" / f"alpha_{alpha:g}_seed_{seed}" / self.dataset.name
        settings = self.settings.merged({"amda": {"alpha": alpha}, "seed": self.settings.seed + SEED_STEP * seed})
        if not target.exists():
            source = self.dataset
            if seed > 0 and alpha != self.settings.amda.alpha and self.settings.amda.alpha > 0:
                source = self.labelled(self.settings.amda.alpha, seed)  # with the raw classifier of this seed
            _derive(source, target)
        entry = read_json(self.dataset / "dataset.json")["clisc"]
        if "classifier" not in entry["weights"]:  # not to be guessed
            raise UserError(
                f"{self.dataset / 'dataset.json'}: does not say what the classifier began with; run "
                f"`nnUNetv2_clisc pseudo_label -d {self.dataset.name[7:10]} --stage finish` once more, with the same "
                "settings"
            )
        specs = WeightSpecs(*(entry["weights"][role]["spec"] for role in ("clip", "sam", "classifier")))
        if read_json(target / "dataset.json").get("clisc", {}).get("settings") != _plain(settings.to_dict()):
            given = self.dataset / "clisc" / "slice_labels.csv" if entry["image_labels"] is not None else None
            # what was corrected by hand says nothing about a variant of the method
            run = PseudoLabeling(
                target, settings, specs, device=self.device, image_labels=given, overlay_every=10**6, redo=()
            )
            run.run()
        return target

    def roi(self, alpha: float, seed: int) -> Path:
        """Folder with the CAM's ROI of every scan."""
        run, which = self._finished(alpha, seed), final_pass(alpha)

        def segment(_case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
            return run.roi(which, slices, self._label(slices, scan))

        folder = self._folder(f"roi_alpha_{alpha:g}", seed)
        folder_of(run.files, run.settings, f"cam {which}", self.images, folder).run(
            segment, run.facts(which, sam=False)
        )
        return folder

    def mask(self, alpha: float, kind: Literal["box", "points", "both"] | None, seed: int) -> Path:
        """Folder with SAM's mask of every scan, prompted from :meth:`roi`."""
        kind = kind or self.settings.prompts.kind
        rois = self.roi(alpha, seed)
        run = self._finished(alpha, seed)
        run.settings = replace(run.settings, prompts=replace(run.settings.prompts, kind=kind))
        folder = folder_of(
            run.files, run.settings, "pseudo_label", self.images, self._folder(f"sam_{kind}_alpha_{alpha:g}", seed)
        )
        facts = run.facts(final_pass(alpha), sam=True)

        def segment(case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
            roi = scan.read_mask(rois / f"{case}{ENDING}", "run the command again")
            cams: Sequence[np.ndarray] = ()
            if run.settings.prompts.points == "sampled" or len(run.settings.cam.methods) > 1:
                cams = run.cams(final_pass(alpha), slices, self._label(slices, scan))
            return run.mask(slices, roi, scan.pixel_mm, case=case, cams=cams)

        folder.run(segment, facts)
        return folder.output

    def changed(self, run: Run, references: Mapping[str, Path], seed: int) -> Path:
        """Folder with every scan's mask, or its CAM's ROI, made by the stored classifier with a run's settings.

        Args:
            run: of the group `c2s`.
            references: masks of the scans, opened for the choice `oracle` alone.
        """
        finished = self._finished(self.settings.amda.alpha, seed)
        finished.settings = finished.settings.merged(dict(run.changes))
        which = finished.final
        facts = finished.facts(which, sam=run.stage == "mask") | {"pick": run.pick, "untrained": run.untrained}
        if run.untrained:
            which = finished.use_untrained()

        def segment(case: str, scan: Grid, slices: np.ndarray) -> np.ndarray:
            cams = finished.cams(which, slices, self._label(slices, scan))
            roi = roi_from_cam(cams[0], slices, finished.settings.roi)
            if run.stage == "roi":
                return roi
            pick: Pick | None = None
            if run.pick == "random":
                rng = np.random.default_rng(chance_of(finished.settings.seed, case))
                pick = partial(_any, rng)
            elif run.pick == "oracle":
                pick = partial(_best, scan.read_mask(references[case], "give masks of these scans"))
            return finished.mask(slices, roi, scan.pixel_mm, case=case, cams=cams, pick=pick)

        folder = folder_of(finished.files, finished.settings, run.name, self.images, self._folder(run.name, seed))
        folder.run(segment, facts)
        return folder.output

    # ---- helpers

    def _finished(self, alpha: float, seed: int) -> FinishedRun:
        """The raw classifier is the same for every α."""
        own = self.settings.amda.alpha
        if alpha == 0 and own == 0 and seed > 0:
            raise UserError("--seeds: the dataset has amda.alpha = 0; label it with AMDA to repeat its classifiers")
        files = Workspace(self.labelled(alpha or own, seed)) if (alpha or own) > 0 else Workspace(self.dataset)
        return FinishedRun(files, self.device, self.finished.networks)

    def _label(self, slices: np.ndarray, scan: Grid) -> np.ndarray:
        """CLIP's labels of one case; the same for every α and seed, so asked for once."""
        key = (hash(slices.tobytes()), *slices.shape)
        if key not in self._slice_labels:
            self._slice_labels[key] = self.finished.labels(slices, scan.slice_mm).label
        return self._slice_labels[key]

    def _folder(self, name: str, seed: int) -> Path:
        return self.output / "predictions" / name / f"seed_{seed}"


def _any(rng: np.random.Generator, _slice: int, candidates: ScoredMasks) -> int:
    return int(rng.integers(len(candidates.masks)))


def _best(reference: np.ndarray, z: int, candidates: ScoredMasks) -> int:
    return int(np.argmax([dice(mask, reference[z], both_empty=1.0) for mask in candidates.masks]))


def _derive(source: Path, target: Path) -> None:
    """A raw dataset of its own with linked scans and a copy of what was labelled so far, whole or not at all."""
    draft = target.with_name(f"draft_{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "imagesTr").mkdir(parents=True)
    for scan in (source / "imagesTr").iterdir():
        (draft / "imagesTr" / scan.name).symlink_to(scan.resolve())
    shutil.copytree(source / "labelsTr", draft / "labelsTr")
    shutil.copytree(source / "clisc", draft / "clisc", ignore=shutil.ignore_patterns("overlays"))
    content = read_json(source / "dataset.json")
    del content["clisc"]
    write_json(draft / "dataset.json", content)
    draft.rename(target)


def _plain(content: object) -> object:
    """As JSON gives it back."""
    return json.loads(json.dumps(content))
