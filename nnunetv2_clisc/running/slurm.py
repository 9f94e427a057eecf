"""The whole chain as dependent Slurm jobs through submitit; every job runs a command that a user could type.

A job starts when the ones before it have ended well; when one fails, those after it are cancelled. All commands skip
what is done, so submitting the same again completes a chain that broke.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_conversion.errors import UserError
from nnunetv2_clisc.environment import check_without_number, number_of, raw_dataset
from nnunetv2_clisc.running.labelling import resolve
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.parts import Part
from pseudo_labeling.stage_names import SHARED_STAGES, stages_of


@dataclass(frozen=True)
class Resources:
    """What the jobs ask of Slurm."""

    cpus: int = 4
    minutes: int = 1440
    sbatch: tuple[str, ...] = ()  # NAME=VALUE, any further option of sbatch


@dataclass(frozen=True)
class Training:
    """What is planned and trained after labelling; None in `trainer` ends the chain with the labels."""

    trainer: str | None = "CLISCTrainer"
    configuration: str = "3d_fullres"
    fold: str = "0"
    plans: str = "nnUNetPlans"
    plan_arguments: tuple[str, ...] = ()
    train_arguments: tuple[str, ...] = ()
    gpus: int = 1  # of the training job; the others that compute take one
    relabel_parts: int = 1  # more than one: S3F's pass between the rounds is a job array of its own


@dataclass(frozen=True)
class Step:
    """One job, or with several commands one job array; begins when the step before it has ended well."""

    name: str
    commands: list[list[str]]
    gpus: int = 0
    environment: dict[str, str] = field(default_factory=dict)


def chain(options: LabellingOptions, parts: int, training: Training) -> list[Step]:
    """The steps from scans to a trained fold, in order.

    Args:
        options: of `pseudo_label`.
        parts: number of jobs that share the first stage, and the masks.
        training: what follows.

    Raises:
        UserError: settings that cannot be.
    """

    def shared(arguments: list[str], count: int) -> list[list[str]]:
        return [[*arguments, *Part(number, count).arguments()] for number in range(count)]

    def stage(name: str) -> list[str]:
        return ["nnUNetv2_clisc", *options.arguments(name)]

    gpu = 0 if options.device == "cpu" else 1
    *computing, last = stages_of(resolve(options)[1])
    steps = [
        Step(name, shared(stage(name), parts) if name in SHARED_STAGES else [stage(name)], gpu) for name in computing
    ]
    steps.append(Step(last, [stage(last)]))
    if training.trainer is None:
        return steps
    number, t = str(number_of(options.dataset)), training  # nnUNetv2_plan_and_preprocess takes no name
    device = [] if options.device is None else ["-device", options.device]
    gpus = gpu * t.gpus
    train = ["nnUNetv2_train", number, t.configuration, t.fold, "-tr", training.trainer, "-p", t.plans, *device]
    # a job that is queued or submitted again goes on with the fold, also where only nnU-Net's validation is left
    going_on = [] if {"--c", "-pretrained_weights"} & {*t.train_arguments} else ["--c"]  # nnU-Net takes either
    train += [*(["-num_gpus", str(gpus)] if gpus > 1 else []), *going_on, *t.train_arguments]
    anew = {"CLISC_ANEW_IF_CHANGED": "1"}
    steps.append(
        Step("plan", [["nnUNetv2_plan_and_preprocess", "-d", number, "-c", t.configuration, *t.plan_arguments]])
    )
    if t.relabel_parts > 1:
        relabel = ["nnUNetv2_clisc", "relabel", "-d", number, "-f", t.fold, "-tr", training.trainer]
        relabel += ["-p", t.plans, "-c", t.configuration, *device]
        steps.append(Step("round_1", [train], gpus, anew | {"CLISC_STOP_AFTER_ROUND_1": "1"}))
        steps.append(Step("relabel", shared(relabel, t.relabel_parts), gpu))
    return [*steps, Step("train", [train], gpus, anew)]


@dataclass(frozen=True)
class Command:
    """An installed command of this environment, as a job runs it."""

    words: list[str]
    environment: dict[str, str]

    def __call__(self) -> None:
        """Run it; its output is the job's log, and the job fails when it does."""
        program = Path(sys.executable).parent / self.words[0]
        code = subprocess.run([str(program), *self.words[1:]], env=os.environ | self.environment).returncode
        if code != 0:  # the command has said why; a traceback of ours would only hide it
            raise SystemExit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """What submitit queues again when the time limit comes near: the same, since every command resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(options: LabellingOptions, parts: int, training: Training, resources: Resources) -> str:
    """Submit the chain.

    Args:
        options: of `pseudo_label`.
        parts: number of jobs that share the first stage, and the masks.
        training: what follows.
        resources: what each job asks for.

    Returns:
        A line for each step with its job's number, and where the logs are.

    Raises:
        UserError: no submitit, no Slurm, or a flag that cannot be.
    """
    if parts < 1 or training.relabel_parts < 1:
        raise UserError("-num_parts, --relabel-parts: must be 1 or more")
    if training.trainer is not None:
        check_without_number(options.device)
    further = _further_options(resources.sbatch)
    dataset = raw_dataset(options.dataset)
    try:
        import submitit
    except ImportError:
        raise UserError("submit: needs submitit; pip install 'nnunetv2-clisc[slurm]'") from None
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("submit: sbatch and srun are not on PATH; run it where Slurm's commands are")
    logs = dataset / "clisc" / "slurm"
    lines: list[str] = []
    before: str | None = None
    for step in chain(options, parts, training):
        executor = submitit.SlurmExecutor(folder=logs)
        try:
            executor.update_parameters(**_parameters(step, resources, before, further))
            with executor.batch():  # several commands become an array
                jobs = [executor.submit(Command(words, step.environment)) for words in step.commands]
        except submitit.core.utils.FailedJobError as error:  # sbatch's own message, e.g. of an unknown partition
            text = " ".join(str(error).split())
            raise UserError(f"submit: sbatch refused {step.name} ({text}); mend --sbatch or the other flags") from None
        before = str(jobs[0].job_id).partition("_")[0]
        lines.append(f"{step.name:<14}job {before}" + (f", an array of {len(jobs)}" if len(jobs) > 1 else ""))
    return "\n".join([*lines, f"logs: {logs}", "a broken chain is completed by submitting the same again"])


def _parameters(step: Step, resources: Resources, before: str | None, further: dict[str, str]) -> dict[str, Any]:
    """What submitit's executor is told about one step."""
    additional = dict(further)
    if before is not None:
        additional |= {"dependency": f"afterok:{before}", "kill-on-invalid-dep": "yes"}
    parameters: dict[str, Any] = {
        "job_name": f"clisc_{step.name}",
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "ntasks_per_node": 1,
        "additional_parameters": additional,
        "stderr_to_stdout": True,
    }
    if step.gpus:
        parameters["gpus_per_node"] = step.gpus
    return parameters


def _further_options(changes: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` as sbatch's `--NAME=VALUE`."""
    for change in changes:
        name, equals, value = change.partition("=")
        if not (name.strip("-") and equals and value):
            raise UserError(f"--sbatch {change}: write NAME=VALUE, e.g. --sbatch partition=gpu")
    return {name.lstrip("-"): value for name, _, value in (change.partition("=") for change in changes)}
