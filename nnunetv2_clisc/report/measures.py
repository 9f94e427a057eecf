"""The numbers of a report that are not on disk yet: agreement, scores against masks, rank correlation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import stats
from tqdm import tqdm

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import read_image
from nnunetv2_clisc.report.records import CaseSlices, decisions, slice_labels
from nnunetv2_clisc.report.sources import Run
from nnunetv2_clisc.scoring.evaluation import Evaluation, evaluate_folders
from nnunetv2_clisc.scoring.stage_table import slice_scores
from nnunetv2_clisc.training.s3f import similarity
from pseudo_labeling.run.workspace import ENDING
from pseudo_labeling.slices import Grid

EACH = 2  # best, median and worst cases shown
RESAMPLES = 2000


@dataclass(frozen=True)
class Measures:
    """What was measured for one report; everything against masks is empty where none were given.

    Attributes:
        agreement: Dice of ROI and pseudo-label of each labelled case, in [0, 1]; without an ROI empty.
        label_ml: volume of its pseudo-label in ml.
        labels: pseudo-labels against masks.
        round_1: S3F's predictions of round 1 against masks.
        pred: the user's predictions against masks.
        lesion: which slices of a case show a lesion in its mask, from foot to head.
        slices: F1, AUC and number of the slice labels.
        correlation: of S3F's similarity and the true DSC of round 1.
    """

    agreement: Mapping[str, float]
    label_ml: Mapping[str, float]
    labels: Evaluation | None
    round_1: Evaluation | None
    pred: Evaluation | None
    lesion: Mapping[str, Sequence[bool]]
    slices: tuple[float, float, int] | None
    correlation: RankCorrelation | None


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation with a bootstrap interval (95 %, percentiles, over cases)."""

    rho: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Choice:
    """Cases worth showing, with the reason in words and the value they were chosen by."""

    criterion: str
    cases: Sequence[tuple[str, str, float]]  # role, case, value


def measure(run: Run) -> Measures:
    """Compare whatever can be compared."""
    cases = run.files.cases()
    agreement, label_ml = {}, {}
    for case in tqdm(cases, desc="ROI and pseudo-label", unit="case", disable=None):
        if not run.files.label(case).is_file():
            continue
        if run.clusters is not None:
            label, ml = read_as_stored(run.files.label(case))
            label_ml[case] = ml * int(label.sum())
        elif run.roi(case).is_file():
            (roi, _), (label, ml) = read_as_stored(run.roi(case)), read_as_stored(run.files.label(case))
            if roi.shape != label.shape:
                raise UserError(f"{run.roi(case)}: not on the grid of {run.files.label(case)}; run pseudo_label again")
            agreement[case], label_ml[case] = similarity(roi, label), ml * int(label.sum())
    labels = round_1 = pred = None
    slices = correlation = None
    lesion: dict[str, list[bool]] = {}
    scored = [case for case in cases if case in run.gt]
    if run.gt:
        gt = next(iter(run.gt.values())).parent
        labels = _evaluate("pseudo-labels", run.files.labels_dir, gt, [c for c in scored if c in label_ml])
        if run.pred:
            pred = _evaluate(
                run.pred_name, next(iter(run.pred.values())).parent, gt, [c for c in run.pred if c in run.gt]
            )
        if run.fold is not None:
            predicted = [case for case in scored if run.fold.prediction(case, ENDING).is_file()]
            round_1 = _evaluate("round 1", run.fold.s3f / "predictions", gt, predicted)
        lesion = {case: _lesion_slices(run.gt[case]) for case in scored}
        slices = slice_label_scores(slice_labels(run), lesion)
    if round_1 is not None:
        correlation = similarity_against_dsc(run, round_1)
    return Measures(agreement, label_ml, labels, round_1, pred, lesion, slices, correlation)


