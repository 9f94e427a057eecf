"""Pseudo labels and what is made with them: `pseudo_label`, `relabel`, `submit`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from nnunetv2_clisc.commands.arguments import (
    SPECS,
    Commands,
    Flags,
    add_command,
    add_dataset,
    add_device,
    add_seed,
    add_training,
)
from nnunetv2_clisc.running.options import LabellingOptions
from pseudo_labeling.stage_names import STAGES


def add_pseudo_label(commands: Commands) -> None:
    """`pseudo_label`: masks for the training scans of a dataset, in one go or by stage and part."""
    parser = add_command(
        commands,
        "pseudo_label",
        "slice labels, CAMs, prompts and SAM masks into labelsTr",
        "Makes a pseudo-label for every case in imagesTr of a converted dataset: CLIP labels the slices, a classifier "
        "learns from them, its CAM prompts SAM, and SAM's masks go to labelsTr. Run again, it skips what is done and "
        "keeps what was corrected by hand.",
        "nnUNetv2_clisc pseudo_label -d 501 --set prompts.margin=10",
    )
    _add_labelling_options(parser)
    sharing = parser.add_argument_group("sharing the work")
    add_device(sharing)
    sharing.add_argument(
        "--stage",
        choices=STAGES,
        metavar="STAGE",
        help="one stage alone (default: all): slice_labels, classifier, masks, finish; of um-sam segments, clusters, "
        "masks, finish; the first and masks take parts",
    )
    _add_parts(sharing)
    sharing.add_argument("-num_gpus", type=int, metavar="N", help="one process for each of N GPUs of this machine")
    sharing.add_argument("--num_gpus", type=int, help=argparse.SUPPRESS)  # as it was spelt at first
    sharing.add_argument(
        "-np", type=int, metavar="N", dest="processes", help="N processes that share the cores of the CPU"
    )
    parser.set_defaults(run=_pseudo_label)


def _pseudo_label(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.running.labelling import pseudo_label

    done = pseudo_label(
        _labelling_options(args),
        stage=args.stage,
        num_parts=args.num_parts,
        part_id=args.part_id,
        num_gpus=args.num_gpus,
        processes=args.processes,
    )
    print(done)
    return 0


def add_relabel(commands: Commands) -> None:
    """`relabel`: the S3F pass between the two rounds, shared among processes."""
    parser = add_command(
        commands,
        "relabel",
        "a share of a fold's S3F pass, between the rounds of nnUNetv2_train",
        "Predicts a share of a fold's training cases with the network of round 1 and asks SAM again from there; the "
        "next nnUNetv2_train decides which cases are kept (S3F) and trains round 2. For job arrays: without it, "
        "training does the whole pass by itself.",
        "nnUNetv2_clisc relabel -d 501 -f 0 -num_parts 4 -part_id 0",
    )
    training = parser.add_argument_group("training")
    add_dataset(training, "preprocessed dataset")
    _add_fold(training)
    sharing = parser.add_argument_group("sharing the work")
    add_device(sharing)
    _add_parts(sharing)
    parser.set_defaults(run=_relabel)


def _relabel(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.running.parts import resolve_part

    part = resolve_part(args.num_parts, args.part_id)
    # only now: the next import brings torch, and a wrong part is to be told without that wait
    from nnunetv2_clisc.training.relabel_part import relabel_part

    done = relabel_part(
        args.dataset,
        args.fold,
        part,
        trainer=args.trainer,
        plans=args.plans,
        configuration=args.configuration,
        device=args.device,
    )
    print(done)
    return 0


def add_submit(commands: Commands) -> None:
    """`submit`: labelling, planning and training as a chain of Slurm jobs."""
    parser = add_command(
        commands,
        "submit",
        "the whole chain, from slice labels to training, as Slurm jobs",
        "Submits labelling, planning and training of a converted dataset as Slurm jobs that wait for each other. A "
        "chain that broke is completed by submitting the same again.",
        "nnUNetv2_clisc submit -d 501 -num_parts 8 --sbatch partition=gpu",
    )
    _add_labelling_options(parser)
    training = parser.add_argument_group("training")
    training.add_argument("--labels-only", action="store_true", help="neither plan nor train")
    _add_fold(training)
    training.add_argument(
        "--plan-args", default="", metavar="TEXT", help="more flags of nnUNetv2_plan_and_preprocess, in quotes"
    )
    training.add_argument("--train-args", default="", metavar="TEXT", help="more flags of nnUNetv2_train, in quotes")
    sharing = parser.add_argument_group("sharing the work")
    add_device(sharing)
    sharing.add_argument("-num_parts", type=int, default=4, metavar="N", help="jobs that share the cases (default: 4)")
    sharing.add_argument(
        "--relabel-parts", type=int, default=1, metavar="N", help="jobs that share S3F's pass (default: 1, in training)"
    )
    sharing.add_argument("--train-gpus", type=int, default=1, metavar="N", help="GPUs of the training job (default: 1)")
    jobs = parser.add_argument_group("each job")
    jobs.add_argument("--cpus", type=int, default=4, metavar="N", help="CPUs (default: 4)")
    jobs.add_argument("--minutes", type=int, default=1440, metavar="N", help="time limit (default: 1440)")
    jobs.add_argument(
        "--sbatch", action="append", default=[], metavar="NAME=VALUE", help="an option of sbatch, e.g. partition=gpu"
    )
    parser.set_defaults(run=_submit)


def _submit(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.running.slurm import Resources, Training, submit

    training = Training(
        trainer=None if args.labels_only else args.trainer,
        configuration=args.configuration,
        fold=args.fold,
        plans=args.plans,
        plan_arguments=tuple(shlex.split(args.plan_args)),
        train_arguments=tuple(shlex.split(args.train_args)),
        gpus=args.train_gpus,
        relabel_parts=args.relabel_parts,
    )
    resources = Resources(cpus=args.cpus, minutes=args.minutes, sbatch=tuple(args.sbatch))
    print(submit(_labelling_options(args), args.num_parts, training, resources))
    return 0


def _add_labelling_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    add_dataset(data, "converted dataset")
    data.add_argument(
        "--image-labels",
        type=Path,
        metavar="CSV",
        help="your slice labels (case,slice,label) instead of CLIP's (default: those that pictures came with)",
    )
    data.add_argument(
        "--redo",
        nargs="*",
        metavar="CASE",
        help="make anew what was changed by hand and is kept otherwise: these cases, or slice_labels.csv (without a "
        "name: all of it)",
    )
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--weights",
        metavar=SPECS,
        help="of all networks; FILE is a SAM (default: paper where it is downloaded, else embedded)",
    )
    weights.add_argument("--clip-weights", metavar=SPECS, help="CLIP's alone")
    weights.add_argument("--sam-weights", metavar=SPECS, help="SAM's alone")
    weights.add_argument(
        "--classifier-weights", metavar="none|paper|FILE", help="ResNet50 that the classifier starts from"
    )
    weights.add_argument("--dino-weights", metavar="FILE", help="DINO's ViT-S/8 (segments.features=dino)")
    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--preset",
        choices=("paper", "public-code", "embedded", "c2s", "um-sam"),
        metavar="NAME",
        help="values to begin with: paper, public-code, embedded, c2s or um-sam (default: those of the weights)",
    )
    settings.add_argument("--settings", type=Path, metavar="FILE", help="JSON with settings to change")
    settings.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting, e.g. prompts.margin=10"
    )
    add_seed(settings, "all that is drawn: what the classifier starts from and learns in which order")


def _labelling_options(args: argparse.Namespace) -> LabellingOptions:
    return LabellingOptions(
        dataset=args.dataset,
        device=args.device,
        weights=args.weights,
        clip_weights=args.clip_weights,
        sam_weights=args.sam_weights,
        classifier_weights=args.classifier_weights,
        dino_weights=args.dino_weights,
        image_labels=args.image_labels,
        preset=args.preset,
        settings_file=args.settings,
        changes=tuple(args.set),
        seed=args.seed,
        redo=None if args.redo is None else tuple(args.redo),
    )


def _add_parts(flags: Flags) -> None:
    flags.add_argument(
        "-num_parts", type=int, metavar="N", help="share the cases among N processes (default: the Slurm array's size)"
    )
    flags.add_argument(
        "-part_id", type=int, metavar="I", help="which of them, from 0 (default: this task of the Slurm array)"
    )


def _add_fold(flags: Flags) -> None:
    flags.add_argument("-f", "--fold", default="0", metavar="FOLD", help="fold, a number or all (default: 0)")
    add_training(flags)
    flags.add_argument(
        "-c", "--configuration", default="3d_fullres", metavar="NAME", help="configuration (default: 3d_fullres)"
    )
