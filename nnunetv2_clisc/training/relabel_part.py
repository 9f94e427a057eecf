"""A share of a fold's S3F pass in a process of its own, between the rounds that `nnUNetv2_train` trains."""

from __future__ import annotations

import multiprocessing

import torch
from nnunetv2.run.run_training import get_trainer_from_args

from dataset_conversion.errors import UserError
from nnunetv2_clisc.environment import dataset_in, nnunet_device, number_of
from nnunetv2_clisc.running.parts import Part
from nnunetv2_clisc.training.checks import check_before_training
from nnunetv2_clisc.training.rounds import STOP_VARIABLE, SelfTraining
from pseudo_labeling.run.failures import CaseFailures


def relabel_part(
    dataset_id: int | str, fold: str, part: Part, *, trainer: str, plans: str, configuration: str, device: str | None
) -> str:
    """Relabel a share of the training cases of a fold whose round 1 is finished.

    Args:
        dataset_id: of a preprocessed dataset.
        fold: a number or `all`.
        part: which of the fold's training cases.
        trainer, plans, configuration: as `nnUNetv2_train` was given them.
        device: as `nnUNetv2_train`'s; None = CUDA where there is one.

    Returns:
        What was done, in a line.

    Raises:
        UserError: whatever the user can mend.
    """
    kind = torch.device(nnunet_device(device))
    if kind.type == "cpu":  # as nnUNetv2_train does, so that both get the same predictions
        torch.set_num_threads(multiprocessing.cpu_count())
    dataset = dataset_in("nnUNet_preprocessed", dataset_id, made_by="nnUNetv2_plan_and_preprocess")
    file = dataset / f"{plans}.json"
    if not file.is_file():
        command = f"nnUNetv2_plan_and_preprocess -d {number_of(dataset)}"
        raise UserError(f"-p {plans}: {file} is missing; run {command} first")
    if fold != "all" and not fold.isdigit():
        raise UserError(f"-f {fold}: give a number or 'all'")
    number = int(fold) if fold.isdigit() else fold
    try:
        made = get_trainer_from_args(dataset.name, configuration, number, trainer, plans, device=kind)
    except RuntimeError as error:
        raise UserError(f"-tr {trainer}: {error}") from error
    if not isinstance(made, SelfTraining):
        raise UserError(f"-tr {trainer}: does not train in rounds; give CLISCTrainer or a variant of it")
    cases = relabel_share(made, part)
    where = f"fold {fold}, {part}"
    if not cases:
        return f"relabel, {where}: nothing to do, S3F of this fold is finished"
    return f"relabel, {where}: done ({len(cases)} cases); nnUNetv2_train decides which are kept and trains round 2"


def relabel_share(trainer: SelfTraining, part: Part) -> list[str]:
    """Relabel a share of a trainer's cases; the next `nnUNetv2_train` does what is left and goes on.

    Returns:
        The cases of the share; none where S3F of this fold is finished.

    Raises:
        UserError: round 1 is not finished, or the data changed since; cases that failed; the others are done.
    """
    check_before_training(trainer.fold_data, rounds=trainer.rounds, use_s3f=trainer.use_s3f)
    folder = trainer.folder
    state = folder.read_state()
    if trainer.rounds != 2 or state is None or state.stage == "round_1" or not folder.final(1).is_file():
        raise UserError(f"{folder.path}: round 1 is not finished; run nnUNetv2_train with {STOP_VARIABLE}=1 first")
    if state.origin != trainer.origin():
        raise UserError(f"{folder.path}: plans, dataset or split changed since round 1; train again first")
    if state.stage != "s3f":
        return []
    cases = part.share(trainer.fold_data.train)
    failures = CaseFailures()
    with trainer.between_rounds() as relabelling:
        relabelling.relabel(cases, failures)
    failures.check("relabel", len(cases))
    return cases
