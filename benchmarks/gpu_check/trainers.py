"""A training step at 128³ in mixed precision, ours against nnU-Net's, plain and compiled."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu_check.parts import Job, Save
from benchmarks.speed.training import alternate, both_trainers, plan


def measure(job: Job, save: Save) -> dict[str, Any]:
    """`plain` and `compiled`, each as `benchmarks.speed.training.alternate` returns it, and the format.

    nnU-Net compiles on a GPU only; a small run on a CPU has it take the compiler's front end, to see that it runs.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunetv2_clisc.training.plans import NetworkSettings

    network = NetworkSettings(features=(4, 8, 8), patch=(16, 32, 32)) if job.small else NetworkSettings()
    torch.backends.cudnn.benchmark = job.cuda  # as nnUNetv2_train sets it
    result: dict[str, Any] = {"format": "float16, scaled (nnU-Net's on CUDA)" if job.cuda else "float32"}
    with tempfile.TemporaryDirectory() as name:
        planned = plan(Path(name), (16, 32, 32) if job.small else (128, 128, 128))
        for kind in ("plain", "compiled"):
            os.environ["nnUNet_compile"] = "t" if kind == "compiled" else "f"
            with mock.patch.object(torch, "compile", _compile(job)):
                if job.small and kind == "compiled":
                    with mock.patch.object(nnUNetTrainer, "_do_i_compile", return_value=True):
                        both = both_trainers(planned, network, job.device)
                else:
                    both = both_trainers(planned, network, job.device)
                result[kind] = alternate(*both, 2 if job.small else 60, job.device, with_data=False)
            save(result)
    return result


def _compile(job: Job) -> Any:
    return partial(torch.compile, backend="aot_eager") if job.small else torch.compile
