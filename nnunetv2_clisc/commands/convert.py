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
    _add_mirrored(data)
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
    aisd = add_command(
        layouts,
        "aisd",
        "CT of acute stroke, a folder CT.nii.gz and GT_hard.nii.gz a patient",
        "The CT scans of AISD as NIfTI: folders 0073410 with CT.nii.gz and GT_hard.nii.gz (0 and 1), with the data "
        f"set's published test cases; validation cases are drawn. {_WRITES}",
        "nnUNetv2_clisc convert aisd --source AISD --mirrored -d 701 --fullsup-d 702",
    )
    _add_mirrored(_add_source(aisd, "folder of the patients' folders"))
    _add_target(aisd, "AISD")
    aisd.set_defaults(run=_convert_aisd)
    _add_pictures(layouts)
    _add_isic2017(layouts)


def _add_pictures(layouts: Commands) -> None:
    pictures = add_command(
        layouts,
        "pictures",
        "a folder of PNG, JPEG, TIFF or BMP pictures with a table of labels",
        "A folder of colour or grey pictures, and a table case,label that says which show what is looked for. Each "
        f"picture becomes a case of one slice. {_WRITES} With -o instead of -d: inputs of nnUNetv2_predict, no "
        "labels needed.",
        "nnUNetv2_clisc convert pictures --images PHOTOS \\\n"
        "    --image-labels labels.csv -d 601 -n Skin\n"
        "  nnUNetv2_clisc convert pictures --images NEW_PHOTOS -o INPUTS",
    )
    data = pictures.add_argument_group("data")
    data.add_argument("--images", type=Path, required=True, metavar="DIR", help="the pictures")
    data.add_argument("--image-labels", type=Path, metavar="CSV", help="case,label with label 0 or 1; not with -o")
    _add_labels(data)
    data.add_argument("--class-name", default="lesion", metavar="NAME", help="of what is marked (default: lesion)")
    _add_max_edge(data)
    data.add_argument("-o", "--output", type=Path, metavar="DIR", help="write inputs of nnUNetv2_predict, no dataset")
    _add_target(pictures, None, required=False)
    pictures.set_defaults(run=_convert_pictures)


def _add_isic2017(layouts: Commands) -> None:
    isic = add_command(
        layouts,
        "isic2017",
        "the ISIC 2017 challenge: melanoma or not, with its own split",
        "The pictures of the ISIC 2017 challenge as it ships them: ISIC-2017_Training_Data, its Part1 and Part3 "
        f"ground truth, and the same of Validation and Test_v2. {_WRITES}",
        "nnUNetv2_clisc convert isic2017 --source ISIC_2017 -d 601",
    )
    _add_max_edge(_add_source(isic, "the folder with ISIC-2017_Training_Data and the others"))
    _add_target(isic, "ISIC2017", split=False)
    isic.set_defaults(run=_convert_isic2017)


def _add_max_edge(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--max-edge",
        type=int,
        default=1024,
        metavar="N",
        help="make pictures whose longer side has more pixels smaller (default: 1024)",
    )


def _add_mirrored(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--mirrored", action="store_true", help="each scan's registered mirror image as a second channel (AISCT-SAM)"
    )


def _add_labels(data: argparse._ArgumentGroup) -> None:
    data.add_argument("--labels", type=Path, metavar="DIR", help="masks of the test cases (and for --fullsup-d)")


def _add_source(parser: argparse.ArgumentParser, what: str) -> argparse._ArgumentGroup:
    data = parser.add_argument_group("data")
    data.add_argument("--source", type=Path, required=True, metavar="DIR", help=what)
    return data


def _add_target(
    parser: argparse.ArgumentParser, name: str | None, *, required: bool = True, split: bool = True
) -> None:
    """What is written; `name` is the default of `-n`, which is required without one."""
    dataset = parser.add_argument_group("dataset")
    dataset.add_argument(
        "-d", "--dataset-id", type=_new_id, required=required, metavar="ID", help="number of the new dataset, 1 to 999"
    )
    default = f" (default: {name})" if name else ""
    dataset.add_argument(
        "-n",
        "--name",
        required=required and name is None,
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
    drawn = parser.add_argument_group("split")
    if split:
        drawn.add_argument(
            "--split", type=Path, metavar="FILE", help='JSON {"train": [...], "val": [...], "test": [...]}'
        )
    add_seed(drawn, "what is drawn: folds, and the split where no file gives one")


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

    options = _common_options(args)
    print(convert_folder(args.images, labels=args.labels, spacing=args.spacing, mirrored=args.mirrored, **options))
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


def _convert_aisd(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.aisd import convert_aisd

    print(convert_aisd(args.source, mirrored=args.mirrored, **_common_options(args)))
    return 0


def _convert_pictures(args: argparse.Namespace) -> int:
    from dataset_conversion.errors import UserError
    from dataset_conversion.sources.pictures import convert_new_pictures, convert_pictures

    _check_max_edge(args.max_edge)
    if args.output is not None:
        if args.dataset_id is not None:
            raise UserError("-o, -d: give one of them: inputs of nnUNetv2_predict, or a dataset")
        written = convert_new_pictures(args.images, args.output, max_edge=args.max_edge)
        print(f"{args.output}: {len(written) // 3} pictures, as nnUNetv2_predict takes them")
        return 0
    for flag, value in (("-d", args.dataset_id), ("-n", args.name), ("--image-labels", args.image_labels)):
        if value is None:
            raise UserError(f"{flag}: needed for a dataset; or give -o DIR for inputs of nnUNetv2_predict")
    found = convert_pictures(
        args.images,
        args.image_labels,
        labels=args.labels,
        max_edge=args.max_edge,
        class_name=args.class_name,
        **_common_options(args),
    )
    print(found)
    return 0


def _convert_isic2017(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.isic2017 import convert_isic2017

    _check_max_edge(args.max_edge)
    found = convert_isic2017(
        args.source,
        dataset_id=args.dataset_id,
        name=args.name,
        fullsup_id=args.fullsup_d,
        seed=args.seed,
        max_edge=args.max_edge,
    )
    print(found)
    return 0


def _check_max_edge(pixels: int) -> None:
    from dataset_conversion.errors import UserError

    if pixels < 32:
        raise UserError(f"--max-edge {pixels}: too small to show anything; give 32 or more")
