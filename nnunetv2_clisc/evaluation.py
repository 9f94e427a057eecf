"""Compare a folder of predicted masks with a folder of reference masks, case by case."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from dataset_conversion.errors import ConversionError
from dataset_conversion.volumes import check_same_grid, list_volumes, read_volume
from nnunetv2_clisc.errors import ClisError
from nnunetv2_clisc.metrics import MetricSettings, measure_case
from nnunetv2_clisc.statistics import MetricSummary, correlation, summarise

MAX_THREADS = 8


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one method.

    Attributes:
        name: of the method.
        cases: metrics of each case, by case name.
    """

    name: str
    cases: Mapping[str, Mapping[str, float]]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in their order."""
        return list(next(iter(self.cases.values())))

    def values(self, metric: str) -> list[float]:
        """One metric of every case, in the cases' order."""
        return [case[metric] for case in self.cases.values()]

    def summary(self) -> dict[str, MetricSummary]:
        """Each metric over all cases."""
        return {metric: summarise(self.values(metric)) for metric in self.metrics}

    def volume_correlation(self) -> float:
        """Pearson's correlation of predicted and reference volumes over cases; NaN where it is undefined."""
        return correlation(self.values("prediction_ml"), self.values("reference_ml"))

    def only(self, cases: Collection[str]) -> Evaluation:
        """The same method on some of its cases, in the order given."""
        return Evaluation(self.name, {case: self.cases[case] for case in cases})


def evaluate_folders(
    pred: Path,
    gt: Path,
    *,
    name: str | None = None,
    cases: Collection[str] | None = None,
    threads: int | None = None,
    settings: MetricSettings = MetricSettings(),
) -> Evaluation:
    """Compare two folders of masks, case by case, by file name without extension.

    Args:
        pred, gt: folders of masks with the values 0 and 1.
        name: of the method; by default the name of the folder `pred`.
        cases: evaluate these only; by default the two folders must hold the same cases.
        threads: cases measured at once; by default one per CPU core, at most 8.
        settings: definition of HD95, and what stands for values that an empty mask leaves undefined.

    Raises:
        ClisError: an empty folder, different cases, shapes or geometries, or another value than 0 and 1 in a mask.
    """
    pred, gt = Path(pred), Path(gt)
    predictions, references = mask_files(pred), mask_files(gt)
    wanted = sorted(predictions.keys() | references.keys()) if cases is None else sorted(set(cases))
    if not wanted:
        raise ClisError(f"{pred}: no case to evaluate; name at least one")
    for folder, files, other in ((pred, predictions, gt), (gt, references, pred)):
        if missing := [case for case in wanted if case not in files]:
            more = f" ({len(missing)} cases are missing)" if len(missing) > 1 else ""
            needed = "it was asked for" if cases is not None else f"{other} has it"
            raise ClisError(f"{folder}: has no mask of case {missing[0]}, but {needed}{more}; compare the same cases")
    title = name or pred.resolve().name
    pool = ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1))
    try:
        futures = [pool.submit(_measure_files, predictions[case], references[case], settings) for case in wanted]
        bar = tqdm(zip(wanted, futures, strict=True), total=len(wanted), desc=title, unit="case", disable=None)
        measured = {case: future.result() for case, future in bar}
    finally:
        pool.shutdown(cancel_futures=True)
    return Evaluation(title, measured)


def mask_files(folder: Path) -> dict[str, Path]:
    """Masks in a folder by case name.

    Raises:
        ClisError: no such folder, none in it, or two files for one case.
    """
    try:
        return list_volumes(folder, strip_channel=False)
    except ConversionError as error:
        raise ClisError(str(error)) from error


def _measure_files(prediction: Path, reference: Path, settings: MetricSettings) -> dict[str, float]:
    try:
        images = [read_volume(path) for path in (prediction, reference)]
        check_same_grid(images[1], reference, images[0], prediction)
    except ConversionError as error:
        raise ClisError(str(error)) from error
    masks = [_as_mask(image, path) for image, path in zip(images, (prediction, reference), strict=True)]
    return measure_case(masks[0], masks[1], images[1].GetSpacing()[::-1], settings)


def _as_mask(image: sitk.Image, path: Path) -> np.ndarray:
    voxels = sitk.GetArrayViewFromImage(image)
    mask = np.asarray(voxels == 1)
    other = voxels[~mask & (voxels != 0)]
    if other.size:
        raise ClisError(f"{path}: has the value {other[0]:g}, but a mask holds only 0 and 1; convert it first")
    return mask
