"""A look into the method on a dataset of the user's: `ablate`, `sanity`, `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, add_dataset_id, add_device, add_trainer, up_to_128


def add_ablate(commands: Commands) -> None:
    """`ablate`: trainings with parts of the method left out or changed."""
    parser = commands.add_parser("ablate", help="Table 2 and Fig. 3 of the paper on a dataset of yours; resumes")
    add_dataset_id(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument(
        "--only", action="extend", nargs="+", default=[], metavar="NAME", help="table2, alpha, beta, or a run's name"
    )
    add_trainer(parser)
    parser.add_argument("-f", "--fold", type=int, default=0)
    add_device(parser)
    parser.add_argument("--seeds", type=up_to_128, default=1, metavar="N", help="repeat every training (default: 1)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="scans to score on (default: imagesTs)")
    parser.add_argument(
        "--gt", type=Path, metavar="DIR", help="their masks, and perhaps the training cases' (default: labelsTs)"
    )
    parser.set_defaults(run=_ablate)


def _ablate(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.ablation.ablate import ablate

    print(
        ablate(
            args.dataset_id,
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
    parser = commands.add_parser("sanity", help="do CLIP and the CAM heed what they are asked? controls of both")
    add_dataset_id(parser, "pseudo-labelled dataset")
    parser.add_argument("--gt", type=Path, metavar="DIR", help="masks of training cases, for evaluation only")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="(default: clisc/sanity in the raw dataset)")
    parser.add_argument("--cases", type=up_to_128, default=12, metavar="N", help="how many cases (default: 12)")
    add_device(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the randomised weights (default: 0)")
    parser.set_defaults(run=_sanity)


def _sanity(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.sanity import sanity

    print(
        sanity(
            args.dataset_id,
            gt=args.gt,
            output=args.output,
            cases=args.cases,
            device=args.device,
            seed=args.seed,
        )
    )
    return 0


def add_report(commands: Commands) -> None:
    """`report`: a page about one dataset."""
    parser = commands.add_parser("report", help="one HTML file that shows labels, training, S3F and predictions")
    add_dataset_id(parser)
    parser.add_argument("-tr", "--trainer", metavar="TRAINER", help="(default: CLISCTrainer)")
    parser.add_argument("-p", "--plans", metavar="PLANS", help="(default: nnUNetPlans)")
    parser.add_argument("-c", "--configuration", metavar="CONFIGURATION", help="(default: 3d_fullres)")
    parser.add_argument("-f", "--fold", metavar="FOLD", help="(default: 0)")
    parser.add_argument("--pred", type=Path, metavar="DIR", help="predictions CASE.nii.gz to show")
    parser.add_argument("--gt", type=Path, metavar="DIR", help="masks CASE.nii.gz of any of the cases, to score with")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(default: DatasetNNN_NAME_report.html in this folder)"
    )
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.report import write_report
    from nnunetv2_clisc.report.sources import Model

    model = Model(args.trainer, args.plans, args.configuration, args.fold)
    print(write_report(args.dataset_id, model=model, pred=args.pred, gt=args.gt, output=args.output))
    return 0
