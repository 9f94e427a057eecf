"""One iteration of CLISCTrainer against one of nnU-Net's own trainer, with the same plans, data and number format."""

from __future__ import annotations

import copy
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.data import raw_dataset
from benchmarks.speed.measure import wait_for

NAME = "Dataset511_Bench"


def compare(iterations: int, shape: tuple[int, int, int], device: str) -> dict[str, Any]:
    """Alternating iterations with the same data: the median of the ratio of each pair, its 95 % bootstrap interval.

    On a GPU with the paper's network and patch; on a CPU with those of `CLISCTrainer_small`, in float32 on both sides.
    """
    with tempfile.TemporaryDirectory() as name:
        for kind in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{kind}"] = f"{name}/{kind}"
        dataset = raw_dataset(Path(name) / "raw" / NAME, 4, shape, masks=True)
        cases = [f"case_{number:03d}" for number in range(4)]
        (dataset / "splits_final.json").write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]))
        clisc, stock = _trainers(Path(name), device)
        seconds: dict[str, list[float]] = {"clisc": [], "stock": []}
        memory: dict[str, float] = {}
        both = [("clisc", clisc), ("stock", stock)]
        for number in range(iterations + 1):
            for kind, trainer in both if number % 2 else reversed(both):
                # the same patches and the same augmentation, whose time varies more than what is looked for
                random.seed(number)
                np.random.seed(number)
                torch.manual_seed(number)
                if device.startswith("cuda"):
                    torch.cuda.reset_peak_memory_stats()
                wait_for(device)
                start = time.perf_counter()
                trainer.train_step(next(trainer.dataloader_train))
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


def _trainers(root: Path, device: str) -> tuple[Any, Any]:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clisc.training.plans import clisc_plans
    from nnunetv2_clisc.training.trainer import CLISCTrainer, CLISCTrainer_small

    extract_fingerprints([511], num_processes=1)
    identifier = plan_experiments([511])
    preprocess([511], identifier, configurations=["3d_fullres"], num_processes=[1])
    folder = root / "preprocessed" / NAME
    (folder / "splits_final.json").write_text((root / "raw" / NAME / "splits_final.json").read_text())
    plans = json.loads((folder / f"{identifier}.json").read_text())
    dataset_json = json.loads((folder / "dataset.json").read_text())

    os.environ["nnUNet_n_proc_DA"] = "0"  # augmentation inside the iteration, on both sides; planning needs some

    class InFloat32(CLISCTrainer):
        """What is measured; on a CPU with a network that fits it."""

        if not device.startswith("cuda"):
            network_settings = CLISCTrainer_small.network_settings

    same = clisc_plans(plans, "3d_fullres", InFloat32.network_settings)
    made = []
    for kind, own in ((InFloat32, plans), (nnUNetTrainer, same)):
        torch.manual_seed(0)
        own = copy.deepcopy(own) | {"continue_training": False}
        trainer = kind(own, "3d_fullres", 0, dataset_json, torch.device(device))
        trainer.initialize()
        trainer.dataloader_train, _ = trainer.get_dataloaders()
        trainer.network.train()
        made.append(trainer)
    return made[0], made[1]
