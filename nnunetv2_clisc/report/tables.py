"""The tables of a report: cells that know by what they are sorted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_conversion.files import read_json, sha256_of
from nnunetv2_clisc.report.measures import Measures
from nnunetv2_clisc.report.records import CaseSlices, Curves
from nnunetv2_clisc.report.sources import Run
from nnunetv2_clisc.scoring.evaluation import Evaluation
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.tables import NOTHING
from nnunetv2_clisc.scoring.tables import number as plain_number
from nnunetv2_clisc.training.s3f import Decision
from pseudo_labeling.settings import Settings


@dataclass(frozen=True)
class Cell:
    """A cell; numbers are sorted by `key`, text by itself, and what has no value comes last.

    Attributes:
        text: shown.
        key: number to sort by, None for text.
        look: class for the style sheet, e.g. `code`.
    """

    text: str
    key: float | None = None
    look: str = ""


@dataclass(frozen=True)
class HtmlTable:
    """A table that a click on a heading sorts.

    Attributes:
        caption: one sentence.
        header: headings; a text after `|` explains one under the pointer.
        rows: as wide as the header.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def cases_table(
    run: Run,
    measures: Measures,
    counts: Mapping[str, Mapping[str, int]],
    slices: Mapping[str, CaseSlices],
    decisions: Sequence[Decision],
    split: Mapping[str, str],
) -> HtmlTable:
    """Every case in `imagesTr` with all that is known of it."""
    decided = {d.agreement.case: d for d in decisions}
    evaluated = (
        ("DSC label|pseudo-label against the mask given, in %", measures.labels),
        ("DSC round 1|round 1's prediction against the mask given, in %", measures.round_1),
    )
    scored = [(heading, of) for heading, of in evaluated if of is not None]
    header = [
        "Case", "Split", *(heading for heading, _ in scored),
        *(["Similarity|S3F: Dice of round 1's prediction and SAM's answer to it", "Round 2"] if decided else []),
        *(["Slices", "Segments|all that SAM sees", "Chosen|segments in the object's cluster"] if run.clusters else
          ["ROI~mask|Dice of ROI and pseudo-label", "Slices", "Tumour|slices labelled tumour", "ROI|voxels"]),
        "Mask|voxels of the pseudo-label", "Mask ml",
    ]  # fmt: skip
    rows = []
    for case in run.files.cases():
        known = counts.get(case, {})
        tumour = known.get("tumour_slices", sum(slices[case].label) if case in slices else None)
        depth = known.get("slices", len(slices[case].label) if case in slices else None)
        row = [Cell(case), Cell(split.get(case, NOTHING))]
        row += [number(of.cases[case]["dsc"] if case in of.cases else None, 1, 100) for _, of in scored]
        if decided:
            decision = decided.get(case)
            row += [number(decision.agreement.similarity if decision else None, 3), _fate(decision)]
        if run.clusters is None:
            row += [number(measures.agreement.get(case), 2), whole(depth), whole(tumour)]
            row += [whole(known.get(name)) for name in ("roi_voxels", "mask_voxels")]
        else:
            row += [whole(known.get(name)) for name in ("slices", "segments", "chosen_segments", "mask_voxels")]
        rows.append([*row, number(measures.label_ml.get(case), 1)])
    return HtmlTable(f"All {len(rows)} cases of imagesTr", header, rows)


def clusters_table(path: Path) -> HtmlTable:
    """The clusters of segments, of which one is the object."""
    record = read_json(path)
    header = ["Cluster", "", "Segments", "Cases|that have one, in %", "Aspect|mean width over height",
              "Area|mean, in mm²", "Brightness|mean, over that of the slice without air"]  # fmt: skip
    rows = [
        [
            whole(row["cluster"]),
            Cell("chosen" if row["chosen"] else ""),
            whole(row["segments"]),
            number(row["share_of_cases"], 0, 100),
            number(row["aspect"], 2),
            number(row["area_mm2"], 0),
            number(row["brightness"], 2),
        ]
        for row in record["clusters"]
    ]
    caption = (
        f"Nearest to {record['attribute']} = {record['prior']:g}: cluster {record['chosen']}; four other seeds choose "
        f"the same segments to {100 * record['stability']:.0f} % (Jaccard)"
    )
    return HtmlTable(caption, header, rows)


