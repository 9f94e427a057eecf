"""The records of a run, read and checked: slice labels, counts, training curves, what S3F decided."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json, read_table
from nnunetv2_clisc.report.sources import Run
from nnunetv2_clisc.training.checkpoints import read_checkpoint
from nnunetv2_clisc.training.fold import newest_checkpoint
from nnunetv2_clisc.training.s3f import Agreement, Decision


@dataclass(frozen=True)
class CaseSlices:
    """The slice labels of a case, slices from foot to head.

    Attributes:
        numbers: each slice's index as the file (and a viewer) counts it.
        probability: of *tumour*, in [0, 1].
        label: 1 = tumour.
        confident: 0 where the slice did not train the classifier.
    """

    numbers: Sequence[int]
    probability: Sequence[float]
    label: Sequence[int]
    confident: Sequence[int]


@dataclass(frozen=True)
class Curves:
    """nnU-Net's log of one round, as its newest checkpoint holds it."""

    number: int
    checkpoint: Path
    logging: Mapping[str, Sequence[float]]

    @property
    def epochs(self) -> int:
        return len(self.logging["train_losses"])

    @property
    def finished(self) -> bool:
        return self.checkpoint.name == "checkpoint_final.pth"

    @property
    def seconds(self) -> float:
        """Time in epochs, without what lies between them."""
        starts, ends = self.logging["epoch_start_timestamps"], self.logging["epoch_end_timestamps"]
        return float(sum(end - start for start, end in zip(starts, ends, strict=False)))


def slice_labels(run: Run) -> dict[str, CaseSlices]:
    """The slice labels of every case.

    Raises:
        UserError: the table is not ours.
    """
    table = run.files.root / "slice_labels.csv"
    if run.clusters is not None:  # no slice has a label where segments were clustered
        return {}
    found: dict[str, dict[int, dict[str, str]]] = {}
    for row in our_table(table, ("case", "slice", "label")):  # a table that was written by hand has no more
        defaults = {"probability": row["label"], "confident": "1"}
        found.setdefault(row["case"], {})[_number(table, row["slice"], int)] = defaults | row
    result = {}
    for case, rows in found.items():
        order = run.files.slice_record(case).get("file_slices") or sorted(rows)
        if sorted(order) != sorted(rows):
            raise UserError(f"{table}: {case} has other slices than its scan; run `nnUNetv2_clisc pseudo_label` again")
        result[case] = CaseSlices(
            order,
            [_number(table, rows[z]["probability"], float) for z in order],
            [_number(table, rows[z]["label"], int) for z in order],
            [_number(table, rows[z]["confident"], int) for z in order],
        )
    return result


def labelling_summary(run: Run) -> dict[str, dict[str, int]]:
    """Counts of every case from `summary.csv`; empty while the labelling is incomplete."""
    table = run.files.root / "summary.csv"
    columns = ["slices", "tumour_slices", "prompted_slices", "roi_voxels", "mask_voxels"]
    if run.clusters is not None:
        columns = ["slices", "segments", "chosen_segments", "mask_voxels"]
    if not table.is_file():
        return {}
    return {
        row["case"]: {name: _number(table, row[name], int) for name in columns}
        for row in our_table(table, ("case", *columns))
    }


def decisions(run: Run) -> tuple[list[Decision], Mapping[str, Any]]:
    """What S3F decided, a row of `similarities.csv` each, and its summary; nothing before S3F is done."""
    if run.fold is None or not (run.fold.s3f / "summary.json").is_file():
        return [], {}
    table = run.fold.s3f / "similarities.csv"
    found = []
    for row in our_table(table, ("case", "similarity", "kept", "predicted_voxels", "sam_voxels", "reason")):
        sam = _number(table, row["sam_voxels"], int) if row["sam_voxels"] else None
        value = _number(table, row["similarity"], float) if row["similarity"] else None
        agreement = Agreement(row["case"], _number(table, row["predicted_voxels"], int), sam, value)
        found.append(Decision(agreement, row["kept"] == "1", row["reason"]))
    return found, read_json(run.fold.s3f / "summary.json")


def training_curves(run: Run) -> list[Curves]:
    """The curves of each round that has a checkpoint."""
    found: list[Curves] = []
    if run.fold is None:
        return found
    for number in range(1, run.fold.rounds + 1):
        path = newest_checkpoint(run.fold.round(number))
        if path is not None:
            found.append(Curves(number, path, read_checkpoint(path)["logging"]))
    return found


def split_of(run: Run) -> dict[str, str]:
    """`train` or `val` by case in the reported fold; empty where nothing says so."""
    number = run.model.rsplit("_", 1)[-1]
    prepared = Path(os.environ.get("nnUNet_preprocessed") or "") / run.files.dataset.name / "splits_final.json"
    path = next((p for p in (prepared, run.files.dataset / "splits_final.json") if p.is_file()), None)
    if path is None or not number.isdigit():
        return {}
    folds = read_json(path)
    return (
        {case: part for part, cases in folds[int(number)].items() for case in cases} if int(number) < len(folds) else {}
    )


def our_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV written by this package.

    Raises:
        UserError: unreadable, or not with these columns.
    """
    rows = read_table(path, "make it again")
    if not rows or not set(columns) <= rows[0].keys() or any(None in row.values() for row in rows):
        raise UserError(f"{path}: not our table with the columns {','.join(columns)}; make it again")
    return rows


def _number(path: Path, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{path}: '{text}' is not a number; make the table again") from None
