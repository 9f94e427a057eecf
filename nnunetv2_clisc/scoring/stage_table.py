"""Which stage earns what: slice labels, CAMs, pseudo-labels and predictions against masks. Evaluation only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_table
from dataset_conversion.scans.volumes import read_image
from nnunetv2_clisc.environment import raw_dataset
from nnunetv2_clisc.scoring.evaluation import evaluate_folders, mask_files
from nnunetv2_clisc.scoring.masks import Foreground, image_of, read_mask, turned_to
from nnunetv2_clisc.scoring.metrics import MetricSettings, dice
from nnunetv2_clisc.scoring.statistics import MetricSummary
from pseudo_labeling.run.workspace import ENDING, Workspace
from pseudo_labeling.slices import read_scan

STAGES = (("raw CAM (ROI)", "roi_raw"), ("AMDA CAM (ROI)", "roi_amda"))


def slice_label_scores(
    files: Workspace, gt: Path, cases: Sequence[str], foreground: Foreground | None = None
) -> tuple[float, float, int]:
    """F1 and area under the ROC curve of the slice labels of cases.

    Returns:
        F1 and AUC in [0, 1], and the number of slices.

    Raises:
        UserError: there are no slice labels yet, or a mask that does not fit its scan.
    """
    table = files.root / "slice_labels.csv"
    if not table.is_file():
        raise UserError(f"{table}: not there; run `nnUNetv2_clisc pseudo_label` first")
    found: dict[str, list[tuple[int, int, float]]] = {}
    again = "run `nnUNetv2_clisc pseudo_label` again"
    for line, row in enumerate(read_table(table, again), start=2):
        try:
            values = int(row["slice"]), int(row["label"]), float(row.get("probability") or row["label"])  # by hand
            found.setdefault(row["case"], []).append(values)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{table}: line {line} is no row of case, slice, label and probability; {again}") from error
    truth, label, probability = [], [], []
    masks = mask_files(gt)
    for case in cases:
        if case not in found:
            raise UserError(f"{table}: has no slice of case {case}; {again}")
        scan = read_scan(files.image(case))
        image = turned_to(read_image(files.image(case)), files.image(case), read_image(masks[case]), masks[case])
        mask = read_mask(image, masks[case], foreground).voxels
        lesion = [bool(each.any()) for each in scan.stack_from_image(image_of(mask, image))]
        by_file_slice = {scan.file_slice(z): with_lesion for z, with_lesion in enumerate(lesion)}
        for z, predicted, p_tumour in found[case]:
            if z not in by_file_slice:
                raise UserError(f"{table}: has slice {z} of {case}, which has {len(lesion)}; run pseudo_label again")
            truth.append(by_file_slice[z])
            label.append(predicted)
            probability.append(p_tumour)
    return slice_scores(np.array(label), np.array(probability), np.array(truth))


def slice_scores(label: np.ndarray, probability: np.ndarray, truth: np.ndarray) -> tuple[float, float, int]:
    """F1 and AUC of slice labels, and their number.

    Args:
        label: `(n,)`, 1 = tumour.
        probability: `(n,)` of a tumour.
        truth: `(n,)` bool.
    """
    return dice(label == 1, truth, both_empty=0.0), auc(probability, truth), len(truth)


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve, NaN where all slices are alike.

    Args:
        score: `(n,)` float, ties allowed.
        truth: `(n,)` bool.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, score)) if 0 < int(truth.sum()) < len(truth) else float("nan")


def stage_table(
    dataset_id: int | str, gt: Path, predictions: Sequence[str] = (), *, foreground: Foreground | None = None
) -> str:
    """A text table of all stages against masks.

    Args:
        dataset_id: of a dataset that `pseudo_label` has been through.
        gt: folder of masks; training cases without a mask here are left out.
        predictions: `NAME=DIR` of further rows, each scored on the cases in its folder.
        foreground: labels of the tumour in the masks, see `read_mask`; predictions hold one.

    Raises:
        UserError: no mask fits a training case, or a `--pred` that is not NAME=DIR or has no case of the masks.
    """
    files = Workspace(raw_dataset(dataset_id))
    masks = mask_files(gt)
    cases = [case for case in files.cases() if case in masks]
    if not cases:
        raise UserError(
            f"--gt {gt}: has no mask of a case in {files.images_dir}; a mask is named like its scan, but here is "
            f"{min(masks)} and there {files.cases()[0]}, for example"
        )
    folders = [(name, files.root / stage) for name, stage in STAGES] + [("SAM pseudo-labels", files.labels_dir)]
    rows = [
        (name, folder, {file.name.removesuffix(ENDING) for file in folder.glob(f"*{ENDING}")})
        for name, folder in folders
    ]
    for text in predictions:
        title, equals, where = text.partition("=")
        if not (title and equals and where):
            raise UserError(f"--pred {text}: write NAME=DIR")
        rows.append((title, Path(where), set(mask_files(Path(where)))))
        if not rows[-1][2] & masks.keys():
            raise UserError(f"--pred {text}: has no case of --gt {gt}; name the folder of its predictions")
    f1, area, slices = slice_label_scores(files, gt, cases, foreground)
    lines = [f"{'stage':<26}{'cases':>6}{'DSC %':>16}{'HD95 mm':>18}{'no HD95':>9}"]
    lines.append(f"{'slice labels':<26}{len(cases):>6}   F1 {f1:.3f}, AUC {area:.3f} ({slices} slices)")
    settings = MetricSettings(foreground=foreground, pred_foreground="any" if foreground else None)
    for name, folder, present in rows:
        if scored := present & masks.keys():
            summary = evaluate_folders(folder, gt, cases=scored, settings=settings).summary()
            lines.append(f"{name:<26}{len(scored):>6}{_percent(summary['dsc']):>16}{_mm(summary['hd95_mm'])}")
    return "\n".join(lines)


def _percent(metric: MetricSummary) -> str:
    return f"{100 * metric.mean:.1f} ± {100 * metric.sd:.1f}"


def _mm(metric: MetricSummary) -> str:
    return f"{metric.mean:.1f} ± {metric.sd:.1f}".rjust(18) + f"{metric.nan:>9}"
