"""Everything that SAM sees in the slices of every case, on disk: the first stage of the segment route (UM-SAM 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from pseudo_labeling.embedded.models import ConvImageEncoder
from pseudo_labeling.run.classifier_files import write_npz
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.workspace import Workspace, key_of
from pseudo_labeling.sam.everything import Everything
from pseudo_labeling.sam.features import FeatureMaps, clip_maps, dino_maps, features_of, sam_maps
from pseudo_labeling.sam.segments import Segments, from_arrays, segments_of
from pseudo_labeling.settings import SegmentSettings, Settings
from pseudo_labeling.weights.files import WeightSpecs, identify, needed_weights
from pseudo_labeling.weights.models import load_clip, load_dino, load_sam

STAGE = "segments"


class Segmenting:
    """SAM's everything mode and the features of its segments, of single cases.

    Args:
        settings: of the segments.
        specs: weights.
        device: where to compute.
        pictures: whether cases are pictures, which have no air around a head.
    """

    def __init__(self, settings: SegmentSettings, specs: WeightSpecs, device: torch.device, *, pictures: bool) -> None:
        sam = load_sam(specs.sam, device).model
        self._everything = Everything(
            sam,
            points_per_side=settings.points_per_side,
            confidence=settings.confidence,
            stability=settings.stability,
            one_mask=isinstance(sam.image_encoder, ConvImageEncoder),
            head_only=not pictures,
        )
        self._maps: FeatureMaps | None = None
        if settings.features == "clip":
            self._maps = clip_maps(load_clip(specs.clip, device), device)
        elif settings.features == "dino":
            self._maps = dino_maps(load_dino(specs.dino, device), device)
        elif settings.features == "sam":
            self._maps = sam_maps(sam, device)

    def __call__(self, slices: np.ndarray) -> Segments:
        """All segments of a case; slices `(z, y, x)` or `(z, y, x, 3)` uint8."""
        found = [self._everything(image) for image in slices]
        return segments_of(slices, found, features_of(slices, found, self._maps))


class SegmentPass:
    """Segments of the cases of a run; no case needs another, so they may be shared among processes.

    Args:
        run: what all stages share.
    """

    def __init__(self, run: RunInputs) -> None:
        self.run = run
        self._segmenting: Segmenting | None = None

    def record(self, case: str) -> dict[str, Any] | None:
        """The record of a finished case, None when it must be (re)done."""
        return self.run.files.record(STAGE, case, self._key(case))

    def prepare(self) -> None:
        """Load SAM and the network of the features, so that a broken weight file is no failure of a case."""
        run = self.run
        self._segmenting = Segmenting(run.settings.segments, run.specs, run.device, pictures=run.files.pictures)

    def make(self, case: str) -> Callable[[], object]:
        """Segment every slice of a case.

        Returns:
            What writes the segments and, last, their record; it may run while the next case is made.
        """
        if self._segmenting is None:
            raise RuntimeError("prepare() loads SAM before the first case")
        scan, slices = self.run.read(case)
        found = self._segmenting(slices)
        return partial(self._write, case, found, len(slices), scan.pixel_mm, list(scan.ignored))

    def segments(self, case: str) -> Segments:
        """The segments of a finished case."""
        return read_segments(self.run.files, case)

    def _write(self, case: str, found: Segments, depth: int, pixel_mm: float, ignored: list[str]) -> None:
        files = self.run.files
        path = files.path(STAGE, f"{case}.npz")
        write_npz(path, **found.arrays())
        facts = {"segments": len(found), "slices": depth, "pixel_mm": pixel_mm, "ignored": ignored}
        files.finish(STAGE, case, self._key(case), [path], **facts, device=str(self.run.device))

    def _key(self, case: str) -> str:
        return key_of(self.run.images[case], *key_parts(self.run.settings, self.run.specs), *self.run.squares(case))


def key_parts(settings: Settings, specs: WeightSpecs) -> list[Any]:
    """What segments and their features depend on besides the scan; the shape prior is applied later."""
    each = settings.segments
    grid = [each.points_per_side, each.confidence, each.stability, each.features]
    return [settings.window, *grid, *(record.sha256 for record in weights_used(settings, specs).values())]


def weights_used(settings: Settings, specs: WeightSpecs) -> dict[str, Any]:
    """Records of the weights that make segments: SAM's and, where it has any, those of the features' network.

    Raises:
        UserError: a file that is missing.
    """
    return {role: identify(role, spec) for role, spec in needed_weights(settings, specs).items()}


def read_segments(files: Workspace, case: str) -> Segments:
    """The segments of a case, as :class:`SegmentPass` wrote them."""
    with np.load(files.path(STAGE, f"{case}.npz")) as arrays:
        return from_arrays(arrays)
