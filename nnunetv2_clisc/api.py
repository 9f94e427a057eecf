"""The package from Python: what the commands do, with arguments instead of flags and numbers instead of text.

A dataset is nnU-Net's: its number (501), its name (`Dataset501_MyScans`) or the folder of that name; numbers and names
are looked up where the environment variables of nnU-Net point at. Importing this module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from dataset_conversion.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK as sitk

    from dataset_conversion.raw.dataset import ConversionSummary
    from nnunetv2_clisc.scoring.comparison import Comparison
    from nnunetv2_clisc.scoring.metrics import MetricSettings
    from nnunetv2_clisc.scoring.statistics import MetricSummary
    from pseudo_labeling.run.finish import Summary
    from pseudo_labeling.settings import Settings

__all__ = [
    "Scores",
    "UserError",
    "compare",
    "convert_folder",
    "convert_pictures",
    "evaluate",
    "pseudo_label",
    "report",
    "segment_volume",
]

AnyPath: TypeAlias = "str | PathLike[str]"
Dataset: TypeAlias = "int | AnyPath"
SomeSettings: TypeAlias = "Mapping[str, Any] | Settings | None"
Labels: TypeAlias = 'Literal["any"] | Sequence[int] | None'


@dataclass(frozen=True)
class Scores:
    """The scores of one folder of predictions.

    Attributes:
        cases: each metric of each case, by their names: `dsc`, `precision` and `recall` from 0 to 1, `hd95_mm` and
            `assd_mm`, volumes in ml; NaN where a metric is undefined.
        summary: each metric over all cases: `mean`, `sd` (n - 1), how many cases have a value (`n`) and how many none
            (`nan`).
        unpredicted: cases with a reference and no prediction, which are left out.
        unreferenced: cases with a prediction and no reference, which are left out.
    """

    cases: Mapping[str, Mapping[str, float]]
    summary: Mapping[str, MetricSummary]
    unpredicted: Sequence[str]
    unreferenced: Sequence[str]

    @property
    def means(self) -> dict[str, float]:
        """Each metric's mean over the cases where it is defined."""
        return {metric: values.mean for metric, values in self.summary.items()}


def convert_folder(
    images: AnyPath,
    dataset_id: int,
    name: str,
    *,
    labels: AnyPath | None = None,
    split: AnyPath | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
) -> ConversionSummary:
    """Make an nnU-Net raw dataset without training masks from a folder of scans (`convert folder`).

    Args:
        images: folder of `.nii.gz`, `.nii`, `.mha`, `.nrrd` or 3D `.tif` scans, one a case.
        dataset_id: of the new dataset, 1 to 999.
        name: the NAME of `DatasetNNN_NAME`.
        labels: folder of masks of the same names, label > 0 = tumour; used for test cases, and for `fullsup_id`.
        split: JSON file `{"train": [...], "val": [...], "test": [...]}`; without one, every case goes to training and
            validation, 80:20.
        fullsup_id: also make a supervised dataset of this number with the same cases and split.
        seed: of what is drawn.
        spacing: `(z, y, x)` edges of a voxel in mm, for TIFF, which does not say.

    Returns:
        Folders, counts of cases, and remarks.

    Raises:
        UserError: whatever the user can mend, in one line; nothing is left behind.
    """
    from dataset_conversion.sources.folder import convert_folder as convert

    return convert(
        Path(images),
        dataset_id=dataset_id,
        name=name,
        labels=_path(labels),
        split=_path(split),
        fullsup_id=fullsup_id,
        seed=seed,
        spacing=spacing,
    )


def convert_pictures(
    images: AnyPath,
    image_labels: AnyPath,
    dataset_id: int,
    name: str,
    *,
    labels: AnyPath | None = None,
    split: AnyPath | None = None,
    fullsup_id: int | None = None,
    seed: int = 0,
    max_edge: int = 1024,
) -> ConversionSummary:
    """Make an nnU-Net raw dataset without training masks from a folder of pictures (`convert pictures`).

    Args:
        images: folder of PNG, JPEG, TIFF or BMP pictures; a case is named by its file without extension.
        image_labels: CSV with the columns `case,label`, 0 or 1; test cases need none.
        dataset_id, name, split, fullsup_id, seed: as of :func:`convert_folder`.
        labels: folder of masks of the same names, above 0 = lesion; used as :func:`convert_folder` does.
        max_edge: pictures whose longer side has more pixels are made smaller, and their masks with them.

    Returns:
        Folders, counts of cases, and remarks.

    Raises:
        UserError: whatever the user can mend, in one line; nothing is left behind.
    """
    from dataset_conversion.sources.pictures import convert_pictures as convert

    return convert(
        Path(images),
        Path(image_labels),
        dataset_id=dataset_id,
        name=name,
        labels=_path(labels),
        split=_path(split),
        fullsup_id=fullsup_id,
        seed=seed,
        max_edge=max_edge,
    )


