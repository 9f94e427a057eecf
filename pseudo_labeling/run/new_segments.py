"""A finished run of the segment route on new cases that trained nothing (UM-SAM: Eq. 5 on test pictures)."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pseudo_labeling.run.cluster_pass import STAGE, read_clusters
from pseudo_labeling.run.new_cases import finished_entry
from pseudo_labeling.run.segment_mask_pass import mask_of
from pseudo_labeling.run.segment_pass import Segmenting, weights_used
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings
from pseudo_labeling.weights.files import WeightSpecs

logger = logging.getLogger(__name__)


class FinishedSegments:
    """Segments of new slices, each in the nearest of the stored clusters; nothing is trained.

    For a training case this is exactly its pseudo-label.

    Args:
        files: the working folder of a dataset that `pseudo_label` has been through.
        device: where to compute.

    Raises:
        UserError: the dataset was not labelled to the end.
    """

    def __init__(self, files: Workspace, device: torch.device | str = "cpu") -> None:
        entry = finished_entry(files)
        self.files = files
        self.device = torch.device(device)
        self.settings = Settings.from_dict(entry["settings"])
        self.recorded: dict[str, Any] = entry["weights"]
        specs = {role: record["spec"] for role, record in self.recorded.items()}
        self.specs = WeightSpecs(specs.get("clip", "none"), specs["sam"], "none", specs.get("dino", "none"))
        self._centroids, self._chosen = read_clusters(files)

    def facts(self) -> dict[str, Any]:
        """What the masks depend on besides the scan: settings, weights, clusters; plain JSON types."""
        used = weights_used(self.settings, self.specs)
        for role, record in used.items():
            if record.sha256 != self.recorded[role]["sha256"]:
                logger.warning("%s: %s is not the file that made the labels", self.files.dataset.name, record.name)
        record = self.files.path(STAGE, f"{STAGE}.json").read_text(encoding="utf-8")
        return {
            "settings": self.settings.to_dict(),
            "weights": {role: {"name": record.name, "sha256": record.sha256} for role, record in used.items()},
            "clusters": record,
        }

    def mask(self, slices: np.ndarray) -> np.ndarray:
        """The object's mask `(z, y, x)` bool of slices `(z, y, x)` or `(z, y, x, 3)` uint8."""
        return mask_of(self._segmenting(slices), self.settings, self._centroids, self._chosen, len(slices))[0]

    @cached_property
    def _segmenting(self) -> Segmenting:
        return Segmenting(self.settings.segments, self.specs, self.device, pictures=self.files.pictures)
