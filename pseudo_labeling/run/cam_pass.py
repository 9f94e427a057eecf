"""Between slice labels and prompts: train the classifier, map, binarise; once or, with AMDA, twice."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dataset_conversion.errors import UserError
from pseudo_labeling.amda import AmdaAugmentation, discriminative_region
from pseudo_labeling.cam import check_layers
from pseudo_labeling.cam_methods import case_cams
from pseudo_labeling.classifier import (
    SliceClassifier,
    build_classifier,
    classifier_slices,
    held_out_cases,
    train_classifier,
)
from pseudo_labeling.roi import roi_from_cam
from pseudo_labeling.run.classifier_files import (
    AMDA,
    RAW,
    final_pass,
    load_classifier,
    load_state,
    saved_now_and_then,
    write_npz,
    write_torch,
)
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.workspace import ENDING, key_of
from pseudo_labeling.slice_labels import SliceLabels, head_fraction
from pseudo_labeling.slices import Grid, read_squares, write_mask
from pseudo_labeling.weights.files import identify
from pseudo_labeling.weights.models import load_backbone_state


class CamPasses:
    """Classifier, CAM and ROI of the cases of a run (paper 2.1), resuming where it was killed.

    Training needs all cases, and with AMDA so do the CAMs of the first classifier, since they decide what the second
    one sees. The CAMs of the last classifier are made case by case.

    Args:
        run: what all stages share.
        labels: slice labels of each case.
    """

    def __init__(self, run: RunInputs, labels: dict[str, SliceLabels]) -> None:
        self.run = run
        self.files = run.files
        self.settings = run.settings
        self.labels = labels
        self.device = run.device
        self._samples: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
        self._loaded: dict[str, SliceClassifier] = {}
        self._keys: dict[str, str] = {RAW: self._raw_key()}

    @property
    def final(self) -> str:
        """The pass that prompts SAM: after AMDA, unless that is switched off."""
        return final_pass(self.settings.amda.alpha)

    @property
    def trained(self) -> bool:
        """Whether the last classifier is on disk, trained on these labels with these settings."""
        key = self._key(self.final)
        return key is not None and self.files.record("classifier", self.final, key) is not None

    def train(self) -> None:
        """Train what is not yet trained; with AMDA this includes the first classifier's CAMs of all cases."""
        if self.final == AMDA and not self.trained:
            todo = [case for case in self.labels if self.roi_record(RAW, case) is None or not self._has_cam(RAW, case)]
            if todo:
                self._classifier(RAW)
            self.run.expect(todo)
            done = len(self.labels) - len(todo)
            for case in tqdm(todo, desc="CAM and ROI (raw)", unit="case", initial=done, total=len(self.labels)):
                scan, slices = self.run.read(case)
                self.map_case(RAW, case, scan, slices)
                self.make_cam(RAW, case, slices)
        if not self.trained:
            self._classifier(self.final)
        self._samples = None  # the passes over single cases need no training set

    def check_trained(self) -> None:
        """Make sure that :meth:`train` has run.

        Raises:
            UserError: it has not, for these slice labels and settings.
        """
        if not self.trained:
            raise UserError(
                f"{self.files.root / 'classifier'}: the classifier is not trained, or on other slice labels or "
                f"settings; run `{self.run.command('classifier')}` with the same settings first"
            )

    def cam(self, name: str, case: str) -> np.ndarray:
        """A saved CAM, `(z, y, x)` float16 in [0, 1]; of several methods, that of the first."""
        return self.cams(name, case)[0]

    def cams(self, name: str, case: str) -> list[np.ndarray]:
        """A saved CAM of each method, the one that makes the ROI first."""
        with np.load(self.files.path(f"cam_{name}", f"{case}.npz")) as arrays:
            return [arrays[each] for each in map(_array_name, range(len(self.settings.cam.methods)))]

    def make_cam(self, name: str, case: str, slices: np.ndarray) -> None:
        """Make the CAM of one case where it is not there yet, or not any more: CAMs take the most space on disk."""
        if not self._has_cam(name, case):
            self._make_cam(name, case, slices, self._classifier(name), self._cam_key(name, case))

    def roi(self, name: str, case: str) -> np.ndarray:
        """A saved ROI, `(z, y, x)` bool, at the square pixels of the slices."""
        return read_squares(self.files.path(f"roi_{name}", f"{case}{ENDING}"))

    def roi_record(self, name: str, case: str) -> dict[str, Any] | None:
        """The record of a case's finished ROI, None when it must be (re)done; one corrected by hand is finished."""
        key = self._key(name)
        if key is None:
            return None
        record = self.files.record(f"roi_{name}", case, self._roi_key(key, case))
        return record or self.run.changed_by_hand(f"roi_{name}", case)

    def map_case(self, name: str, case: str, scan: Grid, slices: np.ndarray) -> dict[str, Any]:
        """Make CAM and ROI of one case where they are not there yet, and return the ROI's record."""
        record = self.roi_record(name, case)
        if record is not None:
            return record
        key = self._known_key(name)
        self.make_cam(name, case, slices)
        stage = f"roi_{name}"
        path = self.files.path(stage, f"{case}{ENDING}")
        roi = roi_from_cam(self.cam(name, case), slices, self.settings.roi)
        write_mask(scan, roi, path, partial(self.files.announce, stage, case))
        return self.files.finish(stage, case, self._roi_key(key, case), [path])

    def _raw_key(self) -> str:
        """Key of everything the first classifier depends on."""
        found = [
            (
                *(case, self.run.images[case], label.label.tolist(), label.confident.tolist()),
                *(*self.run.squares(case), *self.run.ignored(case)),
            )
            for case, label in self.labels.items()
        ]
        settings, specs = self.settings, self.run.specs
        return key_of(
            found,
            settings.window,
            settings.classifier,
            settings.seed,
            identify("clip", specs.clip).sha256,
            identify("resnet50", specs.classifier).sha256,
        )

    def _key(self, name: str) -> str | None:
        """Key of a pass; None for AMDA's as long as the ROIs it masks are not all there."""
        if name not in self._keys:
            rois: dict[str, str] = {}
            for case in self.labels:
                record = self.roi_record(RAW, case)
                if record is None:
                    return None
                rois[case] = next(iter(record["files"].values()))
            self._keys[name] = key_of(self._keys[RAW], self.settings.amda, self.settings.roi, rois)
        return self._keys[name]

    def _roi_key(self, key: str, case: str) -> str:
        return key_of(key_of(key, self.settings.cam, case), self.settings.roi)

    def _cam_key(self, name: str, case: str) -> str:
        return key_of(self._known_key(name), self.settings.cam, case)

    def _has_cam(self, name: str, case: str) -> bool:
        return self.files.record(f"cam_{name}", case, self._cam_key(name, case)) is not None

    def _known_key(self, name: str) -> str:
        key = self._key(name)
        if key is None:
            raise RuntimeError(f"{name}: its classifier needs the ROIs of the pass before it")
        return key

    def _classifier(self, name: str) -> SliceClassifier:
        """The classifier of a pass, trained now or read from its record."""
        if name not in self._loaded:
            self._loaded[name] = self._trained(name, self._known_key(name))
        return self._loaded[name]

    def _initial(self) -> tuple[SliceClassifier, str]:
        """The untrained classifier and where its weights come from."""
        settings = self.settings.classifier
        clip = self.run.clip if settings.backbone in ("auto", "clip") else None
        weights = None
        if settings.backbone != "clip":
            weights = load_backbone_state(settings.backbone, self.run.specs.classifier)
        return build_classifier(settings, clip, weights, self.settings.seed)

    def _make_cam(self, name: str, case: str, slices: np.ndarray, classifier: SliceClassifier, key: str) -> None:
        cams = case_cams(slices, self.labels[case].label, self.settings, classifier, self.device)
        if name == AMDA and self.settings.amda.with_first:
            self.make_cam(RAW, case, slices)
            cams = [np.maximum(*both) for both in zip(cams, self.cams(RAW, case), strict=True)]
        path = self.files.path(f"cam_{name}", f"{case}.npz")
        write_npz(path, **{_array_name(number): cam for number, cam in enumerate(cams)})
        self.files.finish(f"cam_{name}", case, key, [path])

    def _trained(self, name: str, key: str) -> SliceClassifier:
        """The classifier of a pass, trained now or read from its record."""
        initial, origin = self._initial()
        model = copy.deepcopy(initial)
        final = self.files.path("classifier", f"{name}.pt")
        unfinished = self.files.path("classifier", f"{name}_partial.pt")
        if self.files.record("classifier", name, key) is not None:
            return load_classifier(model, final, self.device)
        check_layers(initial, self.settings.cam.layers, self.settings.classifier.image_size)
        slices, targets, names, numbers = self._training_set()
        augmentation: AmdaAugmentation | None = None
        if name == AMDA:
            regions = self._amda_regions(slices.shape[:3], names, numbers)
            augmentation = AmdaAugmentation(regions, targets, self.settings.amda)
            first = torch.load(self.files.path("classifier", f"{RAW}.pt"), weights_only=True, map_location="cpu")
            model.load_state_dict(first)
        state = train_classifier(
            model,
            slices,
            targets,
            held_out_cases(names, self.settings.classifier.held_out_fraction, self.settings.seed),
            self.settings.classifier,
            seed=self.settings.seed,
            device=self.device,
            augmentation=augmentation,
            state=load_state(unfinished, key),
            on_epoch=saved_now_and_then(unfinished, key),
            title=f"classifier ({name})",
        )
        write_torch(final, state.best_model)
        content = {"origin": origin, "history": state.history, "best_epoch": state.best_epoch}
        self.files.finish("classifier", name, key, [final], **content)
        unfinished.unlink(missing_ok=True)
        return model

    def _training_set(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Slices `(n, s, s)`, labels, case names and slice numbers `(n,)` of all confident slices with a head.

        Of pictures the slices are `(n, s, s, 3)`.
        """
        if self._samples is None:
            slices, targets, names, numbers = [], [], [], []
            self.run.expect(list(self.labels))
            for case, label in tqdm(self.labels.items(), desc="reading slices", unit="case", leave=False):
                _, volume = self.run.read(case)
                use = label.confident & (head_fraction(volume) >= self.settings.slice_labels.min_head_fraction)
                slices.append(classifier_slices(volume[use], self.settings.classifier.image_size))
                targets.append(label.label[use])
                names += [case] * int(use.sum())
                numbers.append(np.flatnonzero(use))
            self._samples = np.concatenate(slices), np.concatenate(targets), np.array(names), np.concatenate(numbers)
        return self._samples

    def _amda_regions(self, shape: tuple[int, ...], names: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """What AMDA masks in each sample, `(n, s, s)` bool, from the first pass's CAMs and ROIs."""
        regions = np.zeros(shape, dtype=bool)
        for case in self.labels:
            mine = names == case
            if not mine.any():
                continue
            region = discriminative_region(self.cam(RAW, case), self.roi(RAW, case), self.settings.amda.alpha)
            regions[mine] = classifier_slices(region[numbers[mine]] * np.uint8(255), shape[-1]) > 127
        return regions


def _array_name(number: int) -> str:
    return f"cam_{number}" if number else "cam"
