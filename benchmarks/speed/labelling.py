"""The whole labelling path with embedded weights: against the one-by-one way, and at 1, 2, 4 and 8 times the cases."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.data import EMBEDDED, embedded_settings, raw_dataset
from benchmarks.speed.measure import Clock, in_process
from nnunetv2_clisc.scoring.metrics import dice
from pseudo_labeling.run.pipeline import PseudoLabeling, WeightSpecs
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings
from pseudo_labeling.slices import read_slices, read_squares


def compare(cases: int, shape: tuple[int, int, int], epochs: int | None, device: str) -> dict[str, Any]:
    """Seconds of both ways through the same slices, slices a second of each stage, peak memory, agreement.

    Loading the networks counts on both sides, making the phantoms on neither. Our way runs once before the other, which
    takes minutes, and once after it, and the mean counts: a machine that changes its pace meanwhile favours neither.

    Args:
        cases: phantoms.
        shape: of each, `(z, y, x)` voxels.
        epochs: of each training; None = as the preset stops, and then the other way trains for as many.
        device: of both ways.
    """
    settings = embedded_settings(epochs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = raw_dataset(folder / "Dataset501_Bench", cases, shape)
        again = folder / "Dataset502_Again"
        shutil.copytree(dataset, again)
        before, peak = in_process(label, dataset, settings, EMBEDDED, device)
        theirs, their_peak = in_process(one_by_one, dataset, folder, settings, EMBEDDED, device)
        after, later_peak = in_process(label, again, settings, EMBEDDED, device)
        agreement = mean_dice(Workspace(dataset), Workspace(folder / "one_by_one"))
    from benchmarks.speed.one_by_one import NOT_NEEDED

    ours = {
        kind: {name: (before[kind][name] + after[kind][name]) / 2 for name in before[kind]}
        for kind in ("seconds", "slices_per_second")
    }
    seconds, theirs_seconds = sum(ours["seconds"].values()), sum(theirs.values())
    needed = theirs_seconds - sum(theirs[name] for name in NOT_NEEDED)
    return {
        "label_ratio": theirs_seconds / seconds,
        "label_ratio_needed_once": needed / seconds,
        "label_ratio_needed_once_without_figures": (needed - theirs["figures"]) / seconds,
        "label_ratio_needed_once_without_training": (needed - theirs["classifier"])
        / (seconds - ours["seconds"]["classifier"]),
        "seconds": ours["seconds"],
        "seconds_before_and_after": [sum(run["seconds"].values()) for run in (before, after)],
        "one_by_one_seconds": theirs,
        "slices_per_second": ours["slices_per_second"],
        "peak_memory_gib": max(peak, later_peak) / 2**30,
        "one_by_one_peak_memory_gib": their_peak / 2**30,
        "dice_between_both": agreement,
        "cases": cases,
        "shape": shape,
        "settings": settings.to_dict(),
    }


def scaling(base: int, shape: tuple[int, int, int], epochs: int | None, device: str) -> dict[str, Any]:
    """Time and peak memory at 1, 2, 4 and 8 times `base` cases, a fresh process each, and the exponent of time."""
    rows = []
    for factor in (1, 2, 4, 8):
        with tempfile.TemporaryDirectory() as name:
            dataset = raw_dataset(Path(name) / "Dataset501_Bench", base * factor, shape)
            result, peak = in_process(label, dataset, embedded_settings(epochs), EMBEDDED, device)
        row = {"cases": base * factor, "seconds": sum(result["seconds"].values()), "peak_memory_gib": peak / 2**30}
        print(f"  {row['cases']} cases: {row['seconds']:.1f} s, {row['peak_memory_gib']:.2f} GiB", flush=True)
        rows.append(row)
    cases, seconds = ([row[name] for row in rows] for name in ("cases", "seconds"))
    exponent, _ = np.polyfit(np.log(cases), np.log(seconds), 1)
    memory = [row["peak_memory_gib"] for row in rows]
    return {"time_exponent": float(exponent), "memory_growth": memory[-1] / memory[0], "rows": rows, "shape": shape}


def label(dataset: Path, settings: Settings, specs: WeightSpecs, device: str) -> dict[str, Any]:
    """Label a dataset; seconds of the stages and slices a second in each."""
    clock = Clock(device)
    run = PseudoLabeling(dataset, settings, specs, device=device, overlay_every=4)
    with clock.timed("slice labels"):
        run.stage("slice_labels")
    with clock.timed("classifier"):
        run.stage("classifier")
    with clock.timed("masks"):
        run.stage("masks")
    with clock.timed("finish"):
        summary = run.finish()
    slices, prompted = (sum(row[name] for row in summary.rows) for name in ("slices", "prompted_slices"))
    rates = {
        "slice labels": slices / clock.seconds["slice labels"],
        "masks (CAM, ROI, SAM)": prompted / clock.seconds["masks"],
        "whole path": slices / clock.total,
    }
    start = time.perf_counter()
    for case in run.cases:
        read_slices(Workspace(dataset).image(case))
    rates["reading and windowing"] = slices / (time.perf_counter() - start)
    return {"seconds": clock.seconds, "slices_per_second": rates, "slices": slices, "prompted_slices": prompted}


def one_by_one(dataset: Path, folder: Path, settings: Settings, specs: WeightSpecs, device: str) -> dict[str, float]:
    """The same labels the public code's way; needs what :func:`label` left in the dataset. Seconds of each step."""
    from benchmarks.speed.one_by_one import label_one_by_one

    return label_one_by_one(dataset, folder, settings, specs, device)


def mean_dice(first: Workspace, second: Workspace) -> float:
    """How alike the labels of two datasets are."""
    found = []
    for case in first.cases():
        found.append(dice(*(read_squares(files.label(case)) for files in (first, second)), both_empty=1.0))
    return float(np.mean(found))
