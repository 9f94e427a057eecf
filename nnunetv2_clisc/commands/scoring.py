"""Scores against masks: `evaluate`, `compare`, `stages`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, add_dataset_id


def add_evaluate(commands: Commands) -> None:
    """`evaluate`: scores of one folder of predictions."""
    parser = commands.add_parser("evaluate", help="volume DSC, HD95 and more of predictions against masks")
    parser.add_argument("--pred", type=Path, required=True, metavar="DIR")
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks, of all the cases or of some")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="folder for tables, cases.csv and plots")
    _add_metric_settings(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.scoring.folders import evaluate
    from nnunetv2_clisc.scoring.metrics import MetricSettings

    settings = MetricSettings(args.hd95, args.empty_policy, args.foreground, args.pred_foreground)
    print(evaluate(args.pred, args.gt, settings=settings, json_file=args.json, output=args.output))
    return 0


def add_compare(commands: Commands) -> None:
    """`compare`: scores and tests of several folders of predictions."""
    parser = commands.add_parser("compare", help="Table 1 of any set of predictions, with tests and plots")
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks, of all the cases or of some")
    parser.add_argument(
        "--method", action="extend", nargs="+", default=[], metavar="NAME=DIR", help="predictions; two or more"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    _add_metric_settings(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (default: 0)")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.scoring.folders import compare
    from nnunetv2_clisc.scoring.metrics import MetricSettings

    settings = MetricSettings(args.hd95, args.empty_policy, args.foreground, args.pred_foreground)
    print(compare(args.method, args.gt, args.output, settings=settings, seed=args.seed))
    print(f"tables, plots and numbers: {args.output}")
    return 0


def _add_metric_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hd95",
        choices=("pooled", "larger"),
        default="pooled",
        help="percentile of both directions pooled, as medpy (default), or the larger of the two, as MONAI",
    )
    parser.add_argument(
        "--empty-policy",
        choices=("nan", "worst", "public-code"),
        default="nan",
        help="an empty mask's HD95: left out and counted (default), the BraTS penalty, or 0 as in CLISC's public code",
    )
    add_foreground(parser)
    parser.add_argument(
        "--pred-foreground",
        type=_foreground,
        metavar="any|LIST",
        help="the same for predictions whose labels are others (default: as --foreground)",
    )


def add_foreground(parser: argparse.ArgumentParser) -> None:
    """`--foreground`: what counts as the tumour in masks of several classes."""
    parser.add_argument(
        "--foreground",
        type=_foreground,
        metavar="any|LIST",
        help="masks with several classes: the labels that are the tumour, e.g. any or 1,4 (default: the only one, 1 or "
        "255)",
    )


def _foreground(text: str) -> object:
    from nnunetv2_clisc.scoring.masks import parse_foreground

    try:
        return parse_foreground(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}': give any, or labels above 0 such as 1,2,4") from error


def add_stages(commands: Commands) -> None:
    """`stages`: scores of what every stage of the method left."""
    parser = commands.add_parser("stages", help="which stage earns what: every stage against masks (evaluation only)")
    add_dataset_id(parser)
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks CASE.nii.gz of the cases to score")
    parser.add_argument(
        "--pred", action="append", default=[], metavar="NAME=DIR", help="predictions to add as further rows"
    )
    add_foreground(parser)
    parser.set_defaults(run=_stages)


def _stages(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.scoring.stage_table import stage_table

    print(stage_table(args.dataset_id, args.gt, args.pred, foreground=args.foreground))
    return 0
