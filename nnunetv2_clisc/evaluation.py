"""Compare predicted masks with reference masks: volume DSC and HD95 in mm, per case and over cases.

A new metric is one more entry of the dictionary that `measure_case` returns; everything after it (summary, JSON, table)
takes the metrics as they come.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from tqdm import tqdm

from dataset_conversion.errors import ConversionError
from dataset_conversion.volumes import check_same_grid, list_volumes, read_volume
from nnunetv2_clisc.errors import ClisError

MAX_THREADS = 8
Hd95Definition = Literal["pooled", "larger"]


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Volume overlap 2|A∩B| / (|A|+|B|), 0 to 1; NaN if both masks are empty, 0 if just one is.

    Args:
        prediction, reference: bool masks of one shape.
    """
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    if total == 0:
        return math.nan
    return 2.0 * float(np.count_nonzero(prediction & reference)) / float(total)


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of one mask to the nearest surface voxel of the other, both ways.

    A surface voxel is a mask voxel with a face on the background or on the edge of the volume. Only the box around both
    masks is looked at: no surface lies outside it, so the distances are those of the whole volume.

    Args:
        prediction, reference: bool masks of one shape, neither empty.
        spacing_mm: voxel size in mm in the order of the array's axes, `(z, y, x)`.

    Returns:
        From prediction to reference, and from reference to prediction.
    """
    either = prediction | reference
    lows_highs = [
        np.flatnonzero(either.any(axis=tuple(set(range(either.ndim)) - {axis}))) for axis in range(either.ndim)
    ]
    box = tuple(slice(int(found[0]), int(found[-1]) + 1) for found in lows_highs)
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (prediction, reference)]
    to_prediction, to_reference = (
        ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces
    )
    return to_reference[surfaces[0]], to_prediction[surfaces[1]]


def hd95(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, ...],
    *,
    definition: Hd95Definition = "pooled",
) -> float:
    """95th percentile of the Hausdorff distance in mm; NaN if either mask is empty.

    Args:
        prediction, reference: bool masks of one shape.
        spacing_mm: voxel size in mm, `(z, y, x)`.
        definition: `pooled` takes the percentile of the distances of both directions together, as medpy does; `larger`
            takes the larger of the two directions' percentiles, as MONAI does.
    """
    if not prediction.any() or not reference.any():
        return math.nan
    forth, back = surface_distances(prediction, reference, spacing_mm)
    if definition == "larger":
        return float(max(np.percentile(forth, 95), np.percentile(back, 95)))
    return float(np.percentile(np.concatenate([forth, back]), 95))


def measure_case(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    """Every metric of one case by its name in the JSON; NaN where it is undefined."""
    return {"dsc": dice(prediction, reference), "hd95_mm": hd95(prediction, reference, spacing_mm)}


@dataclass(frozen=True)
class MetricSummary:
    """One metric over cases.

    Attributes:
        mean, sd: over the cases where it is defined; sd is the sample's (n - 1), NaN below two cases.
        n, nan: how many cases have a value, and how many have none.
    """

    mean: float
    sd: float
    n: int
    nan: int


def summarise(values: Collection[float]) -> MetricSummary:
    """Mean and standard deviation of the values that are not NaN, with the count of those that are."""
    defined = np.array([value for value in values if not math.isnan(value)])
    return MetricSummary(
        mean=float(defined.mean()) if defined.size else math.nan,
        sd=float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        n=int(defined.size),
        nan=len(values) - int(defined.size),
    )


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one method.

    Attributes:
        name: of the method.
        cases: metrics of each case, by case name.
    """

    name: str
    cases: dict[str, dict[str, float]]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in their order."""
        return list(next(iter(self.cases.values())))

    def summary(self) -> dict[str, MetricSummary]:
        """Each metric over all cases."""
        return {metric: summarise([case[metric] for case in self.cases.values()]) for metric in self.metrics}

    def to_json(self) -> dict[str, Any]:
        """`methods.NAME.dsc.mean` and so on, and a list of cases; what is undefined is `None`."""
        methods = {
            metric: {"mean": _or_none(one.mean), "sd": _or_none(one.sd), "n": one.n, "nan": one.nan}
            for metric, one in self.summary().items()
        }
        cases = [
            {"method": self.name, "case": name} | {metric: _or_none(value) for metric, value in case.items()}
            for name, case in self.cases.items()
        ]
        definitions = {
            "dsc": "volume overlap, 0 to 1; undefined if prediction and reference are empty",
            "hd95_mm": "95th percentile of both directions' surface distances pooled (as medpy); "
            "undefined if prediction or reference is empty",
            "sd": "over cases, n - 1; undefined values are left out and counted as nan",
        }
        return {"methods": {self.name: methods}, "cases": cases, "definitions": definitions}

    def to_markdown(self) -> str:
        """Table of all cases, then mean ± sd and the count of undefined values."""
        rows = [[name, *(_number(case[metric]) for metric in self.metrics)] for name, case in self.cases.items()]
        totals = self.summary().values()
        rows.append([f"mean ± sd ({len(self.cases)} cases)", *(f"{_number(t.mean)} ± {_number(t.sd)}" for t in totals)])
        rows.append(["undefined (left out of the mean)", *(str(t.nan) for t in totals)])
        return _table([self.name, *(_HEADINGS.get(metric, metric) for metric in self.metrics)], rows)

    def save_json(self, path: Path) -> None:
        """Write `to_json()`, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            temporary.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ClisError(f"{path}: cannot be written ({error.strerror}); give another file to --json") from error


