"""A look into the method on a dataset of the user's: `ablate`, `sanity`, `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import (
    Commands,
    add_command,
    add_dataset,
    add_device,
    add_seed,
    add_training,
    up_to_128,
)


def add_ablate(commands: Commands) -> None:
    """`ablate`: trainings with parts of the method left out or changed."""
    parser = add_command(
        commands,
        "ablate",
        "Table 2 and Fig. 3 of the paper on a dataset of yours; resumes",
        "Runs the method on a pseudo-labelled and preprocessed dataset with parts left out and with other values of "
        "alpha and beta, scores every run against masks, and writes the paper's Table 2 and Fig. 3. Further groups of "
        "runs are those of the sibling methods. Run again, it skips what is done.",
        "nnUNetv2_clisc ablate -d 501 -o OUT --only table2",
    )
    data = parser.add_argument_group("data")
    add_dataset(data, "pseudo-labelled, preprocessed dataset")
    data.add_argument("--images", type=Path, metavar="DIR", help="scans to score on (default: imagesTs)")
    data.add_argument(
        "--gt", type=Path, metavar="DIR", help="their masks, and perhaps the training cases' (default: labelsTs)"
    )
    data.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for all of it")
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--only",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="table2, alpha, beta (default: these three), c2s, um-sam, sam-adapter, or a run's name",
    )
    runs.add_argument("--seeds", type=up_to_128, default=1, metavar="N", help="repeat every training (default: 1)")
    training = parser.add_argument_group("training")
    add_training(training)
    training.add_argument("-f", "--fold", type=int, default=0, metavar="FOLD", help="fold (default: 0)")
    add_device(training)
    parser.set_defaults(run=_ablate)


def _ablate(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.ablation.ablate import ablate

    print(
        ablate(
            args.dataset,
            args.output,
            only=args.only,
            trainer=args.trainer,
            plans=args.plans,
            fold=args.fold,
            device=args.device,
            seeds=args.seeds,
            images=args.images,
            gt=args.gt,
        )
    )
    print(f"tables, curves and predictions: {args.output}")
    return 0


def add_sanity(commands: Commands) -> None:
    """`sanity`: controls of what CLIP and the CAM respond to."""
    parser = add_command(
        commands,
        "sanity",
        "do CLIP and the CAM heed what they are asked? controls of both",
        "Asks CLIP with other prompts and the CAM with randomised weights, on some training cases of a pseudo-labelled "
        "dataset: do both heed what they are asked? Nothing is trained and no label changes.",
        "nnUNetv2_clisc sanity -d 501 --cases 6",
    )
    data = parser.add_argument_group("data")
    add_dataset(data, "pseudo-labelled dataset")
    data.add_argument("--gt", type=Path, metavar="DIR", help="masks of training cases, for evaluation only")
    data.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="folder (default: clisc/sanity in the raw dataset)"
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument("--cases", type=up_to_128, default=12, metavar="N", help="how many cases (default: 12)")
    settings.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also compare CAM methods with randomcam: layercam, gradcam, gradcam++, eigencam, eigengradcam, "
        "ablationcam, scorecam, or all",
    )
    settings.add_argument(
        "--permuted", action="store_true", help="with --methods: and with a classifier trained on permuted labels"
    )
    add_seed(settings, "the randomised weights")
    add_device(settings)
    parser.set_defaults(run=_sanity)


def _sanity(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.sanity import sanity

    print(
        sanity(
            args.dataset,
            gt=args.gt,
            output=args.output,
            cases=args.cases,
            device=args.device,
            seed=args.seed,
            methods=args.methods,
            permuted=args.permuted,
        )
    )
    return 0


def add_report(commands: Commands) -> None:
    """`report`: a page about one dataset."""
    parser = add_command(
        commands,
        "report",
        "one HTML file that shows labels, training, S3F and predictions",
        "Shows what happened to a pseudo-labelled dataset on one page that needs neither server nor network: slices "
        "with their masks, training curves, the cases that S3F dropped, predictions, and scores where there are masks.",
        "nnUNetv2_clisc report -d 501 --gt MASKS -o report.html",
    )
    data = parser.add_argument_group("data")
    add_dataset(data, "pseudo-labelled dataset")
    data.add_argument("--pred", type=Path, metavar="DIR", help="predictions CASE.nii.gz to show")
    data.add_argument("--gt", type=Path, metavar="DIR", help="masks CASE.nii.gz of any of the cases, to score with")
    data.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: DatasetNNN_NAME_report.html in this folder)",
    )
    training = parser.add_argument_group("training", "Which to show; what is not there is left out unless it is named.")
    training.add_argument("-tr", "--trainer", metavar="NAME", help="trainer (default: CLISCTrainer)")
    training.add_argument("-p", "--plans", metavar="NAME", help="plans (default: nnUNetPlans)")
    training.add_argument("-c", "--configuration", metavar="NAME", help="configuration (default: 3d_fullres)")
    training.add_argument("-f", "--fold", metavar="FOLD", help="fold (default: 0)")
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.report import write_report
    from nnunetv2_clisc.report.sources import Model

    model = Model(args.trainer, args.plans, args.configuration, args.fold)
    print(write_report(args.dataset, model=model, pred=args.pred, gt=args.gt, output=args.output))
    return 0
