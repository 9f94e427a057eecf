"""A finished run on new cases that trained nothing: CLIP, the stored classifier, CAM, prompts, SAM (paper 2.1, 2.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json, sha256_of
from pseudo_labeling.cam_methods import case_cams
from pseudo_labeling.classifier import SliceClassifier, build_classifier
from pseudo_labeling.roi import prompting_regions, roi_from_cam
from pseudo_labeling.run.classifier_files import Which, final_pass, load_classifier
from pseudo_labeling.run.workspace import Workspace, chance_of
from pseudo_labeling.sam.segmenter import Pick, SamSegmenter
from pseudo_labeling.settings import PromptSettings, Settings
from pseudo_labeling.slice_labels import (
    SliceLabels,
    encode_prompts,
    head_fraction,
    labels_from_probability,
    tumour_probability,
)
from pseudo_labeling.weights.files import identify
from pseudo_labeling.weights.models import ClipBundle, SamBundle, load_backbone_state, load_clip, load_sam

logger = logging.getLogger(__name__)


class Networks:
    """CLIP and SAM, each loaded when first asked for, so that several classifiers can share them."""

    def __init__(self, clip: str, sam: str, device: torch.device | str = "cpu") -> None:
        """Args: clip, sam: `embedded`, `paper`, a known name or a file; device: where both go."""
        self.device = torch.device(device)
        self.clip_spec, self.sam_spec = clip, sam

    @cached_property
    def clip(self) -> ClipBundle:
        return load_clip(self.clip_spec, self.device)

    @cached_property
    def sam(self) -> SamBundle:
        return load_sam(self.sam_spec, self.device)


def finished_entry(files: Workspace) -> dict[str, Any]:
    """What `pseudo_label` wrote of a finished run.

    Raises:
        UserError: the dataset was not labelled to the end.
    """
    entry = read_json(files.dataset_json).get("clisc")
    if entry is None:
        raise UserError(f"{files.dataset_json}: no finished 'clisc' entry; run `nnUNetv2_clisc pseudo_label` first")
    return dict(entry)


class FinishedRun:
    """What a finished `pseudo_label` run has learned, applied to slices of other cases; nothing is trained.

    The stages are the pipeline's own functions with the settings in `dataset.json`. Slice labels are always CLIP's,
    also where the user gave labels of the training cases, since new cases have none.

    Args:
        files: the working folder of a dataset that `pseudo_label` has been through.
        device: where to compute.
        networks: CLIP and SAM to share with another finished run; by default those that made the labels.

    Raises:
        UserError: the dataset was not labelled to the end.
    """

    def __init__(self, files: Workspace, device: torch.device | str = "cpu", networks: Networks | None = None) -> None:
        entry = finished_entry(files)
        self.files = files
        self.device = torch.device(device)
        self.settings = Settings.from_dict(entry["settings"])
        if self.settings.masks.source != "prompted":
            raise UserError(
                f"{files.dataset_json}: labelled from segments (masks.source = 'everything'), so there is no CAM; "
                "name a dataset labelled with another --preset"
            )
        self.recorded: dict[str, Any] = entry["weights"]
        self.networks = networks or Networks(self.recorded["clip"]["spec"], self.recorded["sam"]["spec"], device)
        self._classifiers: dict[str, SliceClassifier] = {}

    @property
    def final(self) -> Which:
        """The classifier whose CAM prompts SAM: after AMDA, unless that is switched off."""
        return final_pass(self.settings.amda.alpha)

    def facts(self, which: Which, *, sam: bool) -> dict[str, Any]:
        """What the results depend on besides the scan: settings, weights, classifier; plain JSON types.

        Raises:
            UserError: the classifier is missing or damaged.
        """
        used = {"clip": identify("clip", self.networks.clip_spec)}
        if sam:
            used["sam"] = identify("sam", self.networks.sam_spec)
        for role, record in used.items():
            if record.sha256 != self.recorded[role]["sha256"]:
                logger.warning("%s: %s is not the file that made the labels", self.files.dataset.name, record.name)
        return {
            "settings": self.settings.to_dict(),
            "weights": {role: {"name": record.name, "sha256": record.sha256} for role, record in used.items()},
            "classifier": {"which": which, "sha256": self._classifier_sha256(which)},
        }

    # ---- stages

    def labels(self, slices: np.ndarray, slice_mm: float) -> SliceLabels:
        """Slice labels of one case by CLIP, with the dataset's prompts and rules (paper 2.1.1, Eq. 1).

        Where every slice gets a map whatever its label, all are 1 and CLIP is not asked.

        Args:
            slices: `(z, y, x)` uint8, from :func:`pseudo_labeling.slices.axial_slices`, or a picture's.
            slice_mm: distance of neighbouring slices.
        """
        if self.settings.cam.slices == "all":
            everywhere = np.ones(len(slices), dtype=np.int64)
            return SliceLabels(everywhere.astype(np.float32), everywhere, everywhere.astype(bool))
        probability = tumour_probability(slices, self.networks.clip, self._text, self.device)
        return labels_from_probability(probability, head_fraction(slices), self.settings.slice_labels, slice_mm)

    def cam(self, which: Which, slices: np.ndarray, label: np.ndarray) -> np.ndarray:
        """CAMs of the tumour slices, `(z, y, x)` float16 in [0, 1]; of several methods, that of the first.

        Args:
            which: the classifier before or after AMDA.
            slices: `(z, y, x)` uint8.
            label: `(z,)`, 1 = tumour.
        """
        return self.cams(which, slices, label)[0]

    def cams(self, which: Which, slices: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
        """CAMs of each method, the one that makes the ROI first; arguments as in :meth:`cam`."""
        cams = case_cams(slices, label, self.settings, self.classifier(which), self.device)
        if which == "amda" and self.settings.amda.with_first:
            cams = [np.maximum(*both) for both in zip(cams, self.cams("raw", slices, label), strict=True)]
        return cams

    def roi(self, which: Which, slices: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The binarised CAM of one case, `(z, y, x)` bool; arguments as in :meth:`cam`."""
        return roi_from_cam(self.cam(which, slices, label), slices, self.settings.roi)

    def mask(
        self,
        slices: np.ndarray,
        roi: np.ndarray,
        pixel_mm: float,
        prompting: PromptSettings | None = None,
        *,
        case: str = "",
        cams: Sequence[np.ndarray] = (),
        pick: Pick | None = None,
    ) -> np.ndarray:
        """SAM's masks of one case, `(z, y, x)` bool (paper 2.2).

        Args:
            slices: `(z, y, x)` uint8.
            roi: `(z, y, x)` bool.
            pixel_mm: edge of a pixel.
            prompting: instead of the dataset's.
            case: its name, which decides what is drawn at random for it.
            cams: from :meth:`cams`, where points are drawn from one or several methods prompt SAM.
            pick: chooses among candidates instead of the dataset's rule.
        """
        prompting = prompting or self.settings.prompts
        seed = chance_of(self.settings.seed, case)
        regions = prompting_regions(roi, cams, slices, self.settings.roi, sampled=prompting.points == "sampled")
        return self._segmenter.segment(slices, regions, prompting, pixel_mm, seed=seed, pick=pick).mask

    def classifier(self, which: Which) -> SliceClassifier:
        """The stored classifier, in evaluation mode on the device.

        Raises:
            UserError: missing, damaged, or not of this dataset's settings.
        """
        if which not in self._classifiers:
            self._classifier_sha256(which)
            path = self.files.root / "classifier" / f"{which}.pt"
            self._classifiers[which] = load_classifier(self._built(None), path, self.device)
        return self._classifiers[which]

    def use_untrained(self) -> Which:
        """Map with :meth:`untrained` from now on; returns its name."""
        self._classifiers["raw"] = self.untrained().to(self.device).eval()
        return "raw"

    def untrained(self) -> SliceClassifier:
        """The classifier as training found it, its last layer drawn at random; a control."""
        backbone, spec = self.settings.classifier.backbone, self.recorded.get("classifier", {}).get("spec", "none")
        return self._built(None if backbone == "clip" else load_backbone_state(backbone, spec))

    # ---- helpers

    def _built(self, weights: dict[str, torch.Tensor] | None) -> SliceClassifier:
        settings = self.settings.classifier
        clip = self.networks.clip if settings.backbone in ("auto", "clip") else None
        return build_classifier(settings, clip, weights, self.settings.seed)[0]

    @cached_property
    def _text(self) -> torch.Tensor:
        return encode_prompts(self.networks.clip, self.settings.slice_labels, self.device)

    @cached_property
    def _segmenter(self) -> SamSegmenter:
        return SamSegmenter(self.networks.sam.model, self.settings.sam, self.device)

    def _classifier_sha256(self, which: Which) -> str:
        if which == "amda" and self.final == "raw":
            raise UserError(
                f"{self.files.dataset.name}: labelled with amda.alpha = 0, there is no AMDA classifier; use --which raw"
            )
        record = read_json(self.files.root / "classifier" / f"{which}.json")
        name, expected = next(iter(record["files"].items()))
        path = self.files.dataset / name
        if not path.is_file() or sha256_of(path) != expected:
            raise UserError(f"{path}: missing or damaged; run pseudo_label again, which trains it anew")
        return str(expected)
