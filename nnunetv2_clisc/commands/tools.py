"""What surrounds the method: `weights`, `export_stock`, `demo`, `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunetv2_clisc.commands.arguments import Commands, add_command, add_seed


def add_weights(commands: Commands) -> None:
    """`weights`: the cache of published weights."""
    weights = add_command(
        commands,
        "weights",
        "published weights: download, list, verify",
        "Keeps the published weights of CLIP, SAM and ResNet50 in a folder of this machine: CLISC_WEIGHTS, else "
        "~/.cache/nnunetv2_clisc. Without them the small embedded ones are used.",
        "nnUNetv2_clisc weights list",
    )
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    download = add_command(
        actions,
        "download",
        "fetch weights into the cache (CLISC_WEIGHTS)",
        "Fetches weight files into the cache and checks their SHA-256; a download that broke off is continued.",
        "nnUNetv2_clisc weights download paper medsam_vit_b",
    )
    files = download.add_argument_group("files")
    files.add_argument(
        "names", nargs="*", metavar="NAME", help="paper, all, or names that `weights list` shows (default: paper)"
    )
    download.set_defaults(run=_weights_download)
    add_command(
        actions,
        "list",
        "what is known, and what is in the cache",
        "Shows every weight file that is known by name, and whether it is in the cache.",
        "nnUNetv2_clisc weights list",
    ).set_defaults(run=_weights_list)
    add_command(
        actions,
        "verify",
        "check the SHA-256 of what is in the cache",
        "Computes the SHA-256 of the embedded weight files and of those in the cache; exit code 1 if one is damaged.",
        "nnUNetv2_clisc weights verify",
    ).set_defaults(run=_weights_verify)


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
    parser = add_command(
        commands,
        "export_stock",
        "a trained model for machines with nnU-Net and without this package",
        "Copies a trained fold into a model folder for nnUNetv2_predict_from_modelfolder on machines that have nnU-Net "
        "and not this package.",
        "nnUNetv2_clisc export_stock -o EXPORTED --model \\\n"
        "    nnUNet_results/Dataset501_MyScans/CLISCTrainer__nnUNetPlans__3d_fullres",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--model", type=Path, required=True, metavar="DIR", help="nnUNet_results/DATASET/TRAINER__...")
    data.add_argument("-f", "--fold", default="0", metavar="FOLD", help="fold (default: 0)")
    data.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.set_defaults(run=_export_stock)


def _export_stock(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.training.checkpoints import export_stock

    print(export_stock(args.model / f"fold_{args.fold}", args.output))
    return 0


def add_demo(commands: Commands) -> None:
    """`demo`: the method on made-up scans, as a first try."""
    parser = add_command(
        commands,
        "demo",
        "run the whole method on made-up scans",
        "Makes phantom scans and takes them through every step, each with the command that you would type, then "
        "prints what each stage earns. Says first how long that will take on this CPU.",
        "nnUNetv2_clisc demo -o clisc_demo",
    )
    settings = parser.add_argument_group("settings")
    settings.add_argument(
        "--method",
        choices=("clisc", "c2s", "um-sam", "aisct"),
        default="clisc",
        help="clisc: brain scans; c2s: pictures with labels, Classification-to-Segmentation; um-sam: brain scans, "
        "clusters of all that SAM sees; aisct: a lesion that only the other hemisphere gives away (default: clisc)",
    )
    settings.add_argument(
        "-o", "--output", type=Path, default=Path("clisc_demo"), metavar="OUT", help="folder (default: clisc_demo)"
    )
    settings.add_argument("-device", default="cpu", metavar="DEVICE", help="cpu or cuda (default: cpu)")
    add_seed(settings, "phantoms and labelling")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.demos.pictures import run_demo_c2s
    from nnunetv2_clisc.demos.scans import run_demo
    from nnunetv2_clisc.demos.segments import run_demo_um_sam
    from nnunetv2_clisc.demos.symmetry import run_demo_aisct

    demos = {"clisc": run_demo, "c2s": run_demo_c2s, "um-sam": run_demo_um_sam, "aisct": run_demo_aisct}
    demos[args.method](args.output, device=args.device, seed=args.seed)
    return 0


def add_doctor(commands: Commands) -> None:
    """`doctor`: what is missing or wrong in this installation."""
    parser = add_command(
        commands,
        "doctor",
        "check the installation, one line a check",
        "Checks nnU-Net, trainer, folders, weights, device and disk, a line each, with what to do where one is not as "
        "it must be; exit code 1 then.",
        "nnUNetv2_clisc doctor",
    )
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.doctor import checks

    rows = checks()
    for row in rows:
        print(row)
    return 0 if all(row.ok for row in rows) else 1
