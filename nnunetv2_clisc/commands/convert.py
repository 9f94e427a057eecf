"""`convert`: scans to an nnU-Net raw dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypedDict

from nnunetv2_clisc.commands.arguments import Commands, add_command, add_seed

_WRITES = (
    "Writes nnUNet_raw/DatasetNNN_NAME with the split as fold 0, whole or not at all; masks of training cases go "
    "only into the supervised dataset of --fullsup-d."
)
_BRATS = {  # layout: default NAME, line in the list, what is read, folder of the example
    "brats2020": (
        "BraTS2020FLAIR",
        "BraTS2020_TrainingData as Kaggle or CBICA ship it; FLAIR only",
        "The FLAIR scans of BraTS2020_TrainingData, as Kaggle or CBICA ship it, with the split of the CLISC paper.",
        "BraTS2020_TrainingData",
    ),
    "brats2021": (
        "BraTS2021FLAIR",
        "folders BraTS2021_00000 with ..._flair and ..._seg; FLAIR only",
        "The FLAIR scans of BraTS 2021: folders BraTS2021_00000 with ..._flair and ..._seg.",
        "TrainingData",
    ),
    "brats2023": (
        "BraTS2023FLAIR",
        "folders BraTS-GLI-00000-000 (or -MEN-, -MET-, ...) with ...-t2f and ...-seg",
        "The FLAIR scans of BraTS 2023: folders BraTS-GLI-00000-000 (or -MEN-, -MET-, ...) with ...-t2f and ...-seg. "
        "A patient's time points stay together in the split.",
        "TrainingData",
    ),
}


def add_convert(commands: Commands) -> None:
    """`convert`: public layouts, or a folder of volumes, to nnU-Net's raw format."""
    convert = add_command(
        commands,
        "convert",
        "scans to an nnU-Net raw dataset without training masks",
        "Turns scans into an nnU-Net raw dataset without masks for training, with a split. The layout says how the "
        "scans are stored; each has its own page: nnUNetv2_clisc convert LAYOUT -h",
        "nnUNetv2_clisc convert folder --images MY_FLAIR_SCANS -d 501 -n MyScans",
    )
    layouts = convert.add_subparsers(dest="layout", required=True, metavar="LAYOUT", title="layouts")
    folder = add_command(
        layouts,
        "folder",
        "a folder of .nii.gz, .nii, .mha, .nrrd or 3D .tif volumes",
        f"A folder of FLAIR volumes, one file a case: .nii.gz, .nii, .mha, .nrrd or 3D .tif. {_WRITES}",
        "nnUNetv2_clisc convert folder --images MY_FLAIR_SCANS -d 501 -n MyScans",
    )
    data = folder.add_argument_group("data")
    data.add_argument("--images", type=Path, required=True, metavar="DIR", help="the scans; their names are the cases'")
    data.add_argument(
        "--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="voxel edges in mm, for TIFF only"
    )
    _add_labels(data)
    _add_target(folder, None)
    folder.set_defaults(run=_convert_folder)
    bids = add_command(
        layouts,
        "bids",
        "a BIDS data set: sub-*/[ses-*/]anat/*_FLAIR.nii.gz",
        f"The FLAIR scans of a BIDS data set: sub-*/[ses-*/]anat/*_FLAIR.nii.gz. A subject's sessions stay together "
        f"in the split. {_WRITES}",
        "nnUNetv2_clisc convert bids --source MY_BIDS -d 501 -n MyScans",
    )
    data = bids.add_argument_group("data")
    data.add_argument("--source", type=Path, required=True, metavar="DIR", help="the folder that holds sub-*")
    _add_labels(data)
    _add_target(bids, None)
    bids.set_defaults(run=_convert_bids)
    for layout, (dataset, line, about, source) in _BRATS.items():
        brats = add_command(
            layouts,
            layout,
            line,
            f"{about} Whole tumour is one class. {_WRITES}",
            f"nnUNetv2_clisc convert {layout} --source {source} -d 501",
        )
        _add_source(brats, "folder of the case folders")
        _add_target(brats, dataset)
        brats.set_defaults(run=_convert_brats)
    lgg = add_command(
        layouts,
        "lgg",
        "the TIFF folders of Kaggle's kaggle_3m",
        f"The FLAIR slices of Kaggle's kaggle_3m (lower-grade glioma), a folder of TIFF files a case. {_WRITES}",
        "nnUNetv2_clisc convert lgg --source kaggle_3m -d 501",
    )
    _add_source(lgg, "the folder kaggle_3m")
    _add_target(lgg, "LGG")
    lgg.set_defaults(run=_convert_lgg)


def _add_labels(data: argparse._ArgumentGroup) -> None:
    data.add_argument("--labels", type=Path, metavar="DIR", help="masks of the test cases (and for --fullsup-d)")


def _add_source(parser: argparse.ArgumentParser, what: str) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--source", type=Path, required=True, metavar="DIR", help=what)


def _add_target(parser: argparse.ArgumentParser, name: str | None) -> None:
    """What is written; `name` is the default of `-n`, which is required without one."""
    dataset = parser.add_argument_group("dataset")
    dataset.add_argument(
        "-d", "--dataset-id", type=_new_id, required=True, metavar="ID", help="number of the new dataset, 1 to 999"
    )
    default = f" (default: {name})" if name else ""
    dataset.add_argument(
        "-n",
        "--name",
        required=name is None,
        default=name,
        metavar="NAME",
        help=f"the NAME of DatasetNNN_NAME{default}",
    )
    dataset.add_argument(
        "--fullsup-d",
        type=_new_id,
        metavar="ID",
        help="also write a supervised dataset of this number with the same cases and split",
    )
    split = parser.add_argument_group("split")
    split.add_argument("--split", type=Path, metavar="FILE", help='JSON {"train": [...], "val": [...], "test": [...]}')
    add_seed(split, "what is drawn: folds, and the split where no file gives one")


def _new_id(text: str) -> int:
    from nnunetv2_clisc.environment import DATASET_NAME

    if DATASET_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}': a new dataset is given by its number here, and by its name to -n")
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': give a number from 1 to 999") from None


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
