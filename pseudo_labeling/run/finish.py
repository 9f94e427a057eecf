"""The end of a labelling run: every case is checked, then the table and `dataset.json` say that it is complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataset_conversion.files import read_object, remove_partial, sha256_of, write_json, write_table
from pseudo_labeling.run.inputs import Records, RunInputs
from pseudo_labeling.run.mask_pass import STAGE
from pseudo_labeling.run.workspace import key_of

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
SHORT = {
    "tumour_slices": "tumour",
    "prompted_slices": "prompted",
    "roi_voxels": "ROI voxels",
    "chosen_segments": "chosen",
}


@dataclass(frozen=True)
class Finished:
    """What a route says of its finished run.

    Attributes:
        counts: of a case, from its name and the record of its label; columns of `summary.csv`.
        ignored: what the intensity window of a case left out.
        weights: record of each network's weights by role.
        facts: what `dataset.json` is told beside.
    """

    counts: Callable[[str, dict[str, Any]], dict[str, Any]]
    ignored: Callable[[str], list[str]]
    weights: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """What a run made, a row a case; prints as a table."""

    rows: list[dict[str, Any]]
    empty_cases: list[str]
    by_hand: list[str]
    overlays: Path
    table: Path

    def __str__(self) -> str:
        columns = [name for name, value in self.rows[0].items() if isinstance(value, int) and name != "by_hand"]
        titles = {name: SHORT.get(name, name.replace("_", " ")) for name in columns}
        widths = {name: max(8, len(title) + 2) for name, title in titles.items()}
        lines = [f"{'case':<32}" + "".join(f"{titles[name]:>{widths[name]}}" for name in columns)]
        lines += [
            f"{row['case']:<32}" + "".join(f"{row[name]:>{widths[name]}}" for name in columns) for row in self.rows
        ]
        if self.empty_cases:
            lines.append(f"empty pseudo-labels ({len(self.empty_cases)}): {', '.join(self.empty_cases)}")
        if self.by_hand:
            lines.append(f"changed by hand and kept ({len(self.by_hand)}): {', '.join(self.by_hand)}")
        return "\n".join([*lines, f"table: {self.table}", f"overlays: {self.overlays}"])


def finish_run(run: RunInputs, records: Records, finished: Finished) -> Summary:
    """Verify every case by the SHA-256 of its files, then write `summary.csv` and the entry `clisc` of `dataset.json`.

    Args:
        run: what all stages share.
        records: of each case's label, None where there is none for these settings.
        finished: what the route says of the run.

    Raises:
        UserError: cases whose pseudo-label is missing, was changed, or was made with other settings.
    """
    found = run.all_finished("pseudo-labels", run.files.labels_dir, STAGE, records)
    rows = [
        {
            "case": case,
            **finished.counts(case, record),
            "by_hand": int("by_hand" in record),
            "ignored": "; ".join(finished.ignored(case)),
        }
        for case, record in found.items()
    ]
    remove_partial(run.files.dataset)  # all is there, so nobody is writing any more
    table = run.files.path("", "summary.csv")
    write_table(table, list(rows[0]), rows)
    devices = sorted({str(record.get("device", run.device)) for record in found.values()})
    by_hand = [row["case"] for row in rows if row["by_hand"]]
    _write_dataset_json(run, finished, by_hand, ", ".join(devices))
    empty = [row["case"] for row in rows if row["mask_voxels"] == 0]
    return Summary(rows, empty, by_hand, run.files.root / "overlays", table)


def _write_dataset_json(run: RunInputs, finished: Finished, by_hand: list[str], device: str) -> None:
    content = read_object(run.files.dataset_json)
    content["clisc"] = {
        "settings": run.settings.to_dict(),
        "weights": dict(finished.weights),
        **finished.facts,
        "digests": {  # a trainer sees by them whether it is given these labels and scans
            "labels": key_of({case: sha256_of(run.files.label(case)) for case in run.cases}),
            "scans": key_of(run.images),
        },
        "by_hand": by_hand,
        "device": device,
        "versions": {name: version(name) for name in PACKAGES},
        "seed": run.settings.seed,
    }
    write_json(run.files.dataset_json, content)
