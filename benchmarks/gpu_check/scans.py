"""CLISC on a folder of scans, in as many minutes as there are: labels, round 1, S3F, round 2, each scored.

Masks are opened only to score: by `convert`, which puts those of the held-out cases aside, and by `evaluate`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.parts import Job, Save
from benchmarks.speed.data import EMBEDDED, embedded_settings
from benchmarks.speed.measure import Clock, wait_for
from benchmarks.speed.training import threads_for_processes
from dataset_conversion.errors import UserError

DATASET, NAME = 501, "Dataset501_Check"
HELD_OUT, VALIDATION = 0.2, 0.1  # of the cases, drawn with a fixed seed; at least one each
ROUND_SHARE = 0.3  # of the time left that each round may train; S3F and two predictions need the rest
STEPS = 10  # timed, after three


def measure(job: Job, save: Save) -> dict[str, Any]:
    """Seconds of each step, epochs, seconds of a training step, and the DSC of the held-out cases after each round.

    Labels come from the embedded weights: loading and asking the large ones would take the time that is to train.
    """
    end = time.monotonic() + job.seconds - (0 if job.small else 10)
    clock = Clock(job.device)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _environment(root, job)
        with clock.timed("convert"):
            split = _convert(job, root)
        result: dict[str, Any] = {
            "cases": {kind: len(cases) for kind, cases in split.items()},
            "seconds": clock.seconds,
            "rounds": [],
        }
        with clock.timed("pseudo_label"):
            _pseudo_label(root, job)
        save(result)
        with clock.timed("plan and preprocess"):
            _preprocess(job)
        save(result)

        from nnunetv2_clisc.training.trainer import CLISCTrainer

        if job.small:
            from nnunetv2_clisc.training.plans import NetworkSettings

            CLISCTrainer.network_settings = NetworkSettings(features=(4, 8, 8), patch=(16, 32, 32))
        with clock.timed("a few steps for their time"):
            result |= _step(root, job)
        steps = -(-len(split["train"]) // 2) + 0.5 * -(-len(split["val"]) // 2)
        epochs = int(ROUND_SHARE * (end - time.monotonic()) / (steps * result["seconds_per_step"]))
        CLISCTrainer.epochs = result["epochs"] = 1 if job.small else min(max(epochs, 1), CLISCTrainer.epochs)
        for number in (1, 2):
            title = f"round {number}" if number == 1 else "S3F and round 2"
            with clock.timed(title):
                _train(root, job, CLISCTrainer, only_first=number == 1)
            save(result)
            with clock.timed("predict and evaluate"):
                dsc = _scored(root, job, number)
            result["rounds"].append({"round": number, "dsc": float(np.mean(list(dsc.values()))), "cases": dsc})
            save(result)
    return result


def _environment(root: Path, job: Job) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for kind in ("raw", "preprocessed", "results"):
        (root / kind).mkdir()
        os.environ[f"nnUNet_{kind}"] = str(root / kind)
    os.environ["nnUNet_compile"] = "f"  # compiling takes longer than it would save here
    os.environ["nnUNet_n_proc_DA"] = str(max(min(cores - 2, 12), 1))
    os.environ["nnUNet_def_n_proc"] = "1" if job.small else str(min(cores, 8))


def _convert(job: Job, root: Path) -> dict[str, list[str]]:
    from dataset_conversion.scans.tiff import EXTENSIONS as TIFF
    from dataset_conversion.scans.volumes import EXTENSIONS, list_volumes
    from dataset_conversion.sources.folder import convert_folder

    if job.scans is None or job.masks is None:
        raise UserError("--scans, --masks: name both folders")
    cases = sorted(list_volumes(Path(job.scans), extensions=(*EXTENSIONS, *TIFF)))
    if len(cases) < 4:
        raise UserError(f"--scans {job.scans}: holds {len(cases)} scans; give 4 or more, to train and to hold out")
    order = [cases[number] for number in np.random.default_rng(0).permutation(len(cases))]
    test, val = (max(round(share * len(cases)), 1) for share in (HELD_OUT, VALIDATION))
    split = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    (root / "split.json").write_text(json.dumps(split))
    convert_folder(
        Path(job.scans),
        dataset_id=DATASET,
        name=NAME.split("_")[1],
        labels=Path(job.masks),
        split=root / "split.json",
    )
    return split


def _pseudo_label(root: Path, job: Job) -> None:
    from pseudo_labeling.run.pipeline import PseudoLabeling

    settings = embedded_settings(1 if job.small else None)
    if job.small:
        settings = settings.merged({"classifier": {"image_size": 64}})
    PseudoLabeling(root / "raw" / NAME, settings, EMBEDDED, device=job.device, overlay_every=1000).run()


def _preprocess(job: Job) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    processes = int(os.environ["nnUNet_def_n_proc"])
    with threads_for_processes() if job.small else nullcontext():
        extract_fingerprints([DATASET], num_processes=processes)
        plans = plan_experiments([DATASET])
        preprocess([DATASET], plans, configurations=["3d_fullres"], num_processes=[processes])
    if job.small:
        os.environ["nnUNet_n_proc_DA"] = "0"  # augmentation in this process; planning refuses a 0


def _trainer(root: Path, job: Job, kind: Any) -> Any:
    folder = root / "preprocessed" / NAME
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    torch.backends.cudnn.benchmark = job.cuda  # as nnUNetv2_train sets it
    return kind(plans | {"continue_training": False}, "3d_fullres", 0, dataset_json, torch.device(job.device))


def _step(root: Path, job: Job) -> dict[str, Any]:
    """Seconds of a training step with the batches that the other processes deliver."""
    from nnunetv2_clisc.training.trainer import CLISCTrainer

    class Tried(CLISCTrainer):
        """Has a results folder of its own."""

    trainer = _trainer(root, job, Tried)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.network.train()
    steps, warm = (1, 1) if job.small else (STEPS, 3)
    for number in range(warm + steps):
        if number == warm:
            wait_for(job.device)
            start = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
    wait_for(job.device)
    seconds = (time.perf_counter() - start) / steps
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):  # nnU-Net's own end of the processes behind it
            loader._finish()
    patch = list(trainer.configuration_manager.patch_size)
    del trainer
    if job.cuda:
        torch.cuda.empty_cache()
    return {"seconds_per_step": seconds, "patch": patch}


def _train(root: Path, job: Job, kind: Any, *, only_first: bool) -> None:
    """Train from where the fold is to the end of round 1, or to the end."""
    from nnunetv2_clisc.training.rounds import STOP_VARIABLE

    with _set(STOP_VARIABLE, "1" if only_first else "0"):
        try:
            _trainer(root, job, kind).run_training()
        except SystemExit as stopped:  # what the variable asks for
            if stopped.code != 0:
                raise


def _scored(root: Path, job: Job, number: int) -> dict[str, float]:
    """DSC of each held-out case, predicted with the network of a round."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunetv2_clisc.scoring.folders import evaluated

    predictions = root / f"predictions_{number}"
    predictions.mkdir()
    predictor = nnUNetPredictor(use_mirroring=not job.small, device=torch.device(job.device), allow_tqdm=False)
    model = root / "results" / NAME / "CLISCTrainer__nnUNetPlans__3d_fullres"
    checkpoint = f"round_{number}/checkpoint_final.pth" if number == 1 else "checkpoint_final.pth"
    predictor.initialize_from_trained_model_folder(str(model), (0,), checkpoint)
    images = str(root / "raw" / NAME / "imagesTs")
    if job.small:
        predictor.predict_from_files_sequential(images, str(predictions))
    else:
        predictor.predict_from_files(images, str(predictions), num_processes_preprocessing=3)
    found = evaluated(predictions, root / "raw" / NAME / "labelsTs").methods[0].cases
    return {case: float(values["dsc"]) for case, values in found.items()}


@contextmanager
def _set(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        os.environ.pop(variable) if before is None else os.environ.update({variable: before})