def pseudo_label(
    dataset: Dataset,
    *,
    weights: AnyPath | None = None,
    clip_weights: AnyPath | None = None,
    sam_weights: AnyPath | None = None,
    classifier_weights: AnyPath | None = None,
    dino_weights: AnyPath | None = None,
    image_labels: AnyPath | None = None,
    preset: str | None = None,
    settings: SomeSettings = None,
    seed: int = 0,
    redo: Sequence[str] | None = None,
    device: str | None = None,
) -> Summary:
    """Make a pseudo-label for every case in `imagesTr`: slice labels, CAMs, prompts, SAM masks (`pseudo_label`).

    Resumes: what is done with the same settings is skipped, and what a person has corrected is kept.

    Args:
        dataset: number, name or folder.
        weights: `embedded`, `paper`, or the file of a SAM; None = paper where downloaded, else embedded.
        clip_weights, sam_weights, classifier_weights, dino_weights: one network's alone.
        image_labels: CSV (case,slice,label) with slice labels to use instead of CLIP's.
        preset: `paper`, `public-code`, `embedded`, `c2s` or `um-sam`; None = that of the weights.
        settings: what differs from the preset, e.g. `{"prompts": {"margin": 10}}`; a `Settings` object stands for all
            of it, seed included.
        seed: of what is drawn.
        redo: cases, or `slice_labels.csv`, to make anew although a person has changed them; `()` = all such.
        device: `cpu`, `cuda`, `cuda:N` or `mps`; None = CUDA where there is one.

    Returns:
        A row a case, cases with empty labels, cases changed by hand, and where table and overlays are.

    Raises:
        UserError: whatever the user can mend, in one line; of cases that fail only after the others are done.
    """
    from nnunetv2_clisc.running import labelling

    options = labelling.LabellingOptions(
        dataset if isinstance(dataset, int | str) else Path(dataset),
        device,
        _spec(weights),
        _spec(clip_weights),
        _spec(sam_weights),
        _spec(classifier_weights),
        image_labels=_path(image_labels),
        preset=preset,
        changes=tuple(_changes(settings)),
        seed=seed,
        redo=None if redo is None else tuple(redo),
        dino_weights=_spec(dino_weights),
    )
    return cast("Summary", labelling.pseudo_label(options))


def evaluate(
    predictions: AnyPath,
    references: AnyPath,
    *,
    output: AnyPath | None = None,
    hd95: Literal["pooled", "larger"] = "pooled",
    empty_policy: Literal["nan", "worst", "public-code"] = "nan",
    foreground: Labels = None,
    pred_foreground: Labels = None,
) -> Scores:
    """Measure a folder of predicted masks against a folder of masks of the same names (`evaluate`).

    Args:
        predictions, references: folders of masks.
        output: folder that gets tables, cases, plots and numbers.
        hd95: percentile of both directions pooled, as medpy, or the larger of the two, as MONAI.
        empty_policy: what stands for values that an empty mask leaves undefined: nothing, the BraTS penalty, or a
            distance of 0 as in CLISC's public code.
        foreground: in masks of several classes, the labels that are the tumour: `any`, or e.g. `(1, 4)`.
        pred_foreground: those of the predictions, where they are others.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    from nnunetv2_clisc.scoring.folders import evaluated

    settings = _metric_settings(hd95, empty_policy, foreground, pred_foreground)
    found = evaluated(Path(predictions), Path(references), settings=settings, output=_path(output))
    method = found.methods[0]
    alone = found.unreferenced.get(method.name, ())
    return Scores(method.cases, method.summary(), tuple(found.unpredicted), tuple(alone))


def compare(
    methods: Mapping[str, AnyPath],
    references: AnyPath,
    *,
    output: AnyPath | None = None,
    seed: int = 0,
    hd95: Literal["pooled", "larger"] = "pooled",
    empty_policy: Literal["nan", "worst", "public-code"] = "nan",
    foreground: Labels = None,
    pred_foreground: Labels = None,
) -> Comparison:
    """Measure several methods on the cases that all of them have, with paired tests (`compare`).

    Args:
        methods: folder of predicted masks by name, two or more.
        references: folder of masks.
        output: folder that gets tables, cases, plots and numbers.
        seed: of the bootstrap intervals.
        hd95, empty_policy, foreground, pred_foreground: as of :func:`evaluate`.

    Returns:
        Scores of each method (`compared`), the tests between them (`versus`), and what was left out (`missing`,
        `unpredicted`, `unreferenced`).

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    from nnunetv2_clisc.scoring.folders import compared

    settings = _metric_settings(hd95, empty_policy, foreground, pred_foreground)
    folders = {name: Path(folder) for name, folder in methods.items()}
    return compared(folders, Path(references), _path(output), settings=settings, seed=seed)


