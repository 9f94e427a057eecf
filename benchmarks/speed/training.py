"""One iteration of CLISCTrainer against one of nnU-Net's own trainer, with the same plans, data and number format."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.speed.data import raw_dataset
from benchmarks.speed.measure import wait_for

NAME = "Dataset511_Bench"
DRAWN = 4  # batches that are ready before the clock runs, where augmentation is not to count


@dataclass(frozen=True)
class Planned:
    """A dataset of phantoms as nnU-Net planned and preprocessed it."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]


def compare(iterations: int, shape: tuple[int, int, int], device: str) -> dict[str, Any]:
    """Alternating iterations with the same data: the median of the ratio of each pair, its 95 % bootstrap interval.

    On a GPU with the paper's network and patch; on a CPU with those of `CLISCTrainer_small`, in float32 on both sides.
    """
    from nnunetv2_clisc.training.trainer import CLISCTrainer, CLISCTrainer_small

    network = (CLISCTrainer if device.startswith("cuda") else CLISCTrainer_small).network_settings
    with tempfile.TemporaryDirectory() as name:
        planned = plan(Path(name), shape)
        return alternate(*both_trainers(planned, network, device), iterations, device)


def plan(root: Path, shape: tuple[int, int, int]) -> Planned:
    """Make four phantoms with masks, and plan and preprocess them; nnU-Net's folders are then below `root`."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = f"{root}/{kind}"
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    dataset = raw_dataset(root / "raw" / NAME, 4, shape, masks=True)
    cases = [f"case_{number:03d}" for number in range(4)]
    with threads_for_processes():
        extract_fingerprints([511], num_processes=1)
        identifier = plan_experiments([511])
        preprocess([511], identifier, configurations=["3d_fullres"], num_processes=[1])
    folder = root / "preprocessed" / NAME
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]))
    plans = json.loads((folder / f"{identifier}.json").read_text())
    return Planned(plans, json.loads((dataset / "dataset.json").read_text()))


@contextmanager
def threads_for_processes() -> Iterator[None]:
    """Inside, nnU-Net's pools of processes are threads: a process takes longer to start than a few small scans take."""
    with mock.patch.object(multiprocessing, "get_context", return_value=SimpleNamespace(Pool=ThreadPool)):
        yield


def both_trainers(planned: Planned, network: Any, device: str) -> tuple[Any, Any]:
    """`CLISCTrainer` and `nnUNetTrainer` with the same network, patch and augmentation, which runs in this process."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clisc.training.plans import clisc_plans
    from nnunetv2_clisc.training.trainer import CLISCTrainer

    os.environ["nnUNet_n_proc_DA"] = "0"  # on both sides; planning needs some

    class Measured(CLISCTrainer):
        """With a network that fits the device."""

        network_settings = network

    same = clisc_plans(planned.plans, "3d_fullres", network)
    made = []
    for kind, own in ((Measured, planned.plans), (nnUNetTrainer, same)):
        torch.manual_seed(0)
        own = copy.deepcopy(own) | {"continue_training": False}
        trainer = kind(own, "3d_fullres", 0, planned.dataset_json, torch.device(device))
        trainer.initialize()
        trainer.dataloader_train, _ = trainer.get_dataloaders()
        trainer.network.train()
        made.append(trainer)
    return made[0], made[1]


def alternate(clisc: Any, stock: Any, iterations: int, device: str, *, with_data: bool = True) -> dict[str, Any]:
    """Alternating iterations of two trainers, as :func:`compare` returns them.

    Args:
        clisc, stock: the trainers.
        iterations: of each, after one that chooses kernels.
        device: of both.
        with_data: whether drawing and augmenting the batch counts; on a GPU it would hide the step, and in a training
            other processes do it.
    """
    trainers = {"clisc": clisc, "stock": stock}
    seconds: dict[str, list[float]] = {kind: [] for kind in trainers}
    memory: dict[str, float] = {}
    drawn: dict[str, list[Any]] = {}
    if not with_data:
        for kind, trainer in trainers.items():
            _seed(0)
            drawn[kind] = [next(trainer.dataloader_train) for _ in range(DRAWN)]
    for number in range(iterations + 1):
        for kind, trainer in trainers.items() if number % 2 else reversed(trainers.items()):
            _seed(number)
            if device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
            wait_for(device)
            start = time.perf_counter()
            trainer.train_step(next(trainer.dataloader_train) if with_data else drawn[kind][number % DRAWN])
            wait_for(device)
            if number:  # the first one chooses kernels
                seconds[kind].append(time.perf_counter() - start)
            if device.startswith("cuda"):
                memory[kind] = torch.cuda.max_memory_allocated() / 2**30
    medians = {kind: float(np.median(each)) for kind, each in seconds.items()}
    # of pairs, since the machine drifts and an iteration's time depends on its augmentation
    ratios = np.divide(seconds["clisc"], seconds["stock"])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    return {
        "iteration_ratio": float(np.median(ratios)),
        "iteration_ratio_interval": np.quantile(np.median(draws, axis=1), (0.025, 0.975)).tolist(),
        "seconds_per_iteration": medians["clisc"],
        "stock_seconds_per_iteration": medians["stock"],
        "peak_gpu_memory_gib": memory,
        "iterations": iterations,
        "patch": list(clisc.configuration_manager.patch_size),
    }


def _seed(number: int) -> None:
    """The same patches and the same augmentation, whose time varies more than what is looked for."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
