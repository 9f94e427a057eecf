"""The whole labelling of a dozen scans with CLIP ViT-B/32 and SAM ViT-B of random weights, ours and one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.networks import SHAPE, SMALL_SHAPE, random_weights
from benchmarks.gpu_check.parts import Job, Save
from benchmarks.speed.data import raw_dataset
from benchmarks.speed.labelling import label, mean_dice, one_by_one
from benchmarks.speed.one_by_one import NOT_NEEDED
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings

EPOCHS = 3  # of each of the classifier's two trainings, on both sides


def settings_of(small: bool) -> Settings:
    """The paper's, with so few epochs that the classifier's training, batched on both sides, does not hide the rest."""
    changes: dict[str, Any] = {
        "slice_labels": {"threshold": "otsu"},
        "classifier": {"epochs": EPOCHS, "patience": EPOCHS},
    }
    if small:
        changes["classifier"] = {"epochs": 1, "patience": 1, "image_size": 32, "backbone": "resnet10t"}
    return Settings().merged(changes)


def measure(job: Job, save: Save) -> dict[str, Any]:
    """Seconds of both ways, loading included on both, and their ratio; see `benchmarks/speed/one_by_one.py`."""
    settings = settings_of(job.small)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = random_weights(folder, job.small)
        dataset = raw_dataset(folder / "Dataset501_Check", 2 if job.small else 12, SMALL_SHAPE if job.small else SHAPE)
        if job.cuda:  # the device is up before the clock runs
            torch.nn.Conv2d(3, 8, 3).cuda()(torch.zeros(1, 3, 32, 32, device="cuda"))
        ours = label(dataset, settings, specs, job.device)
        total = sum(ours["seconds"].values())
        result: dict[str, Any] = {
            **ours,
            "seconds_in_all": total,
            "cases": len(Workspace(dataset).cases()),
            "epochs": settings.classifier.epochs,
            "peak_gpu_memory_gib": _peak(job),
        }
        save(result)
        theirs = one_by_one(dataset, folder, settings, specs, job.device)
        needed = sum(theirs.values()) - sum(theirs.get(step, 0.0) for step in NOT_NEEDED)
        return result | {
            "label_ratio": sum(theirs.values()) / total,
            "label_ratio_needed_once": needed / total,
            "label_ratio_needed_once_without_figures": (needed - theirs.get("figures", 0.0)) / total,
            "one_by_one_seconds": theirs,
            "one_by_one_seconds_in_all": sum(theirs.values()),
            "one_by_one_peak_gpu_memory_gib": _peak(job),
            "dice_between_both": mean_dice(Workspace(dataset), Workspace(folder / "one_by_one")),
        }


def _peak(job: Job) -> float | None:
    """Of the GPU's memory since the last call."""
    if not job.cuda:
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak
