"""`convert`: scans to an nnU-Net raw dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypedDict

from nnunetv2_clisc.commands.arguments import Commands, add_dataset_id

_BRATS = {  # layout: default NAME, help
    "brats2020": ("BraTS2020FLAIR", "BraTS2020_TrainingData as Kaggle or CBICA ship it; FLAIR only"),
    "brats2021": ("BraTS2021FLAIR", "folders BraTS2021_00000 with ..._flair and ..._seg; FLAIR only"),
    "brats2023": ("BraTS2023FLAIR", "folders BraTS-GLI-00000-000 (or -MEN-, -MET-, ...) with ...-t2f and ...-seg"),
}


def add_convert(commands: Commands) -> None:
    """`convert`: public layouts, or a folder of volumes, to nnU-Net's raw format."""
    convert = commands.add_parser("convert", help="scans to an nnU-Net raw dataset without training masks")
    layouts = convert.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    folder = layouts.add_parser("folder", help="a folder of .nii.gz, .nii, .mha, .nrrd or 3D .tif volumes")
    folder.add_argument("--images", type=Path, required=True, metavar="DIR")
    folder.add_argument(
        "--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="voxel edges in mm, for TIFF only"
    )
    folder.set_defaults(run=_convert_folder)
    bids = layouts.add_parser("bids", help="a BIDS data set: sub-*/[ses-*/]anat/*_FLAIR.nii.gz")
    bids.add_argument("--source", type=Path, required=True, metavar="DIR")
    bids.set_defaults(run=_convert_bids)
    for layout in (folder, bids):
        layout.add_argument("--labels", type=Path, metavar="DIR", help="masks of the test cases (and for --fullsup-d)")
        layout.add_argument("-n", "--name", required=True, help="the NAME of DatasetNNN_NAME")
    lgg = layouts.add_parser("lgg", help="the TIFF folders of Kaggle's kaggle_3m")
    lgg.set_defaults(run=_convert_lgg)
    named = [(lgg, "LGG")]
    for layout_name, (dataset, description) in _BRATS.items():
        brats = layouts.add_parser(layout_name, help=description)
        brats.set_defaults(run=_convert_brats)
        named.append((brats, dataset))
    for layout, dataset in named:
        layout.add_argument("--source", type=Path, required=True, metavar="DIR")
        layout.add_argument("-n", "--name", default=dataset, help=f"the NAME of DatasetNNN_NAME (default: {dataset})")
    for layout in (folder, bids, *(each for each, _ in named)):
        add_dataset_id(layout)
        layout.add_argument(
            "--split", type=Path, metavar="FILE", help='JSON {"train": [...], "val": [...], "test": [...]}'
        )
        layout.add_argument(
            "--fullsup-d", type=int, metavar="ID", help="also write a supervised dataset with the same cases and split"
        )
        layout.add_argument(
            "--seed", type=int, default=0, help="of what is drawn: the split, if no file gives one, folds"
        )


class _CommonOptions(TypedDict):
    dataset_id: int
    name: str
    split: Path | None
    fullsup_id: int | None
    seed: int


def _common_options(args: argparse.Namespace) -> _CommonOptions:
    """What every layout takes, under the names that the library functions share."""
    return {
        "dataset_id": args.dataset_id,
        "name": args.name,
        "split": args.split,
        "fullsup_id": args.fullsup_d,
        "seed": args.seed,
    }


def _convert_folder(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.folder import convert_folder

    print(convert_folder(args.images, labels=args.labels, spacing=args.spacing, **_common_options(args)))
    return 0


def _convert_bids(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.bids import convert_bids

    print(convert_bids(args.source, labels=args.labels, **_common_options(args)))
    return 0


def _convert_brats(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.brats import LAYOUTS, convert_brats

    print(convert_brats(LAYOUTS[args.layout], args.source, **_common_options(args)))
    return 0


def _convert_lgg(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.lgg import convert_lgg

    print(convert_lgg(args.source, **_common_options(args)))
    return 0
