"""Other ways to a segmentation, to compare with: `sam_prompted`, `baseline`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, add_dataset_id, add_device, up_to_128


def add_sam_prompted(commands: Commands) -> None:
    """`sam_prompted`: SAM alone, told where to look by masks that exist."""
    parser = commands.add_parser("sam_prompted", help="SAM prompted from given masks, in the scans' geometry")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prompts-from", type=Path, required=True, metavar="MASKS", help="folder of masks")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--weights", metavar="embedded|paper|FILE", help="SAM's (default: paper where present)")
    parser.add_argument("--margin", type=_millimetres, default=0, metavar="N", help="mm around the box (default: 0)")
    parser.add_argument("--prompts", choices=("box", "points", "both"), default="both", help="(default: both)")
    parser.add_argument("--blank-image", action="store_true", help="control: SAM sees black instead of the scan")
    add_device(parser)
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
    baseline = commands.add_parser("baseline", help="what users would pick instead, as predictions of any scans")
    methods = baseline.add_subparsers(dest="method", required=True, metavar="METHOD")
    pseudo = methods.add_parser("pseudo_label", help="CLIP, stored classifier, CAM, SAM of new cases; trains nothing")
    pseudo.add_argument("--prompts", choices=("box", "points", "both"), help="(default: the dataset's)")
    pseudo.set_defaults(run=_baseline_pseudo_label)
    cam = methods.add_parser("cam", help="the CAM's ROI as a segmentation of new cases")
    cam.add_argument("--which", choices=("raw", "amda"), default="amda", help="classifier (default: amda)")
    cam.set_defaults(run=_baseline_cam)
    for method in (pseudo, cam):
        add_dataset_id(method, "pseudo-labelled dataset")
    classical = methods.add_parser("classical", help="head mask, multi-Otsu, largest component; no network")
    classical.add_argument("--classes", type=_classes, default=4, metavar="N", help="of multi-Otsu (default: 4)")
    classical.set_defaults(run=_baseline_classical)
    salip = methods.add_parser(
        "salip", help="SAM segments everything, CLIP retrieves the lesion, SAM again from its box"
    )
    salip.add_argument("--weights", metavar="embedded|paper|FILE", help="as of pseudo_label; FILE = a SAM")
    salip.add_argument("--clip-weights", metavar="embedded|paper|FILE", help="CLIP's alone")
    salip.add_argument("--sam-weights", metavar="embedded|paper|FILE", help="SAM's alone")
    salip.add_argument(
        "--points-per-side", type=up_to_128, default=16, metavar="N", help="grid of prompts on a slice (default: 16)"
    )
    salip.set_defaults(run=_baseline_salip)
    for method in (pseudo, cam, salip):
        add_device(method)
    for method in (pseudo, cam, classical, salip):
        method.add_argument("--images", type=Path, required=True, metavar="DIR", help="scans, e.g. imagesTs")
        method.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")


def _baseline_pseudo_label(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.cam_and_sam import pseudo_label_baseline

    masks = pseudo_label_baseline(args.dataset_id, args.images, args.output, prompts=args.prompts, device=args.device)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _baseline_cam(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.studies.baselines.cam_and_sam import cam_baseline

    masks = cam_baseline(args.dataset_id, args.images, args.output, which=args.which, device=args.device)
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
