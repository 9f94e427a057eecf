"""From what a user typed to a run of the pseudo-labelling pipeline: dataset, weights, preset, settings, stage, part."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_conversion.errors import UserError
from nnunetv2_clisc.environment import number_of, raw_dataset, usable_device
from nnunetv2_clisc.running.options import LabellingOptions
from nnunetv2_clisc.running.parts import Part, resolve_part
from nnunetv2_clisc.running.processes import Worker, cpu_workers, gpu_workers, run_stage
from pseudo_labeling.presets import PRESETS, preset_values
from pseudo_labeling.settings import Settings
from pseudo_labeling.stage_names import SHARED_STAGES, check_stage, stages_of
from pseudo_labeling.weights.files import WeightSpecs, cache_dir, identify, needed_weights, paper_available

if TYPE_CHECKING:  # imports torch, which mistakes of the user need not wait for
    from pseudo_labeling.run.finish import Summary

logger = logging.getLogger(__name__)


def resolve_weights(
    weights: str | None, clip: str | None, sam: str | None, classifier: str | None, dino: str | None = None
) -> WeightSpecs:
    """Fill in what was not said: the published weights where their files are present, else the embedded ones."""
    if weights is None:
        weights = "paper" if paper_available() else "embedded"
        if weights == "embedded" and (clip is None or sam is None):
            logger.info(
                "--weights: the published weights are not in %s, so the embedded ones are used (small, trained on "
                "phantoms); `nnUNetv2_clisc weights download` fetches the published ones",
                cache_dir(),
            )
    others = weights if weights in ("embedded", "paper") else ("paper" if paper_available() else "embedded")
    specs = (clip or others, sam or weights, classifier or ("paper" if others == "paper" else "none"), dino or "none")
    # the trainer reads the SAM's file again later, from wherever it is started
    return WeightSpecs(*(str(Path(spec).resolve()) if Path(spec).is_file() else spec for spec in specs))


def resolve_settings(
    preset: str, settings_file: Path | None, changes: Sequence[str], seed: int, *, embedded: bool = False
) -> Settings:
    """A preset, then the file's entries, then `--set NAME=VALUE`, each over the one before.

    Args:
        preset: one of `PRESETS`.
        settings_file: JSON.
        changes: `NAME=VALUE` each.
        seed: of everything.
        embedded: whether CLIP is the package's own, which some presets heed.

    Raises:
        UserError: no such preset; a change that is not NAME=VALUE, or a file that is not JSON; an unknown setting.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: no such preset; give {' or '.join(PRESETS)}")
    settings = Settings().merged({"seed": seed})
    for values in preset_values(preset, embedded=embedded):
        settings = settings.merged(values)
    if settings_file is not None:
        try:
            values = json.loads(settings_file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"--settings {settings_file}: cannot be read as JSON ({error}); mend the file") from error
        try:
            settings = settings.merged(values)
        except UserError as error:
            raise UserError(f"--settings {settings_file}: {error}") from error
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: write NAME=VALUE, e.g. prompts.margin=10")
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        for part in reversed(name.split(".")):
            value = {part: value}
        settings = settings.merged(value)
    return settings


def resolve(options: LabellingOptions) -> tuple[WeightSpecs, Settings]:
    """Weights and settings that a user asks for; the embedded networks have a preset of their own.

    Raises:
        UserError: as of :func:`resolve_settings`.
    """
    specs = resolve_weights(
        options.weights, options.clip_weights, options.sam_weights, options.classifier_weights, options.dino_weights
    )
    embedded = specs.clip == "embedded"
    preset = options.preset or ("embedded" if embedded else "paper")
    return specs, resolve_settings(preset, options.settings_file, options.changes, options.seed, embedded=embedded)


@dataclass(frozen=True)
class StageDone:
    """One stage of a run, or a part of it, has ended well; prints what is still to do."""

    dataset: Path
    stage: str
    part: Part
    cases: int

    def __str__(self) -> str:
        which = f", {self.part}" if self.part.count > 1 else ""
        return (
            f"{self.stage}{which}: done ({self.cases} cases)\n{self.dataset.name} is not complete until "
            f"`nnUNetv2_clisc pseudo_label -d {number_of(self.dataset)} --stage finish` has run with the same settings"
        )


def pseudo_label(
    options: LabellingOptions,
    *,
    stage: str | None = None,
    num_parts: int | None = None,
    part_id: int | None = None,
    num_gpus: int | None = None,
    processes: int | None = None,
) -> Summary | StageDone:
    """Write pseudo-labels for every case in `imagesTr` of a dataset, or do a share of the way there.

    Args:
        options: dataset, weights, settings.
        stage: one of the route's, :func:`~pseudo_labeling.stage_names.stages_of`; None runs all of them.
        num_parts: share the stage's cases among so many processes, of which this is one.
        part_id: which of them, from 0.
        num_gpus: start one process for each of so many GPUs.
        processes: start so many, which share the cores of the CPU.

    Returns:
        The table of all cases where the labels are complete, else what was done.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    part = _part_of_stage(stage, num_parts, part_id)
    if options.image_labels is not None and not options.image_labels.is_file():
        raise UserError(f"--image-labels {options.image_labels}: no such file; give a CSV with case,slice,label")
    dataset = raw_dataset(options.dataset)
    specs, settings = resolve(options)
    stages = stages_of(settings)
    if stage is None:  # a file that is missing is better known now than after the stages before it is needed
        for role, spec in needed_weights(settings, specs).items():
            identify(role, spec)
    else:
        check_stage(stage, settings)
    if options.image_labels is not None and stages[0] != "slice_labels":
        raise UserError("--image-labels: this preset learns from segments, not from labels; leave the flag out")
    workers = _workers(stage, num_gpus, processes, options.device)
    if workers:
        for each in stages[:-1] if stage is None else (stage,):
            run_stage(options, each, part, workers)
        stage = stage or "finish"

    from pseudo_labeling.run.pipeline import PseudoLabeling

    # the last stage computes nothing, so it may run on a machine without the others' device
    device = "cpu" if stage == "finish" else usable_device(options.device)
    run = PseudoLabeling(dataset, settings, specs, device=device, image_labels=options.image_labels, redo=options.redo)
    if stage is None:
        return run.run()
    if stage == "finish":
        return run.finish()
    cases = part.share(run.cases)
    if not workers:
        run.stage(stage, cases)
    return StageDone(dataset, stage, part, len(cases))


def _workers(stage: str | None, num_gpus: int | None, processes: int | None, device: str | None) -> list[Worker]:
    """The processes that were asked for; none where this one does all."""
    if num_gpus is None and processes is None:
        return []
    if num_gpus is not None and processes is not None:
        raise UserError(f"-np {processes}: shares a CPU; with -num_gpus {num_gpus} leave it out")
    if stage not in (None, *SHARED_STAGES):
        flag = f"-np {processes}" if num_gpus is None else f"-num_gpus {num_gpus}"
        raise UserError(f"{flag}: --stage {stage} is one process; leave the flag out")
    return gpu_workers(num_gpus, device) if num_gpus is not None else cpu_workers(processes or 0, device)


def _part_of_stage(stage: str | None, num_parts: int | None, part_id: int | None) -> Part:
    """The share of the cases; only where the stage can be shared does a Slurm array decide it."""
    if stage in SHARED_STAGES:
        return resolve_part(num_parts, part_id)
    if num_parts is not None or part_id is not None:
        raise UserError(
            f"-num_parts, -part_id: only --stage {' or '.join(SHARED_STAGES)} takes parts; "
            "the other stages need all cases"
        )
    return Part()
