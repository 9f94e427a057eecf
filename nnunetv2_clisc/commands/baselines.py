"""Other ways to a segmentation, to compare with: `sam_prompted`, `baseline`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import SPECS, Commands, add_command, add_dataset, add_device, up_to_128


def add_sam_prompted(commands: Commands) -> None:
    """`sam_prompted`: SAM alone, told where to look by masks that exist."""
    parser = add_command(
        commands,
        "sam_prompted",
        "SAM prompted from given masks, in the scans' geometry",
        "Prompts SAM once in every slice where a given mask is not empty, and writes SAM's masks on the scans' grids. "
        "Tells what a SAM can do with good prompts, and what it owes to the image.",
        "nnUNetv2_clisc sam_prompted --images SCANS --prompts-from MASKS -o OUT",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--images", type=Path, required=True, metavar="DIR", help="scans")
    data.add_argument(
        "--prompts-from",
        type=Path,
        required=True,
        metavar="DIR",
        help="masks on their grids; those without are left out",
    )
    data.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the masks")
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--weights", metavar=SPECS, help="SAM's (default: paper where it is downloaded, else embedded)"
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--prompts", choices=("box", "points", "both"), default="both", help="what SAM is told (default: both)"
    )
    settings.add_argument("--margin", type=_millimetres, default=0, metavar="N", help="mm around the box (default: 0)")
    settings.add_argument("--blank-image", action="store_true", help="control: SAM sees black instead of the scan")
    add_device(settings)
    parser.set_defaults(run=_sam_prompted)


def _sam_prompted(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.sam_prompted import sam_prompted
    from pseudo_labeling.settings import PromptSettings

    written = sam_prompted(
        args.images,
        args.prompts_from,
        args.output,
        sam_weights=args.weights,
        prompting=PromptSettings(kind=args.prompts, margin=args.margin),
        blank_image=args.blank_image,
        device=args.device,
    )
    print(f"{len(written)} masks in {args.output}")
    return 0


def _millimetres(text: str) -> int:
    if not text.isdecimal() or int(text) > 10000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of mm; give 0 to 10000")
    return int(text)


def add_baseline(commands: Commands) -> None:
    """`baseline`: METHODs that predict masks of any scans and train nothing."""
    baseline = add_command(
        commands,
        "baseline",
        "what users would pick instead, as predictions of any scans",
        "Segments any scans with a method that trains nothing, to compare a trained network with. Each method has its "
        "own page: nnUNetv2_clisc baseline METHOD -h",
        "nnUNetv2_clisc baseline classical --images SCANS -o OUT",
    )
    methods = baseline.add_subparsers(dest="method", required=True, metavar="METHOD", title="methods")
    pseudo = add_command(
        methods,
        "pseudo_label",
        "CLIP, stored classifier, CAM, SAM of new cases; trains nothing",
        "Sends new cases through the stages of a pseudo-labelled dataset, with its settings and its stored classifier: "
        "CLIP, CAM, prompts, SAM.",
        "nnUNetv2_clisc baseline pseudo_label -d 501 --images SCANS -o OUT",
    )
    _add_data(pseudo, of_dataset=True)
    settings = pseudo.add_argument_group("settings")
    settings.add_argument(
        "--prompts", choices=("box", "points", "both"), help="what SAM is told (default: the dataset's)"
    )
    add_device(settings)
    pseudo.set_defaults(run=_baseline_pseudo_label)
    cam = add_command(
        methods,
        "cam",
        "the CAM's ROI as a segmentation of new cases",
        "Takes the binarised CAM of a pseudo-labelled dataset's classifier as the segmentation of new cases, without "
        "SAM.",
        "nnUNetv2_clisc baseline cam -d 501 --images SCANS -o OUT --which raw",
    )
    _add_data(cam, of_dataset=True)
    settings = cam.add_argument_group("settings")
    settings.add_argument(
        "--which", choices=("raw", "amda"), default="amda", help="classifier before or after AMDA (default: amda)"
    )
    add_device(settings)
    cam.set_defaults(run=_baseline_cam)
    classical = add_command(
        methods,
        "classical",
        "head mask, multi-Otsu, largest component; no network",
        "Takes the largest bright component of the head by multi-Otsu thresholds; no network takes part.",
        "nnUNetv2_clisc baseline classical --images SCANS -o OUT --classes 4",
    )
    _add_data(classical)
    settings = classical.add_argument_group("settings")
    settings.add_argument("--classes", type=_classes, default=4, metavar="N", help="of multi-Otsu (default: 4)")
    classical.set_defaults(run=_baseline_classical)
    salip = add_command(
        methods,
        "salip",
        "SAM segments everything, CLIP retrieves the lesion, SAM again from its box",
        "SaLIP: SAM segments everything in a slice, CLIP retrieves the segment that is the lesion, and SAM is prompted "
        "again from its box.",
        "nnUNetv2_clisc baseline salip --images SCANS -o OUT --weights embedded",
    )
    _add_data(salip)
    weights = salip.add_argument_group("weights")
    weights.add_argument("--weights", metavar=SPECS, help="as of pseudo_label; FILE is a SAM")
    weights.add_argument("--clip-weights", metavar=SPECS, help="CLIP's alone")
    weights.add_argument("--sam-weights", metavar=SPECS, help="SAM's alone")
    settings = salip.add_argument_group("settings")
    settings.add_argument(
        "--points-per-side", type=up_to_128, default=16, metavar="N", help="grid of prompts on a slice (default: 16)"
    )
    add_device(settings)
    salip.set_defaults(run=_baseline_salip)
    simulated = add_command(
        methods,
        "simulated",
        "the embedded 3D network, trained on phantoms only",
        "Predicts with the embedded 3D network, which has seen phantoms with simulated tumours and no scan: where "
        "CLISCTrainer_small begins.",
        "nnUNetv2_clisc baseline simulated --images SCANS -o OUT",
    )
    _add_data(simulated)
    add_device(simulated.add_argument_group("settings"))
    simulated.set_defaults(run=_baseline_simulated)


def _add_data(parser: argparse.ArgumentParser, *, of_dataset: bool = False) -> None:
    data = parser.add_argument_group("data")
    if of_dataset:
        add_dataset(data, "pseudo-labelled dataset")
    data.add_argument("--images", type=Path, required=True, metavar="DIR", help="scans, e.g. imagesTs")
    data.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the masks")


def _baseline_pseudo_label(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.cam_and_sam import pseudo_label_baseline

    masks = pseudo_label_baseline(args.dataset, args.images, args.output, prompts=args.prompts, device=args.device)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _baseline_cam(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.cam_and_sam import cam_baseline

    masks = cam_baseline(args.dataset, args.images, args.output, which=args.which, device=args.device)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _baseline_classical(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.rivals import classical_baseline

    masks = classical_baseline(args.images, args.output, classes=args.classes)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _classes(text: str) -> int:
    if text not in ("2", "3", "4", "5"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of classes; give 2 to 5")
    return int(text)


def _baseline_salip(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.rivals import salip_baseline

    masks = salip_baseline(
        args.images,
        args.output,
        weights=args.weights,
        clip_weights=args.clip_weights,
        sam_weights=args.sam_weights,
        points_per_side=args.points_per_side,
        device=args.device,
    )
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _baseline_simulated(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.simulated import simulated_baseline

    masks = simulated_baseline(args.images, args.output, device=args.device)
    print(f"{len(masks)} masks in {args.output}")
    return 0