def dropped_table(decisions: Sequence[Decision], measures: Measures) -> HtmlTable:
    """What S3F dropped, the least similar first."""
    dropped = sorted((d for d in decisions if not d.kept), key=lambda d: d.agreement.similarity or 0.0)
    scores = measures.round_1.cases if measures.round_1 is not None else {}
    header = ["Case", "Similarity", "Prediction|voxels", "SAM|voxels", "Reason", *(["DSC round 1"] if scores else [])]
    rows = []
    for d in dropped:
        a = d.agreement
        row = [
            Cell(a.case),
            number(a.similarity, 3),
            whole(a.predicted_voxels),
            whole(a.sam_voxels),
            Cell(d.reason),
        ]
        rows.append(row + ([number(scores[a.case]["dsc"] if a.case in scores else None, 1, 100)] if scores else []))
    return HtmlTable(f"The {len(rows)} cases that S3F dropped", header, rows)


def predictions_table(evaluation: Evaluation) -> HtmlTable:
    """The user's predictions against masks."""
    shown = ("dsc", "hd95_mm", "assd_mm", "precision", "recall", "reference_ml", "prediction_ml")
    rows = [
        [Cell(case), *(number(values[name], METRICS[name].digits, METRICS[name].scale) for name in shown)]
        for case, values in evaluation.cases.items()
    ]
    return HtmlTable(f"{evaluation.name} against the masks given", ["Case", *(METRICS[n].heading for n in shown)], rows)


def settings_table(record: Mapping[str, Any]) -> HtmlTable:
    """Every setting as recorded beside the paper's value; what differs stands out."""
    paper = _flat(Settings().to_dict())
    rows = []
    for name, value in _flat(record.get("settings", {})).items():
        known = paper.get(name)
        differs = name in paper and _plain(known) != _plain(value)
        look = "changed" if differs else ""
        default = _said(known) if name in paper else NOTHING
        rows.append([Cell(name, look="code"), Cell(_said(value), look=look), Cell(default)])
    return HtmlTable(
        "Settings of the labels; what differs from the paper is in bold", ["Setting", "Here", "Paper"], rows
    )


def weights_table(run: Run, summary: Mapping[str, Any], curves: Sequence[Curves]) -> HtmlTable:
    """Every network with the SHA-256 of its weights: what was given, and what was trained."""
    names = {"clip": "CLIP", "sam": "SAM", "dino": "DINO"}
    given = run.record.get("weights", {})
    rows = [[names.get(role, role), _origin(one), one.get("sha256", NOTHING)] for role, one in given.items()]
    if summary.get("sam") and summary["sam"] != given.get("sam"):
        rows.append(["SAM in S3F", _origin(summary["sam"]), summary["sam"].get("sha256", NOTHING)])
    for name, words in (("raw", "Slice classifier"), ("amda", "Slice classifier, AMDA")):
        path = run.files.root / "classifier" / f"{name}.json"
        if path.is_file():
            record = read_json(path)
            rows.append([words, f"trained here from {record['origin']}", next(iter(record["files"].values()), NOTHING)])
    for one in curves:
        rows.append([f"Network, round {one.number}", f"trained here, {one.checkpoint.name}", sha256_of(one.checkpoint)])
    return HtmlTable(
        "Weights",
        ["Network", "From", "SHA-256"],
        [[Cell(a), Cell(b), Cell(c, look="code")] for a, b, c in rows],
    )


def versions_table(record: Mapping[str, Any]) -> HtmlTable:
    """The packages that made the labels."""
    rows = [[Cell(name, look="code"), Cell(version)] for name, version in record.get("versions", {}).items()]
    return HtmlTable("Package versions when the labels were made", ["Package", "Version"], rows)


def number(value: float | None, digits: int, scale: float = 1.0) -> Cell:
    """A number to be sorted by its full precision."""
    value = math.nan if value is None else value
    return Cell(plain_number(scale * value, digits).replace("-", "−"), value, "number")


def whole(value: int | None) -> Cell:
    """A count, thousands apart."""
    return number(None, 0) if value is None else Cell(f"{value:,}".replace(",", "\u202f"), value, "number")


def _fate(decision: Decision | None) -> Cell:
    if decision is None:
        return Cell(NOTHING)
    return Cell("kept") if decision.kept else Cell("dropped", look="dropped")


def _origin(weight: Mapping[str, Any]) -> str:
    spec, name = str(weight.get("spec", "")), str(weight.get("name", ""))
    return name or Path(spec).name or NOTHING


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
