"""Clusters of the segments of all cases, on disk, and which of them is the object (UM-SAM 2.1, Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json, write_table
from pseudo_labeling.clusters import Clusters, cluster_segments, error_curve, stability
from pseudo_labeling.run.classifier_files import write_npz
from pseudo_labeling.run.cluster_pictures import save_contact_sheet, save_error_curve
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.segment_pass import STAGE as SEGMENTS
from pseudo_labeling.run.segment_pass import SegmentPass
from pseudo_labeling.run.workspace import Workspace, key_of
from pseudo_labeling.sam.segments import attribute_of, plausible_segments

STAGE = "clusters"
COUNTS = range(2, 17)  # of the curve over the number of clusters
OTHER_SEEDS = 4  # that say how stable the choice is
SHOWN = 8  # segments of each cluster on the contact sheet
ATTRIBUTES = ("aspect", "area_mm2", "brightness")


@dataclass(frozen=True)
class Pool:
    """The plausible segments of all cases in one.

    Attributes:
        case: `(n,)` name of each one's case.
        number: `(n,)` in its case.
        features: `(n, d)`.
        attributes: `(n,)` by name.
    """

    case: np.ndarray
    number: np.ndarray
    features: np.ndarray
    attributes: dict[str, np.ndarray]


class ClusterPass:
    """K-means over the segments of all cases, and the object's cluster by its prior attribute.

    Args:
        run: what all stages share.
        segments: of each case.
    """

    def __init__(self, run: RunInputs, segments: SegmentPass) -> None:
        self.run = run
        self.segments = segments

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of finished clusters, None when they must be (re)made, or segments are missing."""
        found = {case: self.segments.record(case) for case in self.run.cases}
        if any(record is None for record in found.values()):
            return None
        return self.run.files.record(STAGE, STAGE, self.key(found))

    def key(self, records: dict[str, dict[str, Any] | None]) -> str:
        """Of all that the clusters depend on."""
        settings = self.run.settings
        made = {case: record["files"] for case, record in records.items() if record is not None}
        clusters = settings.clusters
        chosen_by = [clusters.count, clusters.attribute, clusters.prior]
        return key_of(made, settings.segments.area, settings.segments.aspect, chosen_by, settings.seed)

    def make(self) -> None:
        """Cluster what is not clustered yet.

        Raises:
            UserError: segments that are missing, none that passes the shape prior, or fewer than clusters.
        """
        files, settings = self.run.files, self.run.settings
        records: dict[str, dict[str, Any] | None] = {case: self.segments.record(case) for case in self.run.cases}
        found = self.run.all_finished("segments", files.root / SEGMENTS, SEGMENTS, records)
        key = self.key(records)
        if files.record(STAGE, STAGE, key) is not None:
            return
        pool = self._pool(found)
        asked = settings.clusters
        attribute = pool.attributes[asked.attribute]
        known = (pool.features, attribute, pool.case)
        clusters = cluster_segments(*known, asked.count, asked.prior, settings.seed)
        others = [settings.seed + 1 + more for more in range(OTHER_SEEDS)]
        errors = error_curve(pool.features, COUNTS, settings.seed)
        path = files.path(STAGE, "clusters.npz")
        write_npz(path, centroids=clusters.centroids)
        rows = self._table(pool, clusters)
        write_table(files.path(STAGE, "clusters.csv"), list(rows[0]), rows)
        save_error_curve(files.path(STAGE, "sse.png"), errors, asked.count)
        save_contact_sheet(files.path(STAGE, "contact_sheet.png"), self.run, pool.case, pool.number, clusters, SHOWN)
        files.finish(
            STAGE,
            STAGE,
            key,
            [path],
            chosen=clusters.chosen,
            attribute=asked.attribute,
            prior=asked.prior,
            clusters=rows,
            sse=errors,
            stability=round(stability(clusters, *known, asked.prior, others), 4),
        )

    def check_made(self) -> dict[str, Any]:
        """The record of the clusters.

        Raises:
            UserError: there are none for these segments and settings.
        """
        record = self.record
        if record is None:
            raise UserError(
                f"{self.run.files.root / STAGE}: no clusters of these segments and settings; run "
                f"`{self.run.command(STAGE)}` with the same settings first"
            )
        return record

    def _pool(self, records: dict[str, dict[str, Any]]) -> Pool:
        settings = self.run.settings.segments
        case, number, features = [], [], []
        attributes: dict[str, list[np.ndarray]] = {name: [] for name in ATTRIBUTES}
        for name, record in tqdm(records.items(), desc="reading segments", unit="case", leave=False):
            segments = self.segments.segments(name)
            keep = plausible_segments(segments, settings)
            if not len(keep):
                continue
            case += [name] * len(keep)
            number.append(keep)
            features.append(segments.features[keep])
            for attribute, values in attributes.items():
                values.append(attribute_of(segments, attribute, record["pixel_mm"])[keep])
        if not case:
            total = sum(record["segments"] for record in records.values())
            raise UserError(
                f"settings.segments.area, settings.segments.aspect: none of {total} segments passes the shape prior; "
                "widen it" + ("" if total else ", or lower settings.segments.confidence and .stability")
            )
        joined = {attribute: np.concatenate(values) for attribute, values in attributes.items()}
        return Pool(np.array(case), np.concatenate(number), np.concatenate(features), joined)

    def _table(self, pool: Pool, clusters: Clusters) -> list[dict[str, Any]]:
        """A row a cluster: what a person checks the choice by."""
        rows = []
        for k in range(len(clusters.centroids)):
            mine = clusters.member == k
            means = {name: round(float(values[mine].mean()), 4) for name, values in pool.attributes.items()}
            counts = {"segments": int(mine.sum()), "share_of_cases": round(float(clusters.cases[k]), 4)}
            rows.append({"cluster": k, "chosen": int(k == clusters.chosen), **counts, **means})
        return rows


def read_clusters(files: Workspace) -> tuple[np.ndarray, int]:
    """Centroids `(k, d)` of finished clusters, and the number of the object's."""
    with np.load(files.path(STAGE, "clusters.npz")) as arrays:
        centroids = np.asarray(arrays["centroids"])
    return centroids, int(read_json(files.root / STAGE / f"{STAGE}.json")["chosen"])
