"""The two ways from scans to labels: a classifier's CAM prompts SAM, or a cluster of all that SAM sees is kept.

Both have the same shape: a first stage case by case, a second that needs all cases, masks case by case, and a last one
that checks and declares. Only a route knows what its stages are called and do.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch

from dataset_conversion.files import read_json, sha256_of
from pseudo_labeling.run.cam_pass import CamPasses
from pseudo_labeling.run.cluster_pass import ClusterPass
from pseudo_labeling.run.finish import Finished, Summary, finish_run
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.mask_pass import MaskPass
from pseudo_labeling.run.segment_mask_pass import SegmentMaskPass
from pseudo_labeling.run.segment_pass import SegmentPass, weights_used
from pseudo_labeling.run.slice_label_pass import SliceLabelPass
from pseudo_labeling.slice_labels import SliceLabels
from pseudo_labeling.stage_names import EVERYTHING_STAGES, PROMPTED_STAGES
from pseudo_labeling.weights.files import identify


class SharedPass(Protocol):
    """A stage whose cases may be shared among processes."""

    def record(self, case: str) -> dict[str, Any] | None:
        """The record of a finished case, None when it must be (re)done."""

    def prepare(self) -> None:
        """Load what :meth:`make` needs."""

    def make(self, case: str) -> Callable[[], object]:
        """Do one case, and return what writes it."""


class Route(ABC):
    """The stages of a run.

    Args:
        run: what all stages share.
        overlay_every: one overlay for this many cases.
    """

    stages: tuple[str, str, str, str]

    def __init__(self, run: RunInputs, overlay_every: int) -> None:
        self.run = run
        self.overlay_every = overlay_every

    @property
    @abstractmethod
    def first(self) -> SharedPass:
        """The first stage."""

    @property
    @abstractmethod
    def masks(self) -> SharedPass:
        """The stage that writes labels."""

    @abstractmethod
    def learn(self) -> None:
        """The second stage; it needs the first one of all cases."""

    @abstractmethod
    def check_learned(self) -> None:
        """Raise a `UserError` where the second stage is not done."""

    @abstractmethod
    def finish(self) -> Summary:
        """The last stage: check everything and declare the labels complete."""


class CamRoute(Route):
    """CLIP or a person labels slices, a classifier learns from them, its CAM prompts SAM (CLISC, C2S)."""

    stages = PROMPTED_STAGES

    @cached_property
    def first(self) -> SliceLabelPass:
        return SliceLabelPass(self.run)

    @cached_property
    def masks(self) -> MaskPass:
        return MaskPass(self.run, self._passes, self.overlay_every)

    def learn(self) -> None:
        torch.manual_seed(self.run.settings.seed)
        self.first.write_table(self._labels)
        self._passes.train()

    def check_learned(self) -> None:
        self._passes.check_trained()

    def finish(self) -> Summary:
        self.check_learned()
        labels, passes, run, given = self._labels, self._passes, self.run, self.first.given
        classifier = read_json(run.files.root / "classifier" / f"{passes.final}.json")

        def counts(case: str, record: dict[str, Any]) -> dict[str, Any]:
            found = {name: record[name] for name in ("prompted_slices", "roi_voxels", "mask_voxels")}
            agreement = {"agreement": record.get("agreement", "")} if run.settings.sam.candidates > 1 else {}
            label = labels[case].label
            return {"slices": len(label), "tumour_slices": int(label.sum())} | found | agreement

        specs = run.specs
        return finish_run(
            run,
            {case: self.masks.record(case) for case in run.cases},
            Finished(
                counts,
                run.ignored,
                {
                    "clip": dataclasses.asdict(identify("clip", specs.clip)),
                    "sam": dataclasses.asdict(identify("sam", specs.sam)),
                    "classifier": dataclasses.asdict(identify("resnet50", specs.classifier)),
                },
                {
                    "classifier": {"initial_weights": classifier["origin"], "best_epoch": classifier["best_epoch"]},
                    "image_labels": None if given is None else sha256_of(given),
                },
            ),
        )

    @cached_property
    def _labels(self) -> dict[str, SliceLabels]:
        return self.first.labels()

    @cached_property
    def _passes(self) -> CamPasses:
        return CamPasses(self.run, self._labels)


class SegmentRoute(Route):
    """SAM segments everything, segments are clustered, one cluster is the object (UM-SAM)."""

    stages = EVERYTHING_STAGES

    @cached_property
    def first(self) -> SegmentPass:
        return SegmentPass(self.run)

    @cached_property
    def masks(self) -> SegmentMaskPass:
        return SegmentMaskPass(self.run, self.first, self._clusters, self.overlay_every)

    def learn(self) -> None:
        self._clusters.make()

    def check_learned(self) -> None:
        self._clusters.check_made()

    def finish(self) -> Summary:
        run, clusters = self.run, self._clusters.check_made()
        segments = {case: self.first.record(case) or {} for case in run.cases}

        def counts(case: str, record: dict[str, Any]) -> dict[str, Any]:
            found = {name: record[name] for name in ("segments", "chosen_segments", "mask_voxels")}
            return {"slices": segments[case]["slices"]} | found

        facts = {name: clusters[name] for name in ("chosen", "attribute", "prior", "stability")}
        weights = {role: dataclasses.asdict(each) for role, each in weights_used(run.settings, run.specs).items()}
        return finish_run(
            run,
            {case: self.masks.record(case) for case in run.cases},
            Finished(counts, lambda case: segments[case]["ignored"], weights, {"clusters": facts}),
        )

    @cached_property
    def _clusters(self) -> ClusterPass:
        return ClusterPass(self.run, self.first)


def route_of(run: RunInputs, overlay_every: int) -> Route:
    """The route that the settings ask for (`masks.source`)."""
    route = CamRoute if run.settings.masks.source == "prompted" else SegmentRoute
    return route(run, overlay_every)