def report(
    dataset: Dataset,
    *,
    output: AnyPath | None = None,
    predictions: AnyPath | None = None,
    references: AnyPath | None = None,
    trainer: str | None = None,
    plans: str | None = None,
    configuration: str | None = None,
    fold: int | str | None = None,
) -> Path:
    """Write one HTML file that shows labels, training, S3F and predictions of a pseudo-labelled dataset (`report`).

    Args:
        dataset: number, name or folder.
        output: the file; None = `DatasetNNN_NAME_report.html` in the current folder.
        predictions: folder of predicted masks to show.
        references: folder of masks of any of the cases, to score with.
        trainer, plans, configuration, fold: which training to show; one that is not named may be missing.

    Returns:
        The file written.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    from nnunetv2_clisc.report import write_report
    from nnunetv2_clisc.report.sources import Model

    return write_report(
        dataset if isinstance(dataset, int | str) else Path(dataset),
        model=Model(trainer, plans, configuration, None if fold is None else str(fold)),
        pred=_path(predictions),
        gt=_path(references),
        output=_path(output),
    )


def segment_volume(
    image: np.ndarray | sitk.Image,
    roi: np.ndarray,
    *,
    spacing: Sequence[float] | None = None,
    weights: AnyPath = "embedded",
    preset: str | None = None,
    settings: SomeSettings = None,
    device: str | None = None,
) -> np.ndarray:
    """Segment one scan with SAM, prompted from a rough region: window, prompts, SAM, clean-up (paper 2.2).

    The mask that :func:`pseudo_label` makes of the same scan and ROI with the same settings.

    Args:
        image: a scan of SimpleITK, in any orientation, or a `(z, y, x)` array in any unit: axial slices from foot to
            head, y towards posterior, x towards left.
        roi: `(z, y, x)` bool on the same voxels; slices where it is empty stay empty.
        spacing: `(z, y, x)` edges of a voxel in mm; for an array, and only there.
        weights: `embedded`, `paper`, a known name, or the file of a SAM.
        preset: `paper`, `public-code`, `embedded` or `c2s`; None = that of the weights.
        settings: what differs from the preset; of it `window`, `prompts` and `sam` matter here.
        device: `cpu`, `cuda`, `cuda:N` or `mps`; None = CUDA where there is one.

    Returns:
        `(z, y, x)` bool on the same voxels.

    Raises:
        UserError: shapes that differ, an impossible or missing spacing, NaN, infinite or constant voxels; weights or
            settings that cannot be.
    """
    from nnunetv2_clisc.environment import usable_device
    from nnunetv2_clisc.running.labelling import resolve_settings
    from pseudo_labeling.sam.segmenter import SamSegmenter
    from pseudo_labeling.sam.volume import segment_scan, volume_of
    from pseudo_labeling.weights.models import load_sam

    chosen = resolve_settings(
        preset or ("embedded" if str(weights) == "embedded" else "paper"), None, tuple(_changes(settings)), 0
    )
    volume, where = volume_of(image, spacing), usable_device(device)
    segmenter = SamSegmenter(load_sam(str(weights), where).model, chosen.sam, where)
    return segment_scan(volume, roi, segmenter, chosen)


def _spec(weights: AnyPath | None) -> str | None:
    return None if weights is None else str(weights)


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _changes(settings: SomeSettings) -> Iterator[str]:
    """Settings as `NAME=VALUE`, the one way in which all of them are checked."""
    from pseudo_labeling.settings import Settings

    values = settings.to_dict() if isinstance(settings, Settings) else settings or {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{change}" for change in _changes(value))
        else:
            yield f"{name}={json.dumps(value, default=str)}"


def _metric_settings(hd95: Any, empty_policy: Any, *foreground: Labels) -> MetricSettings:
    from nnunetv2_clisc.scoring.metrics import MetricSettings

    labels = ["any" if given == "any" else given and tuple(sorted(given)) for given in foreground]
    return MetricSettings(hd95, empty_policy, *cast("list[Any]", labels))
