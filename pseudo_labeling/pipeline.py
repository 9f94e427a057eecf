"""The stages strung together: scans of an nnU-Net raw dataset in, `labelsTr` out; resumes where it was killed."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pseudo_labeling import models, weights
from pseudo_labeling.cam_pass import CamPasses
from pseudo_labeling.classifier import SliceClassifier, build_classifier
from pseudo_labeling.downloads import sha256_of
from pseudo_labeling.errors import PseudoLabelError
from pseudo_labeling.overlays import save_overlay
from pseudo_labeling.sam import SamSegmenter
from pseudo_labeling.settings import Settings
from pseudo_labeling.slice_labels import (
    SliceLabels,
    encode_prompts,
    head_fraction,
    labels_from_probability,
    read_image_labels,
    tumour_probability,
)
from pseudo_labeling.slices import Scan, read_scan, window_volume, write_mask
from pseudo_labeling.workspace import (
    Workspace,
    key_of,
    read_json,
    write_json,
    write_table,
)

logger = logging.getLogger(__name__)

PACKAGES = (
    "nnunetv2-clisc",
    "nnunetv2",
    "torch",
    "torchvision",
    "segment-anything",
    "open_clip_torch",
    "timm",
    "numpy",
)


@dataclass(frozen=True)
class WeightSpecs:
    """Where each network's weights come from: `embedded`, `paper` or a file."""

    clip: str
    sam: str
    classifier: str  # ImageNet weights of a ResNet50 backbone; unused where CLIP's own tower is the backbone


@dataclass(frozen=True)
class Summary:
    """What a run made, a row a case."""

    rows: list[dict[str, Any]]
    empty_cases: list[str]
    overlays: Path
    table: Path