def slice_label_scores(
    labels: Mapping[str, CaseSlices], lesion: Mapping[str, Sequence[bool]]
) -> tuple[float, float, int] | None:
    """F1 and AUC of the slice labels against masks, and the number of slices; None where no mask fits."""
    fitting = [case for case in lesion if case in labels and len(labels[case].label) == len(lesion[case])]
    if not fitting:
        return None
    label, probability = (
        np.concatenate([getattr(labels[case], of) for case in fitting]) for of in ("label", "probability")
    )
    return slice_scores(label, probability, np.concatenate([lesion[case] for case in fitting]).astype(bool))


def similarity_against_dsc(run: Run, round_1: Evaluation) -> RankCorrelation | None:
    """How far S3F's similarity ranks the training cases as their true DSC does."""
    pairs = [
        (d.agreement.similarity, round_1.cases[d.agreement.case]["dsc"])
        for d in decisions(run)[0]
        if d.agreement.similarity is not None and d.agreement.case in round_1.cases
    ]
    pairs = [pair for pair in pairs if not math.isnan(pair[1])]
    return rank_correlation(*zip(*pairs, strict=True)) if pairs else None


def rank_correlation(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> RankCorrelation:
    """Spearman's ρ; NaN below three pairs or where one side does not vary.

    Args:
        a, b: one value a case in the same order.
        seed: of the bootstrap.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return RankCorrelation(math.nan, math.nan, math.nan, int(first.size))
    # not by scipy.stats.bootstrap: a resample of one case has no ρ, and one such would make the interval NaN
    drawn = np.random.default_rng(seed).integers(0, first.size, (RESAMPLES, first.size))
    ranks = [stats.rankdata(side[drawn], axis=1) for side in (first, second)]
    x, y = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = (x * y).sum(axis=1) / spread
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return RankCorrelation(float(stats.spearmanr(first, second).statistic), float(low), float(high), int(first.size))


def choose(run: Run, measures: Measures) -> Choice:
    """Best, median and worst training cases: by DSC where masks are given, else by a criterion without any."""
    if measures.labels is not None:
        values = {case: metrics["dsc"] for case, metrics in measures.labels.cases.items()}
        return Choice("DSC of the pseudo-label against the mask given", pick(values))
    similarities = {d.agreement.case: d.agreement.similarity for d in decisions(run)[0]}
    known = {case: value for case, value in similarities.items() if value is not None}
    if known:
        return Choice("S3F similarity, the agreement of network and SAM; no masks were read", pick(known))
    if run.clusters is not None:
        return Choice("volume of the pseudo-label; no masks were read", pick(measures.label_ml))
    return Choice("Dice of ROI and pseudo-label, as S3F has not run; no masks were read", pick(measures.agreement))


def pick(values: Mapping[str, float], each: int = EACH) -> list[tuple[str, str, float]]:
    """The first, middle and last cases by value, none twice; ties in order of name."""
    order = sorted((case for case in values if not math.isnan(values[case])), key=lambda case: (-values[case], case))
    if len(order) < 3:
        return [(role, case, values[case]) for role, case in zip(("best", "worst"), order, strict=False)]
    each = min(each, len(order) // 3)
    start = (len(order) - each) // 2
    parts = {"best": order[:each], "median": order[start : start + each], "worst": order[-each:]}
    return [(role, case, values[case]) for role, cases in parts.items() for case in cases]


def _evaluate(name: str, pred: Path, gt: Path, cases: Sequence[str]) -> Evaluation | None:
    return evaluate_folders(pred, gt, name=name, cases=cases) if cases else None


def _lesion_slices(path: Path) -> list[bool]:
    return [bool(one.any()) for one in Grid.stack_from_image(read_image(path))]


def read_as_stored(path: Path) -> tuple[np.ndarray, float]:
    """A mask as the file holds it, `(z, y, x)` bool, and the volume of a voxel in ml."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be read as an image; run `nnUNetv2_clisc pseudo_label` again") from error
    return sitk.GetArrayViewFromImage(image) > 0, float(np.prod(image.GetSpacing())) / 1000
