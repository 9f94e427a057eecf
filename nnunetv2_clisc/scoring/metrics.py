"""Numbers for one pair of masks: overlap, surface distances in mm, volumes in ml.

A new metric is one more entry of the dictionary that `measure_case` returns and one more row of `METRICS`; summary,
JSON and tables take the metrics as they come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from nnunetv2_clisc.scoring.masks import Foreground
from pseudo_labeling.roi import box_around

Hd95Definition = Literal["pooled", "larger"]
EmptyPolicy = Literal["nan", "worst", "public-code"]


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        heading: in tables, with its unit.
        definition: one line for the JSON file.
        better: whether a higher or a lower value is better; `None` for what is not ranked.
        scale: factor from the stored value to the one in the tables of `compare`.
        digits: after the decimal point in those tables.
    """

    heading: str
    definition: str
    better: Literal["higher", "lower"] | None = None
    scale: float = 1.0
    digits: int = 2


METRICS = {
    "dsc": Metric("DSC (%)", "volume overlap, 0 to 1; undefined if both masks are empty", "higher", 100),
    "hd95_mm": Metric("HD95 (mm)", "95th percentile of the surface distances; undefined if a mask is empty", "lower"),
    "assd_mm": Metric(
        "ASSD (mm)", "mean of both directions' surface distances pooled; undefined if a mask is empty", "lower"
    ),
    "iou": Metric("IoU (%)", "share of the union that both cover, 0 to 1; undefined if both are empty", "higher", 100),
    "precision": Metric("Precision (%)", "share of the prediction that is right, 0 to 1", "higher", 100),
    "recall": Metric("Recall (%)", "share of the reference that is found, 0 to 1", "higher", 100),
    "volume_error_ml": Metric("Volume error (ml)", "predicted minus reference volume"),
    "volume_error_relative": Metric(
        "Volume error (%)", "predicted minus reference volume, as a share of the reference", None, 100, 1
    ),
    "reference_ml": Metric("Reference (ml)", "reference volume"),
    "prediction_ml": Metric("Prediction (ml)", "predicted volume"),
}


@dataclass(frozen=True)
class MetricSettings:
    """What is a matter of convention.

    Attributes:
        hd95: `pooled` takes the percentile of the distances of both directions together, as medpy does; `larger` takes
            the larger of the two directions' percentiles, as MONAI does.
        empty_policy: what stands for a value that an empty mask leaves undefined. `nan`: nothing, it is counted.
            `worst`: the BraTS challenge's penalty, the diagonal of the volume for distances and 0 for shares, or the
            best value where both masks are empty. `public-code`: distance 0 where the prediction is empty, as in
            CLISC's public code.
        foreground: which labels are the tumour, see `read_mask`; by default a mask has one.
        pred_foreground: those of the predictions, where they are others than the references'.
    """

    hd95: Hd95Definition = "pooled"
    empty_policy: EmptyPolicy = "nan"
    foreground: Foreground | None = None
    pred_foreground: Foreground | None = None


def dice(prediction: np.ndarray, reference: np.ndarray, *, both_empty: float = math.nan) -> float:
    """Overlap 2|A∩B| / (|A|+|B|), 0 to 1: the volume Dice of masks, and the F1 of labels; 0 if just one is empty.

    Args:
        prediction, reference: bool arrays of one shape.
        both_empty: what to return if both are.
    """
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else both_empty


