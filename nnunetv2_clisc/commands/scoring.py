"""Scores against masks: `evaluate`, `compare`, `stages`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, Flags, add_command, add_dataset, add_seed


def add_evaluate(commands: Commands) -> None:
    """`evaluate`: scores of one folder of predictions."""
    parser = add_command(
        commands,
        "evaluate",
        "volume DSC, HD95 and more of predictions against masks",
        "Measures a folder of predicted masks against masks of the same names: DSC, HD95 and ASSD in mm, precision, "
        "recall and volumes of each case, with mean and sd over all and by tumour size.",
        "nnUNetv2_clisc evaluate --pred PREDICTIONS --gt MASKS --json scores.json",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--pred", type=Path, required=True, metavar="DIR", help="predictions")
    data.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks, of all the cases or of some")
    data.add_argument(
        "--confidence", type=Path, metavar="CSV", help="case,confidence, which is put to the test: whom may one trust?"
    )
    data.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    data.add_argument("-o", "--output", type=Path, metavar="OUT", help="folder for tables, cases.csv and plots")
    _add_metric_settings(parser.add_argument_group("settings"))
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.scoring.folders import evaluate
    from nnunetv2_clisc.scoring.metrics import MetricSettings

    settings = MetricSettings(args.hd95, args.empty_policy, args.foreground, args.pred_foreground)
    print(
        evaluate(
            args.pred, args.gt, settings=settings, json_file=args.json, output=args.output, confidence=args.confidence
        )
    )
    return 0


def add_compare(commands: Commands) -> None:
    """`compare`: scores and tests of several folders of predictions."""
    parser = add_command(
        commands,
        "compare",
        "Table 1 of any set of predictions, with tests and plots",
        "Measures several methods on the cases that all of them have, and writes the paper's Table 1 of them: mean and "
        "sd, paired tests with the best other method, bootstrap intervals, plots.",
        "nnUNetv2_clisc compare --gt MASKS --method ours=PREDICTIONS cam=ROIS -o OUT",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks, of all the cases or of some")
    data.add_argument(
        "--method", action="extend", nargs="+", default=[], metavar="NAME=DIR", help="predictions; two or more"
    )
    data.add_argument(
        "--confidence",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=CSV",
        help="case,confidence of a method, which is put to the test: scores with the least trusted masks set aside",
    )
    data.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder for tables, cases.csv and plots"
    )
    settings = parser.add_argument_group("settings")
    _add_metric_settings(settings)
    add_seed(settings, "the bootstrap intervals")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.scoring.folders import compare
    from nnunetv2_clisc.scoring.metrics import MetricSettings

    settings = MetricSettings(args.hd95, args.empty_policy, args.foreground, args.pred_foreground)
    print(compare(args.method, args.gt, args.output, settings=settings, seed=args.seed, confidence=args.confidence))
    print(f"tables, plots and numbers: {args.output}")
    return 0


def _add_metric_settings(flags: Flags) -> None:
    flags.add_argument(
        "--hd95",
        choices=("pooled", "larger"),
        default="pooled",
        help="percentile of both directions pooled, as medpy (default), or the larger of the two, as MONAI",
    )
    flags.add_argument(
        "--empty-policy",
        choices=("nan", "worst", "public-code"),
        default="nan",
        help="an empty mask's HD95: left out and counted (default), the BraTS penalty, or 0 as in CLISC's public code",
    )
    add_foreground(flags)
    flags.add_argument(
        "--pred-foreground",
        type=_foreground,
        metavar="any|LIST",
        help="the same for predictions whose labels are others (default: as --foreground)",
    )


def add_foreground(flags: Flags) -> None:
    """`--foreground`: what counts as the tumour in masks of several classes."""
    flags.add_argument(
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
    parser = add_command(
        commands,
        "stages",
        "which stage earns what: every stage against masks (evaluation only)",
        "Scores what every stage of a pseudo-labelled dataset left, from slice labels to SAM's masks, against masks of "
        "its training cases: which stage earns what. Nothing is changed by it.",
        "nnUNetv2_clisc stages -d 501 --gt MASKS --pred network=PREDICTIONS",
    )
    data = parser.add_argument_group("data")
    add_dataset(data, "pseudo-labelled dataset")
    data.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks CASE.nii.gz of the cases to score")
    data.add_argument(
        "--pred", action="append", default=[], metavar="NAME=DIR", help="predictions to add as a further row"
    )
    add_foreground(parser.add_argument_group("settings"))
    parser.set_defaults(run=_stages)


def _stages(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.scoring.stage_table import stage_table

    print(stage_table(args.dataset, args.gt, args.pred, foreground=args.foreground))
    return 0
