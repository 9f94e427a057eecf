"""What surrounds the method: `weights`, `export_stock`, `demo`, `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands


def add_weights(commands: Commands) -> None:
    """`weights`: the cache of published weights."""
    weights = commands.add_parser("weights", help="published weights: download, list, verify")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    download = actions.add_parser("download", help="fetch weights into the cache (CLISC_WEIGHTS)")
    download.add_argument("names", nargs="*", help="see `list` (default: those of `--weights paper`)")
    download.set_defaults(run=_weights_download)
    actions.add_parser("list", help="what is known, and what is in the cache").set_defaults(run=_weights_list)
    actions.add_parser("verify", help="check the SHA-256 of what is in the cache").set_defaults(run=_weights_verify)


def _weights_download(args: argparse.Namespace) -> int:
    from pseudo_labeling.weights.files import download

    for path in download(args.names or ["paper"]):
        print(path)
    return 0


def _weights_list(args: argparse.Namespace) -> int:
    from pseudo_labeling.weights.files import list_weights

    for row in list_weights():
        print(row)
    return 0


def _weights_verify(args: argparse.Namespace) -> int:
    from pseudo_labeling.weights.files import verify

    rows = verify()
    for row in rows:
        print(row)
    return 0 if all(row.ok for row in rows) else 1


def add_export_stock(commands: Commands) -> None:
    """`export_stock`: a trained model that plain nnU-Net can use."""
    parser = commands.add_parser(
        "export_stock", help="a trained model for machines with nnU-Net and without this package"
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="nnUNet_results/DATASET/TRAINER__...")
    parser.add_argument("-f", "--fold", default="0")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=_export_stock)


def _export_stock(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.training.checkpoints import export_stock

    print(export_stock(args.model / f"fold_{args.fold}", args.output))
    return 0


def add_demo(commands: Commands) -> None:
    """`demo`: the method on made-up scans, as a first try."""
    parser = commands.add_parser("demo", help="run the whole method on made-up scans")
    parser.add_argument("-o", "--output", type=Path, default=Path("clisc_demo"), help="folder (default: clisc_demo)")
    parser.add_argument("-device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.demo import run_demo

    run_demo(args.output, device=args.device, seed=args.seed)
    return 0


def add_doctor(commands: Commands) -> None:
    """`doctor`: what is missing or wrong in this installation."""
    parser = commands.add_parser("doctor", help="check the installation, one line a check")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.doctor import checks

    rows = checks()
    for row in rows:
        print(row)
    return 0 if all(row.ok for row in rows) else 1
