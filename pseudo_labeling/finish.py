"""The end of a labelling run: every case is checked, then the table and `dataset.json` say that it is complete."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataset_conversion.files import read_json, sha256_of, write_json, write_table
from pseudo_labeling import weights
from pseudo_labeling.cam_pass import CamPasses
from pseudo_labeling.context import RunContext
from pseudo_labeling.mask_pass import STAGE, MaskPass
from pseudo_labeling.slice_labels import SliceLabels

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
class Summary:
    """What a run made, a row a case; prints as a table."""

    rows: list[dict[str, Any]]
    empty_cases: list[str]
    overlays: Path
    table: Path

    def __str__(self) -> str:
        lines = [f"{'case':<32}{'slices':>8}{'tumour':>8}{'prompted':>10}{'ROI voxels':>12}{'mask voxels':>13}"]
        lines += [
            f"{row['case']:<32}{row['slices']:>8}{row['tumour_slices']:>8}{row['prompted_slices']:>10}"
            f"{row['roi_voxels']:>12}{row['mask_voxels']:>13}"
            for row in self.rows
        ]
        if self.empty_cases:
            lines.append(f"empty pseudo-labels ({len(self.empty_cases)}): {', '.join(self.empty_cases)}")
        return "\n".join([*lines, f"table: {self.table}", f"overlays: {self.overlays}"])


def finish_run(run: RunContext, labels: dict[str, SliceLabels], passes: CamPasses, masks: MaskPass) -> Summary:
    """Verify every case by the SHA-256 of its files, then write `summary.csv` and the entry `clisc` of `dataset.json`.

    Args:
        run: what all stages share.
        labels: slice labels of each case.
        passes: classifier, CAMs and ROIs.
        masks: pseudo-labels.

    Raises:
        PseudoLabelError: cases whose pseudo-label is missing, was changed, or was made with other settings.
    """
    records = {case: masks.record(case) for case in run.cases}
    found = run.all_finished("pseudo-labels", run.files.labels_dir, STAGE, records)
    rows = [
        {
            "case": case,
            "slices": len(labels[case].label),
            "tumour_slices": int(labels[case].label.sum()),
            **{name: record[name] for name in ("prompted_slices", "roi_voxels", "mask_voxels")},
            "ignored": "; ".join(run.ignored(case)),
        }
        for case, record in found.items()
    ]
    for leftover in run.files.labels_dir.iterdir():  # of a process that was killed while it wrote
        if re.match(r"\.\d+\..", leftover.name):
            leftover.unlink()
    table = run.files.path("", "summary.csv")
    write_table(table, list(rows[0]), rows)
    devices = sorted({str(record.get("device", run.device)) for record in found.values()})
    _write_dataset_json(run, passes, ", ".join(devices))
    empty = [row["case"] for row in rows if row["mask_voxels"] == 0]
    return Summary(rows, empty, run.files.root / "overlays", table)


def _write_dataset_json(run: RunContext, passes: CamPasses, device: str) -> None:
    content = read_json(run.files.dataset_json)
    classifier = read_json(run.files.root / "classifier" / f"{passes.final}.json")
    content["clisc"] = {
        "settings": run.settings.to_dict(),
        "weights": {
            "clip": dataclasses.asdict(weights.identify("clip", run.specs.clip)),
            "sam": dataclasses.asdict(weights.identify("sam", run.specs.sam)),
        },
        "classifier": {"initial_weights": classifier["origin"], "best_epoch": classifier["best_epoch"]},
        "image_labels": None if run.image_labels is None else sha256_of(run.image_labels),
        "device": device,
        "versions": {name: version(name) for name in PACKAGES},
        "seed": run.settings.seed,
    }
    write_json(run.files.dataset_json, content)
