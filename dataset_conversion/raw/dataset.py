"""Write an nnU-Net raw dataset, whole or not at all; ground truth of training cases only into the fullsup twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion.errors import UserError, explain
from dataset_conversion.files import copy_file, link_file, write_json, write_table
from dataset_conversion.raw.splits import Split, cross_validation, shared_patients
from dataset_conversion.raw.staging import publish, staging
from dataset_conversion.raw.target import Target, check_free, claim
from dataset_conversion.scans.volumes import (
    binarise_mask,
    check_same_grid,
    check_scan,
    may_be_copied,
    read_unified,
    what_was_unified,
    write_image,
)
from dataset_conversion.threads import in_threads

FILE_ENDING = ".nii.gz"
IMAGE_LABELS = "image_labels.csv"  # in a raw dataset: the labels that came with its pictures


@dataclass(frozen=True)
class Content:
    """What a dataset shows.

    Attributes:
        channels: their names; an image with several values a voxel becomes as many files.
        class_name: of what masks mark.
        image_labels: 0 or 1 by case, of pictures whose label is known.
    """

    channels: tuple[str, ...] = ("FLAIR",)
    class_name: str = "tumour"
    image_labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseSource:
    """Where one case's scan and mask lie, and how they are read.

    Attributes:
        image: the file, or the folder of slices, named in messages.
        mask: the same for its mask; `None` without one. It is opened only where ground truth is allowed to go.
    """

    name: str
    image: Path
    mask: Path | None = None
    read_image: Callable[[Path], sitk.Image] = read_unified
    read_mask: Callable[[Path], sitk.Image] = read_unified


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion wrote.

    Attributes:
        dataset: `nnUNet_raw/DatasetNNN_NAME`.
        fullsup: its twin with ground truth for training, if one was asked for.
        test_masks: number of masks in `labelsTs`.
        split: where the split comes from, in words.
        notes: remarks for the user, one line each.
    """

    dataset: Path
    fullsup: Path | None
    train: int
    val: int
    test: int
    test_masks: int
    split: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"{self.train} training, {self.val} validation, {self.test} test cases ({self.test_masks} test masks)"
        lines = [f"{self.dataset}: {counts}", f"split: {self.split}"]
        if self.fullsup:
            lines.append(f"{self.fullsup}: the same cases with ground truth in labelsTr, for the supervised baseline")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def write_dataset(
    target: Target,
    cases: Mapping[str, CaseSource],
    split: Split,
    *,
    source: str,
    notes: tuple[str, ...] = (),
    seed: int = 0,
    threads: int | None = None,
    content: Content = Content(),
) -> ConversionSummary:
    """Convert the cases of a split; geometry is kept, nothing is reoriented or resampled.

    Args:
        cases: by name; those outside the split are left out.
        source: kind of source data, for `dataset.json`.
        seed: of the further folds, see `cross_validation`.
        threads: cases converted at once; by default one per CPU core, at most 8.
        content: what the images and masks show.

    Raises:
        UserError: a scan or mask is not as it must be, or a folder cannot be written. Nothing is left behind.
    """
    lacking = [name for name in split.trainval if cases[name].mask is None] if target.fullsup else []
    if lacking:
        raise UserError(
            f"{cases[lacking[0]].image}: training case {lacking[0]} has no mask, but --fullsup-d needs all of them "
            f"({len(lacking)} missing); add them or leave out --fullsup-d"
        )
    unmasked = [name for name in split.test if cases[name].mask is None]
    if 0 < len(unmasked) < len(split.test):
        notes += (f"{len(unmasked)} of {len(split.test)} test cases have no mask, first {unmasked[0]}",)
    if leftover := len(cases) - len(split.trainval) - len(split.test):
        notes += (f"{leftover} scans are not named in the split and were left out",)
    if shared := shared_patients(split):
        notes += (
            f"{len(shared)} patients have scans in several parts of the split, first {shared[0]}; scores will be too "
            "good: keep a patient's scans in one part",
        )
    datasets = [name for name in (target.dataset, target.fullsup) if name]
    staged: dict[Path, Path] = {}  # where a message must speak of the final place
    try:
        with claim(target), staging(target) as (raw, preprocessed):
            staged = {raw: target.raw, preprocessed: target.preprocessed}
            for dataset in datasets:
                frame = raw / dataset, preprocessed / dataset
                _write_frame(*frame, target, split, source, len(unmasked), seed, content)
            fullsup = raw / target.fullsup if target.fullsup else None
            notes += _unified(_convert_cases(cases, split, raw / target.dataset, fullsup, threads))
            check_free(target)  # the claim is not kept on a file system without locks
            moves = [(preprocessed / name, target.preprocessed / name) for name in datasets]
            publish(moves + [(raw / name, target.raw / name) for name in datasets])
    except (OSError, UserError) as error:
        message = f"{explain(error, target.raw)} (nothing was written)" if isinstance(error, OSError) else str(error)
        for folder, final in staged.items():
            message = message.replace(str(folder), str(final))
        raise UserError(message) from error
    return ConversionSummary(
        dataset=target.raw / target.dataset,
        fullsup=target.raw / target.fullsup if target.fullsup else None,
        train=len(split.train),
        val=len(split.val),
        test=len(split.test),
        test_masks=len(split.test) - len(unmasked),
        split=split.origin,
        notes=notes,
    )


