"""Several labelling processes on this machine: one for each GPU, or for each share of a CPU's cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dataset_conversion.errors import UserError
from nnunetv2_clisc.environment import usable_device
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.parts import Part
from pseudo_labeling.stage_names import SHARED_STAGES


@dataclass(frozen=True)
class Worker:
    """One of several processes.

    Attributes:
        name: for messages.
        environment: what it sees besides ours, in the stages that are shared.
        alone: the same where a stage cannot be shared, and the first worker does all of it.
    """

    name: str
    environment: Mapping[str, str]
    alone: Mapping[str, str] = field(default_factory=dict)


def gpu_workers(num_gpus: int, device: str | None) -> list[Worker]:
    """One for each of the first GPUs that this process may use.

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
    names = (named or [str(number) for number in range(count)])[:num_gpus]
    seen = [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    return [Worker(f"GPU {name}", each, each) for name, each in zip(names, seen, strict=True)]


def cpu_workers(processes: int, device: str | None) -> list[Worker]:
    """So many processes that share the CPU's cores evenly: small networks do not keep many cores busy at once.

    Raises:
        UserError: a device that is not the CPU, or more processes than cores.
    """
    if usable_device(device) != "cpu":
        raise UserError(f"-np {processes}: shares the cores of a CPU; add -device cpu, or take -num_gpus")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= processes <= cores:
        raise UserError(f"-np {processes}: this process may use {cores} cores; give 1 to {cores}")
    threads = {"OMP_NUM_THREADS": str(cores // processes), "MKL_NUM_THREADS": str(cores // processes)}
    return [Worker(f"process {number}", threads) for number in range(processes)]


def run_stage(options: LabellingOptions, stage: str, part: Part, workers: Sequence[Worker]) -> None:
    """Run one stage, shared among workers where its cases can be, and wait for all of its processes.

    Args:
        options: what the user asked for.
        stage: one of `STAGES`.
        part: the share of this machine.
        workers: a stage that cannot be shared takes the first.

    Raises:
        UserError: a process failed; the others have ended too.
    """
    command = [sys.executable, "-m", "nnunetv2_clisc.cli", *options.arguments(stage)]
    shared = stage in SHARED_STAGES
    parts = part.split(len(workers)) if shared else [part]
    processes = []
    try:
        for share, worker in zip(parts, workers, strict=False):
            more, seen = (share.arguments(), worker.environment) if shared else ([], worker.alone)
            processes.append(subprocess.Popen([*command, *more], env=os.environ | seen))
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    failed = [f"{each.name}: exit code {code}" for each, code in zip(workers, codes, strict=False) if code != 0]
    if failed:
        raise UserError(
            f"--stage {stage}: {len(failed)} of {len(codes)} processes failed ({', '.join(failed)}); see above"
        )
