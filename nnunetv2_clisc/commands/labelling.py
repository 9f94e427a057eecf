"""Pseudo labels and what is made with them: `pseudo_label`, `relabel`, `submit`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, add_dataset_id, add_device, add_trainer
from nnunetv2_clisc.running.options import STAGES, LabellingOptions


def add_pseudo_label(commands: Commands) -> None:
    """`pseudo_label`: masks for the training scans of a dataset, in one go or by stage and part."""
    parser = commands.add_parser("pseudo_label", help="slice labels, CAMs, prompts and SAM masks into labelsTr")
    _add_labelling_options(parser)
    parser.add_argument(
        "--stage", choices=STAGES, help="this stage alone (default: all); slice_labels and masks take parts"
    )
    _add_parts(parser)
    parser.add_argument("--num_gpus", type=int, metavar="N", help="one process for each of N GPUs of this machine")
    parser.set_defaults(run=_pseudo_label)


def _pseudo_label(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.running.labelling import pseudo_label

    done = pseudo_label(
        _labelling_options(args),
        stage=args.stage,
        num_parts=args.num_parts,
        part_id=args.part_id,
        num_gpus=args.num_gpus,
    )
    print(done)
    return 0


def add_relabel(commands: Commands) -> None:
    """`relabel`: the S3F pass between the two rounds, shared among processes."""
    parser = commands.add_parser("relabel", help="a share of a fold's S3F pass, between the rounds of nnUNetv2_train")
    add_dataset_id(parser)
    _add_training_options(parser)
    add_device(parser)
    _add_parts(parser)
    parser.set_defaults(run=_relabel)


def _relabel(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.running.parts import resolve_part

    part = resolve_part(args.num_parts, args.part_id)
    # only now: the next import brings torch, and a wrong part is to be told without that wait
    from nnunetv2_clisc.training.relabel_part import relabel_part

    done = relabel_part(
        args.dataset_id,
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
    parser = commands.add_parser("submit", help="the whole chain, from slice labels to training, as Slurm jobs")
    _add_labelling_options(parser)
    parser.add_argument("-num_parts", type=int, default=4, metavar="N", help="jobs that share the cases (default: 4)")
    parser.add_argument("--labels-only", action="store_true", help="neither plan nor train")
    _add_training_options(parser)
    parser.add_argument("--plan-args", default="", metavar="TEXT", help="more flags of nnUNetv2_plan_and_preprocess")
    parser.add_argument("--train-args", default="", metavar="TEXT", help="more flags of nnUNetv2_train")
    parser.add_argument("--train-gpus", type=int, default=1, metavar="N", help="GPUs of the training job (default: 1)")
    parser.add_argument(
        "--relabel-parts", type=int, default=1, metavar="N", help="jobs that share S3F's pass (default: 1, in training)"
    )
    parser.add_argument("--cpus", type=int, default=4, metavar="N", help="CPUs of a job (default: 4)")
    parser.add_argument("--minutes", type=int, default=1440, metavar="N", help="time limit of a job (default: 1440)")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="NAME=VALUE", help="an option of sbatch, e.g. partition=gpu"
    )
    parser.set_defaults(run=_submit)


def _submit(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.running.cluster import Resources, Training, submit

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
    add_dataset_id(parser)
    add_device(parser)
    parser.add_argument(
        "--weights", metavar="embedded|paper|FILE", help="of all networks; FILE = a SAM (default: paper where present)"
    )
    parser.add_argument("--clip-weights", metavar="embedded|paper|FILE", help="CLIP's alone")
    parser.add_argument("--sam-weights", metavar="embedded|paper|FILE", help="SAM's alone")
    parser.add_argument("--classifier-weights", metavar="none|paper|FILE", help="the ResNet50 classifier's start")
    parser.add_argument(
        "--image-labels", type=Path, metavar="CSV", help="your slice labels (case,slice,label), not CLIP's"
    )
    parser.add_argument("--preset", choices=("paper", "public-code", "embedded"), help="(default: that of the weights)")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="JSON with settings to change")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting, e.g. prompts.margin=10"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--redo",
        nargs="*",
        metavar="CASE",
        help="make anew what was changed by hand, which is kept otherwise: these cases, or slice_labels.csv "
        "(default: all of it)",
    )


def _labelling_options(args: argparse.Namespace) -> LabellingOptions:
    return LabellingOptions(
        dataset_id=args.dataset_id,
        device=args.device,
        weights=args.weights,
        clip_weights=args.clip_weights,
        sam_weights=args.sam_weights,
        classifier_weights=args.classifier_weights,
        image_labels=args.image_labels,
        preset=args.preset,
        settings_file=args.settings,
        changes=tuple(args.set),
        seed=args.seed,
        redo=None if args.redo is None else tuple(args.redo),
    )


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-num_parts", type=int, metavar="N", help="share the cases among N processes (default: the Slurm array's size)"
    )
    parser.add_argument(
        "-part_id", type=int, metavar="I", help="which of them, from 0 (default: this task of the Slurm array)"
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--fold", default="0", help="(default: 0)")
    add_trainer(parser)
    parser.add_argument("-c", "--configuration", default="3d_fullres", help="(default: 3d_fullres)")