def check_masks_given(labels: Path | None, fullsup_id: int | None) -> None:
    """Raise where a dataset with ground truth is asked for and no masks are given."""
    if fullsup_id is not None and labels is None:
        raise UserError(f"--fullsup-d {fullsup_id}: needs the masks of the training cases; give --labels DIR")


def unused_masks(labels: Path | None, fullsup_id: int | None, split: Split) -> tuple[str, ...]:
    """The remark on masks that were given and not opened."""
    if labels is None or fullsup_id is not None or split.test:
        return ()
    return (f"--labels {labels} was not used: there are no test cases and no --fullsup-d",)


def _write_frame(
    raw: Path,
    preprocessed: Path,
    target: Target,
    split: Split,
    source: str,
    unmasked: int,
    seed: int,
    content: Content,
) -> None:
    """Folders, `dataset.json` and `splits_final.json` of one dataset."""
    fullsup = raw.name == target.fullsup
    folders = ["imagesTr", "labelsTr"] + ["imagesTs"] * bool(split.test) + ["labelsTs"] * (unmasked < len(split.test))
    for name in folders:
        (raw / name).mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    labels_from = "manual masks" if fullsup else "pseudo-labels once pseudo_label has run, never ground truth"
    dataset_json = {
        "name": raw.name.split("_", 1)[1],
        "channel_names": {str(number): name for number, name in enumerate(content.channels)},
        "labels": {"background": 0, content.class_name: 1},
        "numTraining": len(split.trainval),
        "file_ending": FILE_ENDING,
        "conversion": {
            "source": source,
            "labelsTr": labels_from,
            "split": split.origin,
            "counts": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        },
    }
    write_json(raw / "dataset.json", dataset_json)
    if content.image_labels:
        rows = [{"case": case, "slice": 0, "label": label} for case, label in content.image_labels.items()]
        write_table(raw / IMAGE_LABELS, ["case", "slice", "label"], rows)
    for folder in (raw, preprocessed):
        write_json(folder / "splits_final.json", cross_validation(split, seed=seed))


def _convert_cases(
    cases: Mapping[str, CaseSource], split: Split, main: Path, fullsup: Path | None, threads: int | None
) -> dict[str, str]:
    """How the header of each case that was unified contradicted itself, by case."""
    parts = dict.fromkeys(split.trainval, "Tr") | dict.fromkeys(split.test, "Ts")
    jobs = {name: (cases[name], part, main, fullsup) for name, part in parts.items()}
    found = in_threads(_convert_case, jobs, "converting", threads)
    return {name: trouble for name, trouble in found.items() if trouble}


def _convert_case(case: CaseSource, part: str, main: Path, fullsup: Path | None) -> str:
    """Check and write one case; its mask is opened only if it goes to a test folder or to the fullsup dataset.

    Returns:
        how the scan's or the mask's header contradicted itself, in words; empty where neither did.
    """
    image = case.read_image(case.image)
    check_scan(image, case.image)
    trouble = ""
    if case.read_image is read_unified:
        trouble = what_was_unified(case.image)
    if case.read_image is read_unified and may_be_copied(case.image):
        images = [main / f"images{part}" / f"{case.name}_0000{FILE_ENDING}"]
        copy_file(case.image, images[0])
    else:
        images = write_channels(image, main / f"images{part}", case.name)
    if fullsup:
        for written in images:
            link_file(written, fullsup / f"images{part}" / written.name)
    holders = [folder for folder in ((main if part == "Ts" else None), fullsup) if folder]
    if case.mask is None or not holders:
        return trouble
    mask = case.read_mask(case.mask)
    check_same_grid(image, case.image, mask, case.mask)
    if case.read_mask is read_unified and (of_mask := what_was_unified(case.mask)):
        trouble = trouble or f"mask: {of_mask}"
    binary = sitk.GetImageFromArray(binarise_mask(mask, case.mask))
    binary.CopyInformation(image)
    written = holders[0] / f"labels{part}" / f"{case.name}{FILE_ENDING}"
    write_image(binary, written)
    for folder in holders[1:]:
        link_file(written, folder / f"labels{part}" / written.name)
    return trouble


def write_channels(image: sitk.Image, folder: Path, case: str) -> list[Path]:
    """Write an image as nnU-Net has it, `CASE_0000.nii.gz` and, of several values a voxel, the further channels."""
    written = []
    for number in range(image.GetNumberOfComponentsPerPixel()):
        path = folder / f"{case}_{number:04d}{FILE_ENDING}"
        several = image.GetNumberOfComponentsPerPixel() > 1
        write_image(sitk.VectorIndexSelectionCast(image, number) if several else image, path)
        written.append(path)
    return written


def _unified(troubles: Mapping[str, str]) -> tuple[str, ...]:
    """The remark on headers that contradicted themselves."""
    if not troubles:
        return ()
    first = next(iter(troubles))
    return (
        f"the headers of {len(troubles)} cases mean two things; they were placed by the sform, as nibabel and most "
        f"viewers do, and written anew: {', '.join(troubles)} ({first}: {troubles[first]})",
    )