class PseudoLabeling:
    """One run of all stages over the cases in `imagesTr` of a dataset (paper 2.1 and 2.2).

    Args:
        dataset: folder `nnUNet_raw/DatasetNNN_NAME`.
        settings: of every stage.
        specs: weights.
        device: `cpu`, `cuda`, ...
        image_labels: the user's slice labels, used instead of CLIP.
        overlay_every: one overlay for this many cases.
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
    ) -> None:
        self.files = Workspace(dataset)
        self.settings = settings
        self.specs = specs
        self.device = torch.device(device)
        self.image_labels = image_labels
        self.overlay_every = overlay_every
        self.cases = self.files.cases()

    def run(self) -> Summary:
        """Run what is not yet done.

        Raises:
            PseudoLabelError: whatever the user can mend.
        """
        self.files.claim_labels()
        torch.manual_seed(self.settings.seed)
        images = {case: sha256_of(self.files.image(case)) for case in self.cases}
        labels = self._slice_labels(images)
        self._write_slice_labels(labels)
        passes = CamPasses(self.files, self.settings, labels, self._initial_classifier, self.device)
        rois = passes.run(
            key_of(
                [
                    (case, images[case], labels[case].label.tolist(), labels[case].confident.tolist())
                    for case in self.cases
                ],
                self.settings.window,
                self.settings.classifier,
                self.settings.seed,
                weights.identify("clip", self.specs.clip).sha256,
                weights.identify("resnet50", self.specs.classifier).sha256,
            )
        )
        summary = self._masks(images, labels, passes, rois)
        self._write_dataset_json(passes.final)
        return summary

    # ------------------------------------------------------------------------------------------------- slice labels

    @cached_property
    def _clip(self) -> models.ClipBundle:
        return models.load_clip(self.specs.clip, self.device)

    def _read(self, case: str) -> tuple[Scan, np.ndarray]:
        scan = read_scan(self.files.image(case))
        return scan, window_volume(scan.volume, self.settings.window)

    def _slice_labels(self, images: dict[str, str]) -> dict[str, SliceLabels]:
        settings = self.settings.slice_labels
        source: Any = [settings.normal_prompt, settings.tumour_prompt, weights.identify("clip", self.specs.clip).sha256]
        if self.image_labels is not None:
            source = sha256_of(self.image_labels) if self.image_labels.is_file() else None
        records: dict[str, dict[str, Any]] = {}
        text: torch.Tensor | None = None
        for case in tqdm(self.cases, desc="slice labels", unit="case"):
            key = key_of(images[case], source, self.settings.window, "slice_mm")
            record = self.files.record("slice_labels", case, key)
            if record is None:
                scan, slices = self._read(case)
                probability = np.zeros(len(slices), dtype=np.float32)
                if self.image_labels is None:
                    text = encode_prompts(self._clip, settings, self.device) if text is None else text
                    probability = tumour_probability(slices, self._clip, text, self.device)
                record = self.files.finish(
                    "slice_labels",
                    case,
                    key,
                    file_slices=[scan.file_slice(z) for z in range(len(slices))],
                    probability=probability.tolist(),
                    head=head_fraction(slices).tolist(),
                    slice_mm=scan.slice_mm,
                )
            records[case] = record
        if self.image_labels is not None:
            labels = self._labels_of_user(self.image_labels, records)
        else:
            labels = {
                case: labels_from_probability(np.array(r["probability"]), np.array(r["head"]), settings, r["slice_mm"])
                for case, r in records.items()
            }
        self._file_slices = {case: r["file_slices"] for case, r in records.items()}
        self._check_both_classes(labels)
        return labels

    def _labels_of_user(self, path: Path, records: dict[str, dict[str, Any]]) -> dict[str, SliceLabels]:
        given = read_image_labels(path, {case: len(r["head"]) for case, r in records.items()})
        labels = {}
        for case, record in records.items():
            label = given[case][record["file_slices"]]
            labels[case] = SliceLabels(label.astype(np.float32), label, np.ones(len(label), dtype=bool))
        return labels

    def _check_both_classes(self, labels: dict[str, SliceLabels]) -> None:
        found = np.concatenate([each.label for each in labels.values()])
        if 0 < found.sum() < len(found):
            return
        which = "normal" if not found.any() else "tumour"
        settings = self.settings.slice_labels
        source = (
            f"the prompts were normal = '{settings.normal_prompt}', tumour = '{settings.tumour_prompt}'; "
            "try others with --set slice_labels.tumour_prompt=..., or give --image-labels"
            if self.image_labels is None
            else f"{self.image_labels}: label some slices of the other class"
        )
        raise PseudoLabelError(
            f"{self.files.images_dir}: every slice is labelled {which}, nothing to learn from; {source}"
        )

    def _write_slice_labels(self, labels: dict[str, SliceLabels]) -> None:
        rows = []
        for case, found in labels.items():
            for z in np.argsort(self._file_slices[case]):
                rows.append(
                    {
                        "case": case,
                        "slice": self._file_slices[case][z],
                        "label": int(found.label[z]),
                        "probability": f"{found.probability[z]:.4f}",
                        "confident": int(found.confident[z]),
                    }
                )
        write_table(
            self.files.path("", "slice_labels.csv"), ["case", "slice", "label", "probability", "confident"], rows
        )

    def _initial_classifier(self) -> tuple[SliceClassifier, str]:
        settings = self.settings.classifier
        clip = self._clip if settings.backbone in ("auto", "clip") else None
        imagenet = None
        if settings.backbone in ("auto", "resnet50"):
            imagenet = models.load_resnet50_state(self.specs.classifier)
        return build_classifier(settings, clip, imagenet, self.settings.seed)

    # -------------------------------------------------------------------------------------------------- masks and end

    def _masks(
        self, images: dict[str, str], labels: dict[str, SliceLabels], passes: CamPasses, rois: dict[str, str]
    ) -> Summary:
        segmenter: SamSegmenter | None = None
        sam = weights.identify("sam", self.specs.sam).sha256
        rows: list[dict[str, Any]] = []
        overlays = self.files.root / "overlays"
        overlays.mkdir(exist_ok=True)
        for number, case in enumerate(tqdm(self.cases, desc="SAM masks", unit="case")):
            key = key_of(images[case], rois[case], self.settings.window, self.settings.prompts, self.settings.sam, sam)
            record = self.files.record("masks", case, key)
            if record is None:
                self._forget_finished_run()
                scan, slices = self._read(case)
                roi = passes.roi(passes.final, case, scan)
                if segmenter is None:
                    model = models.load_sam(self.specs.sam, self.device).model
                    segmenter = SamSegmenter(model, self.settings.sam, self.device)
                mask, prompts = segmenter.segment(slices, roi, self.settings.prompts)
                write_mask(scan, mask, self.files.label(case))
                if number % self.overlay_every == 0:
                    cam = passes.cam(passes.final, case)
                    picture = overlays / f"{case}.png"
                    save_overlay(picture, slices, cam=cam, roi=roi, prompts=prompts, mask=mask, title=case)
                record = self.files.finish(
                    "masks",
                    case,
                    key,
                    [self.files.label(case)],
                    prompted_slices=int(roi.any((1, 2)).sum()),
                    roi_voxels=int(roi.sum()),
                    mask_voxels=int(mask.sum()),
                )
            rows.append(
                {
                    "case": case,
                    "slices": len(labels[case].label),
                    "tumour_slices": int(labels[case].label.sum()),
                    **{name: record[name] for name in ("prompted_slices", "roi_voxels", "mask_voxels")},
                }
            )
        table = self.files.root / "summary.csv"
        write_table(table, list(rows[0]), rows)
        empty = [row["case"] for row in rows if row["mask_voxels"] == 0]
        return Summary(rows, empty, overlays, table)

    def _forget_finished_run(self) -> None:
        """Labels are about to change: until the end, `dataset.json` must not say that they are complete."""
        path = self.files.dataset / "dataset.json"
        content = read_json(path)
        if content.pop("clisc", None) is not None:
            write_json(path, content)

    def _write_dataset_json(self, final: str) -> None:
        path = self.files.dataset / "dataset.json"
        content = read_json(path)
        content["clisc"] = {
            "settings": self.settings.to_dict(),
            "weights": {
                "clip": dataclasses.asdict(weights.identify("clip", self.specs.clip)),
                "sam": dataclasses.asdict(weights.identify("sam", self.specs.sam)),
            },
            "classifier": self._classifier_record(final),
            "image_labels": None if self.image_labels is None else sha256_of(self.image_labels),
            "device": str(self.device),
            "versions": {name: version(name) for name in PACKAGES},
            "seed": self.settings.seed,
        }
        write_json(path, content)

    def _classifier_record(self, final: str) -> dict[str, Any]:
        record = read_json(self.files.root / "classifier" / f"{final}.json")
        return {"initial_weights": record["origin"], "best_epoch": record["best_epoch"]}
