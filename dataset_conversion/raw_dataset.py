"""Write an nnU-Net raw dataset, whole or not at all; ground truth of training cases only into the fullsup twin."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from dataset_conversion.errors import ConversionError, explain
from dataset_conversion.files import write_json
from dataset_conversion.splits import Split
from dataset_conversion.target import Target
from dataset_conversion.volumes import binarise_mask, check_same_grid, check_scan, read_volume, write_image

logger = logging.getLogger(__name__)

FILE_ENDING = ".nii.gz"
MAX_THREADS = 8


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
    read_image: Callable[[Path], sitk.Image] = read_volume
    read_mask: Callable[[Path], sitk.Image] = read_volume


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
    threads: int | None = None,
) -> ConversionSummary:
    """Convert the cases of a split; geometry is kept, nothing is reoriented or resampled.

    Args:
        cases: by name; those outside the split are left out.
        source: kind of source data, for `dataset.json`.
        threads: cases converted at once; by default one per CPU core, at most 8.

    Raises:
        ConversionError: a scan or mask is not as it must be, or a folder cannot be written. Nothing is left behind.
    """
    lacking = [name for name in split.trainval if cases[name].mask is None] if target.fullsup else []
    if lacking:
        raise ConversionError(
            f"{cases[lacking[0]].image}: training case {lacking[0]} has no mask, but --fullsup-d needs all of them "
            f"({len(lacking)} missing); add them or leave out --fullsup-d"
        )
    unmasked = [name for name in split.test if cases[name].mask is None]
    if 0 < len(unmasked) < len(split.test):
        notes += (f"{len(unmasked)} of {len(split.test)} test cases have no mask, first {unmasked[0]}",)
    if leftover := len(cases) - len(split.trainval) - len(split.test):
        notes += (f"{leftover} scans are not named in the split and were left out",)
    datasets = [name for name in (target.dataset, target.fullsup) if name]
    try:
        with _staging(target) as (raw, preprocessed):
            for dataset in datasets:
                _write_frame(raw / dataset, preprocessed / dataset, target, split, source, len(unmasked))
            fullsup = raw / target.fullsup if target.fullsup else None
            _convert_cases(cases, split, raw / target.dataset, fullsup, threads)
            moves = [(preprocessed / name, target.preprocessed / name) for name in datasets]
            _publish(moves + [(raw / name, target.raw / name) for name in datasets])
    except OSError as error:
        raise ConversionError(f"{explain(error, target.raw)} (nothing was written)") from error
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


@contextmanager
def _staging(target: Target) -> Iterator[tuple[Path, Path]]:
    """One hidden folder beside each final place (same file system, so the move is a rename), removed at the end."""
    made: list[Path] = []
    try:
        for parent in (target.raw, target.preprocessed):
            parent.mkdir(parents=True, exist_ok=True)
            for leftover in parent.glob(f".{target.dataset}.partial-*"):
                logger.warning("%s: left behind by a conversion that was killed; delete it", leftover)
            made.append(Path(tempfile.mkdtemp(prefix=f".{target.dataset}.partial-", dir=parent)))
        yield made[0], made[1]
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def _write_frame(raw: Path, preprocessed: Path, target: Target, split: Split, source: str, unmasked: int) -> None:
    """Folders, `dataset.json` and `splits_final.json` of one dataset."""
    fullsup = raw.name == target.fullsup
    folders = ["imagesTr", "labelsTr"] + ["imagesTs"] * bool(split.test) + ["labelsTs"] * (unmasked < len(split.test))
    for name in folders:
        (raw / name).mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    labels_from = "manual masks" if fullsup else "pseudo-labels once pseudo_label has run, never ground truth"
    dataset_json = {
        "name": raw.name.split("_", 1)[1],
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "tumour": 1},
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
    for folder in (raw, preprocessed):
        write_json(folder / "splits_final.json", [{"train": list(split.train), "val": list(split.val)}])


def _convert_cases(
    cases: Mapping[str, CaseSource], split: Split, main: Path, fullsup: Path | None, threads: int | None
) -> None:
    jobs = [(name, "Tr") for name in split.trainval] + [(name, "Ts") for name in split.test]
    pool = ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1))  # reading and gzip release the GIL
    try:
        futures = [pool.submit(_convert_case, cases[name], part, main, fullsup) for name, part in jobs]
        for future in tqdm(futures, desc="converting", unit="case", disable=None):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _convert_case(case: CaseSource, part: str, main: Path, fullsup: Path | None) -> None:
    """Check and write one case; its mask is opened only if it goes to a test folder or to the fullsup dataset."""
    image = case.read_image(case.image)
    check_scan(image, case.image)
    written = main / f"images{part}" / f"{case.name}_0000{FILE_ENDING}"
    if case.image.is_file() and case.image.name.lower().endswith(FILE_ENDING):
        shutil.copyfile(case.image, written)
    else:
        write_image(image, written)
    if fullsup:
        _link(written, fullsup / f"images{part}" / written.name)
    holders = [folder for folder in ((main if part == "Ts" else None), fullsup) if folder]
    if case.mask is None or not holders:
        return
    mask = case.read_mask(case.mask)
    check_same_grid(image, case.image, mask, case.mask)
    binary = sitk.GetImageFromArray(binarise_mask(mask, case.mask))
    binary.CopyInformation(image)
    written = holders[0] / f"labels{part}" / f"{case.name}{FILE_ENDING}"
    write_image(binary, written)
    for folder in holders[1:]:
        _link(written, folder / f"labels{part}" / written.name)


def _link(file: Path, link: Path) -> None:
    """A second name for the same bytes; a copy where the file system has no hard links."""
    try:
        os.link(file, link)
    except OSError:
        shutil.copyfile(file, link)


def _publish(moves: list[tuple[Path, Path]]) -> None:
    """Rename every staged folder to its final name; if one cannot be, take the others back."""
    done: list[Path] = []
    try:
        for staged, final in moves:
            os.replace(staged, final)
            done.append(final)
    except BaseException:
        for final in done:
            shutil.rmtree(final, ignore_errors=True)
        raise
