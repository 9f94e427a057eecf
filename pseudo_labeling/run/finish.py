"""The end of a labelling run: every case is checked, then the table and `dataset.json` say that it is complete."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataset_conversion.files import read_json, read_object, remove_partial, sha256_of, write_json, write_table
from pseudo_labeling.run.cam_pass import CamPasses
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.mask_pass import STAGE, MaskPass
from pseudo_labeling.run.workspace import key_of
from pseudo_labeling.slice_labels import SliceLabels
from pseudo_labeling.weights.files import identify

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
    by_hand: list[str]
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
        if self.by_hand:
            lines.append(f"changed by hand and kept ({len(self.by_hand)}): {', '.join(self.by_hand)}")
        return "\n".join([*lines, f"table: {self.table}", f"overlays: {self.overlays}"])


def finish_run(
    run: RunInputs, labels: dict[str, SliceLabels], given: Path | None, passes: CamPasses, masks: MaskPass
) -> Summary:
    """Verify every case by the SHA-256 of its files, then write `summary.csv` and the entry `clisc` of `dataset.json`.

    Args:
        run: what all stages share.
        labels: slice labels of each case.
        given: the table of a person that they were read from; None where they are CLIP's.
        passes: classifier, CAMs and ROIs.
        masks: pseudo-labels.

    Raises:
        UserError: cases whose pseudo-label is missing, was changed, or was made with other settings.
    """
    records = {case: masks.record(case) for case in run.cases}
    found = run.all_finished("pseudo-labels", run.files.labels_dir, STAGE, records)
    rows = [
        {
            "case": case,
            "slices": len(labels[case].label),
            "tumour_slices": int(labels[case].label.sum()),
            **{name: record[name] for name in ("prompted_slices", "roi_voxels", "mask_voxels")},
            **({"agreement": record.get("agreement", "")} if run.settings.sam.candidates > 1 else {}),
            "by_hand": int("by_hand" in record),
            "ignored": "; ".join(run.ignored(case)),
        }
        for case, record in found.items()
    ]
    remove_partial(run.files.dataset)  # all is there, so nobody is writing any more
    table = run.files.path("", "summary.csv")
    write_table(table, list(rows[0]), rows)
    devices = sorted({str(record.get("device", run.device)) for record in found.values()})
    by_hand = [row["case"] for row in rows if row["by_hand"]]
    _write_dataset_json(run, given, by_hand, passes, ", ".join(devices))
    empty = [row["case"] for row in rows if row["mask_voxels"] == 0]
    return Summary(rows, empty, by_hand, run.files.root / "overlays", table)


def _write_dataset_json(run: RunInputs, given: Path | None, by_hand: list[str], passes: CamPasses, device: str) -> None:
    content = read_object(run.files.dataset_json)
    classifier = read_json(run.files.root / "classifier" / f"{passes.final}.json")
    content["clisc"] = {
        "settings": run.settings.to_dict(),
        "weights": {
            "clip": dataclasses.asdict(identify("clip", run.specs.clip)),
            "sam": dataclasses.asdict(identify("sam", run.specs.sam)),
            "classifier": dataclasses.asdict(identify("resnet50", run.specs.classifier)),
        },
        "classifier": {"initial_weights": classifier["origin"], "best_epoch": classifier["best_epoch"]},
        "digests": {  # a trainer sees by them whether it is given these labels and scans
            "labels": key_of({case: sha256_of(run.files.label(case)) for case in run.cases}),
            "scans": key_of(run.images),
        },
        "image_labels": None if given is None else sha256_of(given),
        "by_hand": by_hand,
        "device": device,
        "versions": {name: version(name) for name in PACKAGES},
        "seed": run.settings.seed,
    }
    write_json(run.files.dataset_json, content)
