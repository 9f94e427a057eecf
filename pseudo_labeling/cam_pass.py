"""Between slice labels and prompts: train the classifier, map, binarise; once or, with AMDA, twice."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from pseudo_labeling.amda import AmdaAugmentation, discriminative_region
from pseudo_labeling.cam import LayerCam, case_cam
from pseudo_labeling.classifier import (
    SliceClassifier,
    TrainingState,
    classifier_input,
    classifier_slices,
    held_out_cases,
    train_classifier,
)
from pseudo_labeling.roi import roi_from_cam
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import SliceLabels, head_fraction
from pseudo_labeling.slices import Scan, read_scan, window_volume, write_mask
from pseudo_labeling.workspace import ENDING, Workspace, key_of, write_bytes

RAW, AMDA = "raw", "amda"


class CamPasses:
    """Classifier, CAM and ROI of every case of a dataset (paper 2.1), resuming where it was killed.

    Args:
        files: the dataset's working folder.
        settings: of every stage.
        labels: slice labels of each case.
        initial: makes the untrained classifier and says where its weights come from.
        device: where to compute.
    """

    def __init__(
        self,
        files: Workspace,
        settings: Settings,
        labels: dict[str, SliceLabels],
        initial: Callable[[], tuple[SliceClassifier, str]],
        device: torch.device,
    ) -> None:
        self.files = files
        self.settings = settings
        self.labels = labels
        self.initial = initial
        self.device = device
        self._samples: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def run(self, key: str) -> dict[str, str]:
        """Run what is not yet done.

        Args:
            key: of everything the first classifier depends on.

        Returns:
            SHA-256 of each case's final ROI file.
        """
        rois = self._pass(RAW, key)
        if self.final == AMDA:
            rois = self._pass(AMDA, key_of(key, self.settings.amda, self.settings.roi, rois))
        return rois

    @property
    def final(self) -> str:
        """The pass that prompts SAM: after AMDA, unless that is switched off."""
        return AMDA if self.settings.amda.alpha > 0 else RAW

    def read(self, case: str) -> tuple[Scan, np.ndarray]:
        """A scan and its windowed slices `(z, y, x)` uint8."""
        scan = read_scan(self.files.image(case))
        return scan, window_volume(scan.volume, self.settings.window)

    def cam(self, name: str, case: str) -> np.ndarray:
        """A saved CAM, `(z, y, x)` float16 in [0, 1]."""
        with np.load(self.files.path(f"cam_{name}", f"{case}.npz")) as arrays:
            cam: np.ndarray = arrays["cam"]
        return cam

    def roi(self, name: str, case: str, scan: Scan) -> np.ndarray:
        """A saved ROI, `(z, y, x)` bool."""
        return scan.stack_from_image(sitk.ReadImage(str(self.files.path(f"roi_{name}", f"{case}{ENDING}"))))

    def _pass(self, name: str, key: str) -> dict[str, str]:
        rois: dict[str, str] = {}
        classifier: SliceClassifier | None = None
        for case in tqdm(list(self.labels), desc=f"CAM and ROI ({name})", unit="case"):
            cam_key = key_of(key, self.settings.cam, case)
            roi_key = key_of(cam_key, self.settings.roi)
            record = self.files.record(f"roi_{name}", case, roi_key)
            if record is None:
                scan, slices = self.read(case)
                if self.files.record(f"cam_{name}", case, cam_key) is None:
                    classifier = classifier or self._trained(name, key)
                    self._make_cam(name, case, slices, classifier, cam_key)
                roi_file = self.files.path(f"roi_{name}", f"{case}{ENDING}")
                write_mask(scan, roi_from_cam(self.cam(name, case), slices, self.settings.roi), roi_file)
                record = self.files.finish(f"roi_{name}", case, roi_key, [roi_file])
            rois[case] = next(iter(record["files"].values()))
        return rois

    def _make_cam(self, name: str, case: str, slices: np.ndarray, classifier: SliceClassifier, key: str) -> None:
        cam = case_cam(
            classifier_input(classifier_slices(slices, self.settings.classifier.image_size)),
            self.labels[case].label,
            (int(slices.shape[1]), int(slices.shape[2])),
            LayerCam(classifier, self.settings.cam.layers),
            self.device,
            weighted=self.settings.cam.weighted,
        )
        buffer = io.BytesIO()
        np.savez_compressed(buffer, cam=cam)
        path = self.files.path(f"cam_{name}", f"{case}.npz")
        write_bytes(path, buffer.getvalue())
        self.files.finish(f"cam_{name}", case, key, [path])

    def _trained(self, name: str, key: str) -> SliceClassifier:
        """The classifier of a pass, trained now or read from its record."""
        initial, origin = self.initial()
        model = copy.deepcopy(initial)
        final = self.files.path("classifier", f"{name}.pt")
        partial = self.files.path("classifier", f"{name}_partial.pt")
        if self.files.record("classifier", name, key) is not None:
            model.load_state_dict(torch.load(final, weights_only=True, map_location="cpu"))
            return model.to(self.device).eval()
        slices, targets, names, numbers = self._training_set()
        augmentation: AmdaAugmentation | None = None
        if name == AMDA:
            regions = self._amda_regions(slices.shape, names, numbers)
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
            state=_load_state(partial, key),
            on_epoch=lambda state: _save_state(partial, key, state),
            title=f"classifier ({name})",
        )
        _save_torch(final, state.best_model)
        content = {"origin": origin, "history": state.history, "best_epoch": state.best_epoch}
        self.files.finish("classifier", name, key, [final], **content)
        partial.unlink(missing_ok=True)
        return model

    def _training_set(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Slices `(n, s, s)`, labels, case names and slice numbers `(n,)` of all confident slices with a head."""
        if self._samples is None:
            slices, targets, names, numbers = [], [], [], []
            for case, label in tqdm(self.labels.items(), desc="reading slices", unit="case", leave=False):
                _, volume = self.read(case)
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
            scan, _ = self.read(case)
            region = discriminative_region(self.cam(RAW, case), self.roi(RAW, case, scan), self.settings.amda.alpha)
            regions[mine] = classifier_slices(region[numbers[mine]] * np.uint8(255), shape[-1]) > 127
        return regions


def _save_torch(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _save_state(path: Path, key: str, state: TrainingState) -> None:
    _save_torch(path, {"key": key, "state": {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}})


def _load_state(path: Path, key: str) -> TrainingState | None:
    """The state of an interrupted training of the very same task, if there is one."""
    if not path.exists():
        return None
    saved = torch.load(path, weights_only=True, map_location="cpu")
    return TrainingState(**saved["state"]) if saved["key"] == key else None
