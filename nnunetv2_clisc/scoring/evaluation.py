"""Compare a folder of predicted masks with a folder of reference masks, case by case."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.scans.volumes import list_volumes, read_image
from dataset_conversion.threads import in_threads
from nnunetv2_clisc.scoring.masks import Foreground, Mask, listed, read_mask, turned_to
from nnunetv2_clisc.scoring.metrics import MetricSettings, measure_case
from nnunetv2_clisc.scoring.statistics import MetricSummary, correlation, summarise


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
        pred, gt: folders of masks. A prediction may have its axes in another order than the reference on the same grid.
        name: of the method; by default the name of the folder `pred`.
        cases: evaluate these only; by default those that both folders have.
        threads: cases measured at once; by default one per CPU core, at most 8.
        settings: definition of HD95, what stands for values that an empty mask leaves undefined, the tumour's labels.

    Raises:
        UserError: an empty folder, no case in common, different shapes or geometries, or values of which nobody said
            what they mean.
    """
    pred, gt = Path(pred), Path(gt)
    predictions, references = mask_files(pred), mask_files(gt)
    wanted = sorted(predictions.keys() & references.keys() if cases is None else set(cases))
    if not wanted and cases is None:
        raise UserError(
            f"{pred}: no case is also in {gt}; the same case must have the same name in both, but they hold "
            f"{min(predictions)} and {min(references)}, for example"
        )
    if not wanted:
        raise UserError(f"{pred}: no case to evaluate; name at least one")
    for folder, files in ((pred, predictions), (gt, references)):
        if missing := [case for case in wanted if case not in files]:
            more = f" ({len(missing)} cases are missing)" if len(missing) > 1 else ""
            raise UserError(f"{folder}: has no mask of case {missing[0]}, but it was asked for{more}; add it")
    title = name or pred.resolve().name
    jobs = {case: (predictions[case], references[case], settings) for case in wanted}
    measured = in_threads(_measure_files, jobs, title, threads)
    ours = frozenset(label for _, labels, _ in measured.values() for label in labels)
    theirs = frozenset(label for _, _, labels in measured.values() for label in labels)
    _check_labels(pred, ours, settings.pred_foreground or settings.foreground, "--pred-foreground")
    _check_labels(gt, theirs, settings.foreground, "--foreground")
    return Evaluation(title, {case: metrics for case, (metrics, _, _) in measured.items()})


def mask_files(folder: Path) -> dict[str, Path]:
    """Masks in a folder by case name.

    Raises:
        UserError: no such folder, none in it, or two files for one case.
    """
    return list_volumes(folder, strip_channel=False)


def _measure_files(
    prediction: Path, reference: Path, settings: MetricSettings
) -> tuple[dict[str, float], frozenset[int], frozenset[int]]:
    """Metrics of a case, and all labels of its prediction and of its reference."""
    ours, theirs = read_image(prediction), read_image(reference)
    ours = turned_to(theirs, reference, ours, prediction)
    masks: tuple[Mask, Mask] = (
        read_mask(ours, prediction, settings.pred_foreground or settings.foreground),
        read_mask(theirs, reference, settings.foreground),
    )
    metrics = measure_case(masks[0].voxels, masks[1].voxels, theirs.GetSpacing()[::-1], settings)
    return metrics, masks[0].labels, masks[1].labels


def _check_labels(folder: Path, labels: frozenset[int], foreground: Foreground | None, flag: str) -> None:
    """Raise where a folder has labels, but none of those that were asked for: all masks would count as empty."""
    if labels and isinstance(foreground, tuple) and not labels & set(foreground):
        raise UserError(
            f"{folder}: its masks hold {listed(labels)} beside 0, nothing of --foreground {listed(foreground, ',')}; "
            f"name its own labels with {flag} {listed(labels, ',')}"
        )
