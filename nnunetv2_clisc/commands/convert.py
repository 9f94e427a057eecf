"""`convert`: scans to an nnU-Net raw dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypedDict

from nnunetv2_clisc.commands.arguments import Commands, add_dataset_id


def add_convert(commands: Commands) -> None:
    """`convert`: public layouts, or a folder of volumes, to nnU-Net's raw format."""
    convert = commands.add_parser("convert", help="scans to an nnU-Net raw dataset without training masks")
    layouts = convert.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    folder = layouts.add_parser("folder", help="a folder of .nii.gz, .nii, .mha or .nrrd volumes")
    folder.add_argument("--images", type=Path, required=True, metavar="DIR")
    folder.add_argument("--labels", type=Path, metavar="DIR", help="masks of the test cases (and for --fullsup-d)")
    folder.add_argument("-n", "--name", required=True, help="the NAME of DatasetNNN_NAME")
    folder.set_defaults(run=_convert_folder)
    brats = layouts.add_parser("brats2020", help="BraTS2020_TrainingData as Kaggle or CBICA ship it; FLAIR only")
    brats.set_defaults(run=_convert_brats2020)
    lgg = layouts.add_parser("lgg", help="the TIFF folders of Kaggle's kaggle_3m")
    lgg.set_defaults(run=_convert_lgg)
    for layout, name in ((brats, "BraTS2020FLAIR"), (lgg, "LGG")):
        layout.add_argument("--source", type=Path, required=True, metavar="DIR")
        layout.add_argument("-n", "--name", default=name, help=f"the NAME of DatasetNNN_NAME (default: {name})")
    for layout in (folder, brats, lgg):
        add_dataset_id(layout)
        layout.add_argument(
            "--split", type=Path, metavar="FILE", help='JSON {"train": [...], "val": [...], "test": [...]}'
        )
        layout.add_argument(
            "--fullsup-d", type=int, metavar="ID", help="also write a supervised dataset with the same cases and split"
        )
    for layout in (folder, lgg):
        layout.add_argument("--seed", type=int, default=0, help="of the split made where no file gives one")


class _CommonOptions(TypedDict):
    dataset_id: int
    name: str
    split: Path | None
    fullsup_id: int | None


def _common_options(args: argparse.Namespace) -> _CommonOptions:
    """What every layout takes, under the names that the library functions share."""
    return {"dataset_id": args.dataset_id, "name": args.name, "split": args.split, "fullsup_id": args.fullsup_d}


def _convert_folder(args: argparse.Namespace) -> int:
    from dataset_conversion.folder import convert_folder

    print(convert_folder(args.images, labels=args.labels, seed=args.seed, **_common_options(args)))
    return 0


def _convert_brats2020(args: argparse.Namespace) -> int:
    from dataset_conversion.brats2020 import convert_brats2020

    print(convert_brats2020(args.source, **_common_options(args)))
    return 0


def _convert_lgg(args: argparse.Namespace) -> int:
    from dataset_conversion.lgg import convert_lgg

    print(convert_lgg(args.source, seed=args.seed, **_common_options(args)))
    return 0
