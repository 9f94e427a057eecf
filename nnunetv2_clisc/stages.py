"""Which stage earns what: slice labels, CAMs, pseudo-labels and predictions against masks. Evaluation only."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_conversion.volumes import read_image
from nnunetv2_clisc.errors import ClisError
from nnunetv2_clisc.evaluation import evaluate_folders
from nnunetv2_clisc.labelling import raw_dataset
from nnunetv2_clisc.statistics import MetricSummary
from pseudo_labeling.slices import read_scan
from pseudo_labeling.workspace import ENDING, Workspace

STAGES = (("raw CAM (ROI)", "roi_raw"), ("AMDA CAM (ROI)", "roi_amda"))


def slice_label_scores(files: Workspace, gt: Path, cases: Sequence[str]) -> tuple[float, float, int]:
    """F1 and area under the ROC curve of the slice labels of cases.

    Returns:
        F1 and AUC in [0, 1], and the number of slices.

    Raises:
        ClisError: there are no slice labels yet.
    """
    table = files.root / "slice_labels.csv"
    if not table.is_file():
        raise ClisError(f"{table}: not there; run `nnUNetv2_clisc pseudo_label` first")
    found: dict[str, list[tuple[int, int, float]]] = {}
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["case"], []).append((int(row["slice"]), int(row["label"]), float(row["probability"])))
    truth, label, probability = [], [], []
    for case in cases:
        scan = read_scan(files.image(case))
        mask = scan.stack_from_image(read_image(gt / f"{case}{ENDING}"))
        lesion = [bool(slice_mask.any()) for slice_mask in mask]
        by_file_slice = {scan.file_slice(z): with_lesion for z, with_lesion in enumerate(lesion)}
        for z, predicted, p_tumour in found[case]:
            truth.append(by_file_slice[z])
            label.append(predicted)
            probability.append(p_tumour)
    t, y = np.array(truth), np.array(label) == 1
    f1 = 2 * (t & y).sum() / max(t.sum() + y.sum(), 1)
    return float(f1), auc(np.array(probability), t), len(t)


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve, NaN where all slices are alike.

    Args:
        score: `(n,)` float, ties allowed.
        truth: `(n,)` bool.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score)) if 0 < int(truth.sum()) < len(truth) else float("nan")


def stage_table(dataset_id: int, gt: Path, predictions: Sequence[str] = ()) -> str:
    """A text table of all stages against masks.

    Args:
        dataset_id: of a dataset that `pseudo_label` has been through.
        gt: masks `CASE.nii.gz`; training cases without a mask here are left out.
        predictions: `NAME=DIR` of further rows, each scored on the cases in its folder.

    Raises:
        ClisError: no mask fits a training case, or a `--pred` that is not NAME=DIR.
    """
    files = Workspace(raw_dataset(dataset_id))
    cases = [case for case in files.cases() if (gt / f"{case}{ENDING}").is_file()]
    if not cases:
        raise ClisError(f"--gt {gt}: has no mask of a case in {files.images_dir}; name the folder of CASE{ENDING}")
    f1, area, slices = slice_label_scores(files, gt, cases)
    lines = [f"{'stage':<26}{'cases':>6}{'DSC %':>16}{'HD95 mm':>18}{'no HD95':>9}"]
    lines.append(f"{'slice labels':<26}{len(cases):>6}   F1 {f1:.3f}, AUC {area:.3f} ({slices} slices)")
    folders = [(name, files.root / stage) for name, stage in STAGES] + [("SAM pseudo-labels", files.labels_dir)]
    for text in predictions:
        title, equals, where = text.partition("=")
        if not equals:
            raise ClisError(f"--pred {text}: write NAME=DIR")
        folders.append((title, Path(where)))
    for name, folder in folders:
        present = [p.name[: -len(ENDING)] for p in sorted(folder.glob(f"*{ENDING}"))]
        scored = [case for case in present if (gt / f"{case}{ENDING}").is_file()]
        if scored:
            summary = evaluate_folders(folder, gt, cases=scored).summary()
            lines.append(f"{name:<26}{len(scored):>6}{_percent(summary['dsc']):>16}{_mm(summary['hd95_mm'])}")
    return "\n".join(lines)


def _percent(metric: MetricSummary) -> str:
    return f"{100 * metric.mean:.1f} ± {100 * metric.sd:.1f}"


def _mm(metric: MetricSummary) -> str:
    return f"{metric.mean:.1f} ± {metric.sd:.1f}".rjust(18) + f"{metric.nan:>9}"
