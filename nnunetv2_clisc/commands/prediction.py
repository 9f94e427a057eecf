"""What nnU-Net's prediction is given and what becomes of its masks: `mirror`, `masks_to_png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, add_command


def add_masks_to_png(commands: Commands) -> None:
    """`masks_to_png`: predicted masks of pictures as PNG files."""
    parser = add_command(
        commands,
        "masks_to_png",
        "predicted masks of pictures back to PNG, each of its picture's size",
        "Writes masks that nnUNetv2_predict made of converted pictures as PNG files with 0 and 255, each as large as "
        "the picture it belongs to.",
        "nnUNetv2_clisc masks_to_png --masks PREDICTIONS --images NEW_PHOTOS -o MASKS",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--masks", type=Path, required=True, metavar="DIR", help="predictions, CASE.nii.gz")
    data.add_argument("--images", type=Path, required=True, metavar="DIR", help="the pictures that were converted")
    data.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for CASE.png")
    parser.set_defaults(run=_masks_to_png)


def _masks_to_png(args: argparse.Namespace) -> int:
    from dataset_conversion.sources.pictures import masks_to_png

    written = masks_to_png(args.masks, args.images, args.output)
    print(f"{args.output}: {len(written)} masks")
    return 0


def add_mirror(commands: Commands) -> None:
    """`mirror`: scans with their mirror images, for prediction."""
    parser = add_command(
        commands,
        "mirror",
        "scans with their registered mirror images, for nnUNetv2_predict",
        "Writes each scan as CASE_0000.nii.gz and its mirror image, flipped across the patient's midline and "
        "registered rigidly, as CASE_0001.nii.gz, as networks of two channels want them (convert folder "
        "--mirrored makes those to train on). Pictures of some cases lie in the folder mirrored.",
        "nnUNetv2_clisc mirror --images NEW_SCANS -o NEW_MIRRORED",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--images", type=Path, required=True, metavar="DIR", help="the scans; their names are the cases'")
    data.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for both channels")
    sharing = parser.add_argument_group("sharing the work")
    sharing.add_argument("-num_parts", type=int, metavar="N", help="share the cases among N processes")
    sharing.add_argument("-part_id", type=int, metavar="I", help="which of them, from 0")
    parser.set_defaults(run=_mirror)


def _mirror(args: argparse.Namespace) -> int:
    from dataset_conversion.scans.volumes import list_volumes
    from dataset_conversion.sources.mirrored import mirror_folder
    from nnunetv2_clisc.running.parts import resolve_part

    cases = resolve_part(args.num_parts, args.part_id).share(sorted(list_volumes(args.images)))
    print(f"{args.output}: {len(mirror_folder(args.images, args.output, cases))} scans with their mirror images")
    return 0
