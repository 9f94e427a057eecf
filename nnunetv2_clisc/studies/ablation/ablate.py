"""The command `ablate`: the paper's Table 2 and Fig. 3 on a user's own data, sharing what runs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.errors import UserError
from dataset_conversion.files import check_output, read_object
from nnunetv2_clisc.environment import nnunet_device, raw_dataset, usable_device
from nnunetv2_clisc.scoring.evaluation import Evaluation, evaluate_folders, mask_files
from nnunetv2_clisc.studies.ablation.files import Result, write_ablation
from nnunetv2_clisc.studies.ablation.labels import LabelRuns
from nnunetv2_clisc.studies.ablation.networks import NetworkRuns
from nnunetv2_clisc.studies.ablation.runs import Run, chosen_runs
from nnunetv2_clisc.studies.ablation.variants import FAMILIES, VariantRuns
from nnunetv2_clisc.studies.baselines.cam_and_sam import pseudo_label_baseline
from nnunetv2_clisc.studies.baselines.folder import list_cases
from pseudo_labeling.run.new_cases import finished_entry
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.settings import Settings


def ablate(
    dataset_id: int | str,
    output: Path,
    *,
    only: Sequence[str] = (),
    trainer: str = "CLISCTrainer",
    plans: str = "nnUNetPlans",
    fold: int = 0,
    device: str | None = None,
    seeds: int = 1,
    images: Path | None = None,
    gt: Path | None = None,
) -> str:
    """Run what is not yet done, score every run on the same scans, and write tables and curves.

    Masks are read for the scores only, after everything has run. Nothing is written into the user's dataset,
    preprocessed data or results.

    Args:
        dataset_id: of a dataset that is planned and preprocessed, and that `pseudo_label` has been through; the group
            `sam-adapter` takes masks of its own too.
        output: folder for everything.
        only: names or groups of runs; all by default.
        trainer: with both rounds and S3F.
        plans: name of the plans.
        fold: of the split.
        device: `cpu` or `cuda`.
        seeds: repetitions of every training.
        images: scans to score on; by default the dataset's `imagesTs`.
        gt: masks of these scans, by default `labelsTs`; masks of training cases beside them are used to score the
            labels that a run's last training saw.

    Returns:
        The tables as Markdown.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    runs = chosen_runs(only)
    dataset = raw_dataset(dataset_id)
    images, gt = images or dataset / "imagesTs", gt or dataset / "labelsTs"
    check_output(output, {})
    channels = 1  # the labels' route looks at FLAIR alone
    if Workspace(dataset).pictures or any(run.stage == "adapted" for run in runs):
        channels = len(read_object(dataset / "dataset.json").get("channel_names") or (0,))
    scans, masks = list_cases(images, channels=channels), mask_files(gt)
    if missing := sorted(scans.keys() - masks.keys()):
        raise UserError(f"--gt {gt}: has no mask of case {missing[0]} of --images ({len(missing)} such); add it")
    trains = any(run.trains_network for run in runs)
    where = nnunet_device(device) if trains else usable_device(device)
    facts = {"dataset": dataset.name, "trainer": trainer, "plans": plans, "fold": fold, "seeds": seeds}
    if any(run.group != "sam-adapter" for run in runs):
        settings = Settings.from_dict(finished_entry(Workspace(dataset))["settings"])
        facts |= {"alpha": settings.amda.alpha, "beta": settings.s3f.beta}
    labels, networks, variants = None, None, {}
    if any(run.group not in ("um-sam", "sam-adapter") for run in runs):
        labels = LabelRuns(dataset, images, output, where)
    if any(run.stage in ("round_1", "round_2") for run in runs):
        networks = NetworkRuns(dataset, scans, output, trainer=trainer, plans=plans, fold=fold, device=where)
    for stage in FAMILIES:
        if any(run.stage == stage for run in runs):
            variants[stage] = VariantRuns(
                stage, dataset, scans, output, trainer=trainer, plans=plans, fold=fold, device=where
            )
    results: dict[str, list[Result]] = {run.name: [] for run in runs}
    for run in runs:
        for seed in range(seeds):
            last: dict[str, Path] = {}
            if run.stage in variants:
                predictions = variants[run.stage].predicted(run.variant, seed, exchanged=run.exchanged)
            elif labels is None or run.group == "um-sam":  # the segments of new scans
                predictions = output / "predictions" / run.name
                pseudo_label_baseline(dataset.name, images, predictions, device=where)
            else:
                predictions, last = _predictions(run, seed, labels, networks, masks)
            results[run.name].append(
                Result(
                    seed,
                    predictions,
                    evaluate_folders(predictions, gt, name=run.title, cases=scans),
                    _label_quality(last, masks, gt),
                )
            )
    return write_ablation(output, runs, results, facts)


def _predictions(
    run: Run, seed: int, labels: LabelRuns, networks: NetworkRuns | None, masks: dict[str, Path]
) -> tuple[Path, dict[str, Path]]:
    """Folder of a run's masks, and the files of the labels that its last training saw."""
    if run.group == "c2s":
        return labels.changed(run, masks, seed), {}
    alpha = labels.settings.amda.alpha if run.alpha is None else run.alpha
    if networks is None or not run.trains_network:
        folder = labels.roi(alpha, seed) if run.stage == "roi" else labels.mask(alpha, run.prompts, seed)
        own = run.group == "alpha" and run.stage == "mask" and alpha > 0
        return folder, mask_files(labels.labelled(alpha, seed) / "labelsTr") if own else {}
    full = networks.full(seed)
    if run.stage == "round_1":
        return networks.predict(full, "round_1", seed, after_round_1=True), networks.pseudo_labels()
    beta = None if not run.s3f else labels.settings.s3f.beta if run.beta is None else run.beta
    trained = networks.round_2(full, beta, seed)
    name = "round_2" if trained == full else trained.results.name
    kept = [decision.agreement.case for decision in networks.decisions(full, beta) if decision.kept]
    return networks.predict(trained, name, seed), {case: full.fold.prediction(case, ".nii.gz") for case in kept}


def _label_quality(labels: dict[str, Path], masks: dict[str, Path], gt: Path) -> Evaluation | None:
    """Labels of a training against masks, where there are masks of training cases."""
    known = sorted(labels.keys() & masks.keys())
    return evaluate_folders(labels[known[0]].parent, gt, name="labels", cases=known) if known else None