def iou(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Intersection over union |A∩B| / |A∪B|, 0 to 1; NaN if both are empty."""
    return _share(np.count_nonzero(prediction & reference), np.count_nonzero(prediction | reference))


def precision(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Share of the prediction inside the reference, 0 to 1; NaN if the prediction is empty."""
    return _share(np.count_nonzero(prediction & reference), np.count_nonzero(prediction))


def recall(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Share of the reference inside the prediction, 0 to 1; NaN if the reference is empty."""
    return precision(reference, prediction)


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of one mask to the nearest surface voxel of the other, both ways.

    A surface voxel is a mask voxel with a face on the background or on the edge of the volume. A volume of one slice is
    a picture: its masks have an outline in their plane, and no face above or below. Neighbours are looked up in a tree
    of the surface voxels: unlike a distance transform its cost does not grow with the empty space between parts, and
    the distances are the same.

    Args:
        prediction, reference: bool masks of one shape, neither empty.
        spacing_mm: voxel size in mm in the order of the array's axes, `(z, y, x)`.

    Returns:
        From prediction to reference, and from reference to prediction.
    """
    prediction, reference, spacing_mm = _in_its_plane(prediction, reference, spacing_mm)
    return _distances(prediction, reference, spacing_mm)


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
        definition: see `MetricSettings`.
    """
    if not prediction.any() or not reference.any():
        return math.nan
    return _hd95(*surface_distances(prediction, reference, spacing_mm), definition)


def assd(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    """Average symmetric surface distance in mm, both directions pooled (as medpy and MONAI); NaN if a mask is empty.

    Args:
        prediction, reference: bool masks of one shape.
        spacing_mm: voxel size in mm, `(z, y, x)`.
    """
    if not prediction.any() or not reference.any():
        return math.nan
    return _assd(*surface_distances(prediction, reference, spacing_mm))


def measure_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, ...],
    settings: MetricSettings = MetricSettings(),
) -> dict[str, float]:
    """Every metric of one case by its name in the JSON; NaN where it is undefined and the settings leave it so.

    Args:
        prediction, reference: bool masks of one shape, `(z, y, x)`.
        spacing_mm: voxel size in mm, `(z, y, x)`.
    """
    ml = math.prod(spacing_mm) / 1000
    prediction, reference, spacing_mm = _in_its_plane(prediction, reference, spacing_mm)
    either = prediction | reference
    # every voxel outside the box is background in both; only the diagonal of the penalty needs the whole shape
    box = box_around(either) if either.any() else (slice(0, 1),) * either.ndim
    ours, theirs = prediction[box], reference[box]
    ours_ml, theirs_ml = np.count_nonzero(ours) * ml, np.count_nonzero(theirs) * ml
    case = {"dsc": dice(ours, theirs), "hd95_mm": math.nan, "assd_mm": math.nan}
    if ours_ml and theirs_ml:
        distances = _distances(ours, theirs, spacing_mm)
        case |= {"hd95_mm": _hd95(*distances, settings.hd95), "assd_mm": _assd(*distances)}
    case |= {
        "iou": iou(ours, theirs),
        "precision": precision(ours, theirs),
        "recall": recall(ours, theirs),
        "volume_error_ml": ours_ml - theirs_ml,
        "volume_error_relative": _share(ours_ml - theirs_ml, theirs_ml),
        "reference_ml": theirs_ml,
        "prediction_ml": ours_ml,
    }
    diagonal_mm = math.hypot(*(n * mm for n, mm in zip(prediction.shape, spacing_mm, strict=True)))
    stand_ins = _for_empty(settings.empty_policy, ours_ml == 0, theirs_ml == 0, diagonal_mm)
    return case | {name: value for name, value in stand_ins.items() if math.isnan(case[name])}


def _for_empty(policy: EmptyPolicy, no_prediction: bool, no_reference: bool, diagonal_mm: float) -> dict[str, float]:
    """What stands for metrics that an empty mask leaves undefined."""
    if policy == "public-code" and no_prediction:
        return {"hd95_mm": 0.0, "assd_mm": 0.0}
    if policy == "worst":
        right = no_prediction and no_reference
        distance, share = (0.0, 1.0) if right else (diagonal_mm, 0.0)
        shares = dict.fromkeys(("dsc", "iou", "precision", "recall"), share)
        return {**shares, "hd95_mm": distance, "assd_mm": distance}
    return {}


def _in_its_plane(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Both masks and their spacing without the axes along which the whole volume has one voxel."""
    kept = [axis for axis, length in enumerate(prediction.shape) if length > 1] or [0]
    shape = tuple(prediction.shape[axis] for axis in kept)
    return prediction.reshape(shape), reference.reshape(shape), tuple(spacing_mm[axis] for axis in kept)


def _distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    box = box_around(prediction | reference)
    ours, theirs = (_surface_mm(mask[box], spacing_mm) for mask in (prediction, reference))
    return KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]


def _hd95(forth: np.ndarray, back: np.ndarray, definition: Hd95Definition) -> float:
    if definition == "larger":
        return float(max(np.percentile(forth, 95), np.percentile(back, 95)))
    return float(np.percentile(np.concatenate([forth, back]), 95))


def _assd(forth: np.ndarray, back: np.ndarray) -> float:
    return float(np.concatenate([forth, back]).mean())


def _surface_mm(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Places of a mask's surface voxels in mm, `(n, axes)`."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing_mm, dtype=float)


def _share(part: Any, whole: Any) -> float:  # numpy counts and Python numbers
    return float(part) / float(whole) if whole else math.nan
