"""One labelling process for each GPU of this machine: each sees one GPU, loads its networks once, takes a part."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from dataset_conversion.errors import UserError
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.parts import Part
from pseudo_labeling.stage_names import SHARED_STAGES


def visible_gpus(num_gpus: int, device: str | None) -> list[str]:
    """The first GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes.

    Raises:
        UserError: a device that is not `cuda`, or fewer GPUs than asked for.
    """
    if device not in (None, "cuda"):
        raise UserError(f"-num_gpus {num_gpus}: starts one process per GPU; not with -device {device}, leave one out")
    import torch

    count = torch.cuda.device_count()
    if not 1 <= num_gpus <= count:
        cure = f"give 1 to {count}" if count else "leave the flag out to run on the CPU"
        raise UserError(f"-num_gpus {num_gpus}: torch sees {count} CUDA devices; {cure}")
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:num_gpus]


def run_stage(options: LabellingOptions, stage: str, part: Part, gpus: Sequence[str]) -> None:
    """Run one stage, shared among the GPUs where its cases can be, and wait for all of its processes.

    Args:
        options: what the user asked for.
        stage: one of `STAGES`.
        part: the share of this machine.
        gpus: from :func:`visible_gpus`; a stage that cannot be shared takes the first.

    Raises:
        UserError: a process failed; the others have ended too.
    """
    command = [sys.executable, "-m", "nnunetv2_clisc.cli", *options.arguments(stage)]
    shared = stage in SHARED_STAGES
    parts = part.split(len(gpus)) if shared else [part]
    processes = []
    try:
        for share, gpu in zip(parts, gpus, strict=False):
            more = share.arguments() if shared else []
            processes.append(subprocess.Popen([*command, *more], env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu}))
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    failed = [f"GPU {gpu}: exit code {code}" for gpu, code in zip(gpus, codes, strict=False) if code != 0]
    if failed:
        raise UserError(
            f"--stage {stage}: {len(failed)} of {len(codes)} processes failed ({', '.join(failed)}); see above"
        )