_HEADINGS = {"dsc": "DSC", "hd95_mm": "HD95 (mm)"}


def evaluate_folders(
    pred: Path, gt: Path, *, name: str | None = None, cases: Collection[str] | None = None, threads: int | None = None
) -> Evaluation:
    """Compare two folders of masks, case by case, by file name without extension.

    Args:
        pred, gt: folders of masks with the values 0 and 1.
        name: of the method; by default the name of the folder `pred`.
        cases: evaluate these only; by default the two folders must hold the same cases.
        threads: cases measured at once; by default one per CPU core, at most 8.

    Raises:
        ClisError: an empty folder, different cases, shapes or geometries, or another value than 0 and 1 in a mask.
    """
    pred, gt = Path(pred), Path(gt)
    try:
        predictions, references = (list_volumes(folder, strip_channel=False) for folder in (pred, gt))
    except ConversionError as error:
        raise ClisError(str(error)) from error
    wanted = sorted(predictions.keys() | references.keys()) if cases is None else sorted(set(cases))
    if not wanted:
        raise ClisError(f"{pred}: no case to evaluate; name at least one")
    for folder, files, other in ((pred, predictions, gt), (gt, references, pred)):
        if missing := [case for case in wanted if case not in files]:
            more = f" ({len(missing)} cases are missing)" if len(missing) > 1 else ""
            needed = "it was asked for" if cases is not None else f"{other} has it"
            raise ClisError(f"{folder}: has no mask of case {missing[0]}, but {needed}{more}; compare the same cases")
    pool = ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1))
    try:
        futures = [pool.submit(_measure_files, predictions[case], references[case]) for case in wanted]
        bar = tqdm(zip(wanted, futures, strict=True), total=len(wanted), desc="evaluating", unit="case", disable=None)
        measured = {case: future.result() for case, future in bar}
    finally:
        pool.shutdown(cancel_futures=True)
    return Evaluation(name or pred.resolve().name, measured)


def _measure_files(prediction: Path, reference: Path) -> dict[str, float]:
    try:
        images = [read_volume(path) for path in (prediction, reference)]
        check_same_grid(images[1], reference, images[0], prediction)
    except ConversionError as error:
        raise ClisError(str(error)) from error
    masks = [_as_mask(image, path) for image, path in zip(images, (prediction, reference), strict=True)]
    return measure_case(masks[0], masks[1], images[1].GetSpacing()[::-1])


def _as_mask(image: sitk.Image, path: Path) -> np.ndarray:
    voxels = sitk.GetArrayViewFromImage(image)
    mask = np.asarray(voxels == 1)
    other = voxels[~mask & (voxels != 0)]
    if other.size:
        raise ClisError(f"{path}: has the value {other[0]:g}, but a mask holds only 0 and 1; convert it first")
    return mask


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that also reads well as plain text."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        aligned = [cells[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(aligned) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])
