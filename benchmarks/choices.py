"""One row for each choice behind the preset *embedded*: see `python -m benchmarks.choices --help`.

Changes one setting at a time and runs the labelling from the first stage that it touches. Masks are read for the scores
only. Finished rows stay in `OUT/rows.json`: the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from dataset_conversion.files import write_json
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.stage_table import slice_label_scores
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.run.pipeline import PseudoLabeling, WeightSpecs
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings

EMBEDDED = WeightSpecs("embedded", "embedded", "none")
BASE = "preset embedded"
CHOICES: dict[str, dict[str, Any]] = {
    BASE: {},
    "prompts: margin 0": {"prompts": {"margin": 0}},
    "prompts: margin 10": {"prompts": {"margin": 10}},
    "prompts: margin 30": {"prompts": {"margin": 30}},
    "prompts: box only": {"prompts": {"kind": "box"}},
    "prompts: points only": {"prompts": {"kind": "points"}},
    "prompts: centre and corners": {"prompts": {"points": "centre"}},
    "SAM: one pass": {"sam": {"passes": 1}},
    "SAM: no clean-up": {"sam": {"keep_fraction": 0.0}},
    "SAM: one pass, no clean-up": {"sam": {"passes": 1, "keep_fraction": 0.0}},
    "SAM: equalised image": {"sam": {"equalise": True}},
    "AMDA: none": {"amda": {"alpha": 0.0}},
    "AMDA: as in the paper": {"amda": {"masked_fraction": 1.0, "fill": "zero"}},
    "AMDA: its CAM alone": {"amda": {"with_first": False}},
    "AMDA: alpha 40": {"amda": {"alpha": 40.0}},
    "ROI: CAM alone": {"roi": {"brightness": False}},
    "ROI: 30 % of the maximum": {"roi": {"threshold": 0.3}},
    "CAM: not weighted": {"cam": {"weighted": False}},
    "CAM: layer 3": {"cam": {"layers": ["layer3"]}},
    "CAM: layers 2 and 3": {"cam": {"layers": ["layer2", "layer3"]}},
    "slice labels: argmax": {"slice_labels": {"smoothing_mm": 0.0, "threshold": "argmax", "one_run": False}},
    "slice labels: vote of 3": {
        "slice_labels": {"smoothing_mm": 0.0, "threshold": "argmax", "one_run": False, "vote_radius": 1}
    },
    "slice labels: several runs": {"slice_labels": {"one_run": False}},
    "slice labels: argmax after smoothing, one run": {"slice_labels": {"threshold": "argmax"}},
    "classifier: 96 px": {"classifier": {"image_size": 96}},
    "classifier: 192 px": {"classifier": {"image_size": 192}},
    "classifier: 256 px": {"classifier": {"image_size": 256}},
    "classifier: ResNet18, random": {"classifier": {"backbone": "resnet18", "epochs": 12}},
}


def scores(files: Workspace, gt: Path) -> dict[str, float]:
    """F1 of the slice labels, mean volume Dice of both ROIs and of the pseudo-labels."""
    cases = files.cases()
    found = {"slice F1": slice_label_scores(files, gt, cases)[0]}
    folders = {"raw ROI": files.root / "roi_raw", "AMDA ROI": files.root / "roi_amda", "pseudo-label": files.labels_dir}
    for name, folder in folders.items():
        if folder.is_dir():
            found[name] = evaluate_folders(folder, gt, cases=cases).summary()["dsc"].mean
    return found


def main() -> None:
    """Run, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="scans CASE.nii.gz")
    parser.add_argument("--labels", type=Path, required=True, help="masks CASE.nii.gz, for the scores")
    parser.add_argument("--cases", nargs="*", help="only these (default: all)")
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name contains one of these")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / "rows.json"
    rows: dict[str, dict[str, float]] = json.loads(table.read_text()) if table.is_file() else {}
    base = options.output / "base"
    for number, (name, changes) in enumerate(CHOICES.items()):
        if name in rows or not (name == BASE or any(part in name for part in options.only)):
            continue
        dataset = base if name == BASE else options.output / f"choice_{number}"
        if name != BASE:
            shutil.rmtree(dataset, ignore_errors=True)
            shutil.copytree(base, dataset)
        elif not base.exists():
            make_dataset(options.images, options.cases or [], base)
        settings = Settings().merged(PRESETS["embedded"]).merged(changes)
        PseudoLabeling(dataset, settings, EMBEDDED, overlay_every=10**6).run()
        rows[name] = scores(Workspace(dataset), options.labels)
        write_json(table, rows)
        if name != BASE:
            shutil.rmtree(dataset)
    columns = ["slice F1", "raw ROI", "AMDA ROI", "pseudo-label"]
    print(f"{'':<46}" + "".join(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<46}" + "".join(f"{row[c]:>14.3f}" if c in row else f"{'–':>14}" for c in columns))


def make_dataset(images: Path, cases: list[str], folder: Path) -> None:
    """The scans as training cases of a raw dataset, which needs no more than this to be labelled."""
    draft = folder.with_name("draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "imagesTr").mkdir(parents=True)
    (draft / "labelsTr").mkdir()
    for file in sorted(images.glob("*.nii.gz")):
        case = file.name.removesuffix(".nii.gz")
        if not cases or case in cases:
            shutil.copy(file, draft / "imagesTr" / f"{case}_0000.nii.gz")
    write_json(draft / "dataset.json", {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "tumour": 1}})
    draft.rename(folder)


if __name__ == "__main__":
    main()
