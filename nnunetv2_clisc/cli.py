"""The command `nnUNetv2_clisc`: parses, calls one library function, prints. Imports nothing heavy before it must."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_clisc import __version__
from nnunetv2_clisc.labelling_options import STAGES, LabellingOptions


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; mistakes of the user end in one line on standard error and exit code 2."""
    parsed = _parser().parse_args(arguments)
    # torch warns of its own deprecated parts when other packages are imported; nothing a user can act on
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from dataset_conversion.errors import ConversionError
    from nnunetv2_clisc.errors import ClisError
    from pseudo_labeling.errors import PseudoLabelError

    command: Callable[[argparse.Namespace], int] = parsed.run
    try:
        code = command(parsed)
        sys.stdout.flush()
    except (ClisError, ConversionError, PseudoLabelError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # e.g. piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # rights, a full disk: the system's own words name the file
        print(f"error: {error.filename or parsed.command}: {error.strerror}; mend its rights or place", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        code = 130
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_clisc",
        description="Brain tumour segmentation from FLAIR scans without masks, as an extension of nnU-Net v2.",
    )
    parser.add_argument("--version", action="version", version=f"nnunetv2-clisc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_pseudo_label(commands)
    _add_relabel(commands)
    _add_submit(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_stages(commands)
    _add_sam_prompted(commands)
    _add_baseline(commands)
    _add_ablate(commands)
    _add_sanity(commands)
    _add_weights(commands)
    _add_export(commands)
    _add_report(commands)

    demo = commands.add_parser("demo", help="run the whole method on made-up scans")
    demo.add_argument("-o", "--output", type=Path, default=Path("clisc_demo"), help="folder (default: clisc_demo)")
    demo.add_argument("-device", default="cpu", help="cpu or cuda (default: cpu)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser("doctor", help="check the installation, one line a check")
    doctor.set_defaults(run=_doctor)
    return parser


# ------------------------------------------------------------------------------------------------------------ convert


def _add_convert(commands: argparse._SubParsersAction) -> None:
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
        layout.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID")
        layout.add_argument(
            "--split", type=Path, metavar="FILE", help='JSON {"train": [...], "val": [...], "test": [...]}'
        )
        layout.add_argument(
            "--fullsup-d", type=int, metavar="ID", help="also write a supervised dataset with the same cases and split"
        )
    for layout in (folder, lgg):
        layout.add_argument("--seed", type=int, default=0, help="of the split made where no file gives one")


def _convert_folder(args: argparse.Namespace) -> int:
    from dataset_conversion.folder import convert_folder

    summary = convert_folder(
        args.images,
        dataset_id=args.dataset_id,
        name=args.name,
        labels=args.labels,
        split=args.split,
        fullsup_id=args.fullsup_d,
        seed=args.seed,
    )
    print(summary)
    return 0


def _convert_brats2020(args: argparse.Namespace) -> int:
    from dataset_conversion.brats2020 import convert_brats2020

    summary = convert_brats2020(
        args.source, dataset_id=args.dataset_id, name=args.name, split=args.split, fullsup_id=args.fullsup_d
    )
    print(summary)
    return 0


def _convert_lgg(args: argparse.Namespace) -> int:
    from dataset_conversion.lgg import convert_lgg

    summary = convert_lgg(
        args.source,
        dataset_id=args.dataset_id,
        name=args.name,
        split=args.split,
        fullsup_id=args.fullsup_d,
        seed=args.seed,
    )
    print(summary)
    return 0


# ------------------------------------------------------------------------------------------------------- pseudo_label


def _add_pseudo_label(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("pseudo_label", help="slice labels, CAMs, prompts and SAM masks into labelsTr")
    _add_labelling_options(parser)
    parser.add_argument(
        "--stage", choices=STAGES, help="this stage alone (default: all); slice_labels and masks take parts"
    )
    _add_parts(parser)
    parser.add_argument("--num_gpus", type=int, metavar="N", help="one process for each of N GPUs of this machine")
    parser.set_defaults(run=_pseudo_label)


def _add_labelling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID")
    parser.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--weights", metavar="embedded|paper|FILE", help="of all networks; FILE = a SAM (default: paper where present)"
    )
    parser.add_argument("--clip-weights", metavar="embedded|paper|FILE", help="CLIP's alone")
    parser.add_argument("--sam-weights", metavar="embedded|paper|FILE", help="SAM's alone")
    parser.add_argument("--classifier-weights", metavar="none|paper|FILE", help="the ResNet50 classifier's start")
    parser.add_argument(
        "--image-labels", type=Path, metavar="CSV", help="your slice labels (case,slice,label), not CLIP's"
    )
    parser.add_argument("--preset", choices=("paper", "public-code", "embedded"), help="(default: that of the weights)")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="JSON with settings to change")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting, e.g. prompts.margin=10"
    )
    parser.add_argument("--seed", type=int, default=0)


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-num_parts", type=int, metavar="N", help="share the cases among N processes (default: the Slurm array's size)"
    )
    parser.add_argument(
        "-part_id", type=int, metavar="I", help="which of them, from 0 (default: this task of the Slurm array)"
    )


def _labelling_options(args: argparse.Namespace) -> LabellingOptions:
    return LabellingOptions(
        dataset_id=args.dataset_id,
        device=args.device,
        weights=args.weights,
        clip_weights=args.clip_weights,
        sam_weights=args.sam_weights,
        classifier_weights=args.classifier_weights,
        image_labels=args.image_labels,
        preset=args.preset,
        settings_file=args.settings,
        changes=tuple(args.set),
        seed=args.seed,
    )


def _pseudo_label(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.labelling import pseudo_label

    done = pseudo_label(
        _labelling_options(args),
        stage=args.stage,
        num_parts=args.num_parts,
        part_id=args.part_id,
        num_gpus=args.num_gpus,
    )
    print(done)
    return 0


def _add_relabel(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("relabel", help="a share of a fold's S3F pass, between the rounds of nnUNetv2_train")
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID")
    parser.add_argument("-f", "--fold", default="0", help="(default: 0)")
    parser.add_argument("-tr", "--trainer", default="CLISCTrainer", help="(default: CLISCTrainer)")
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="(default: nnUNetPlans)")
    parser.add_argument("-c", "--configuration", default="3d_fullres", help="(default: 3d_fullres)")
    parser.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")
    _add_parts(parser)
    parser.set_defaults(run=_relabel)


def _relabel(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.parts import resolve_part

    part = resolve_part(args.num_parts, args.part_id)
    from nnunetv2_clisc.relabel_part import relabel_part

    done = relabel_part(
        args.dataset_id,
        args.fold,
        part,
        trainer=args.trainer,
        plans=args.plans,
        configuration=args.configuration,
        device=args.device,
    )
    print(done)
    return 0


def _add_submit(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("submit", help="the whole chain, from slice labels to training, as Slurm jobs")
    _add_labelling_options(parser)
    parser.add_argument("-num_parts", type=int, default=4, metavar="N", help="jobs that share the cases (default: 4)")
    parser.add_argument("--labels-only", action="store_true", help="neither plan nor train")
    parser.add_argument("-f", "--fold", default="0", help="(default: 0)")
    parser.add_argument("-tr", "--trainer", default="CLISCTrainer", help="(default: CLISCTrainer)")
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="(default: nnUNetPlans)")
    parser.add_argument("-c", "--configuration", default="3d_fullres", help="(default: 3d_fullres)")
    parser.add_argument("--plan-args", default="", metavar="TEXT", help="more flags of nnUNetv2_plan_and_preprocess")
    parser.add_argument("--train-args", default="", metavar="TEXT", help="more flags of nnUNetv2_train")
    parser.add_argument("--train-gpus", type=int, default=1, metavar="N", help="GPUs of the training job (default: 1)")
    parser.add_argument(
        "--relabel-parts", type=int, default=1, metavar="N", help="jobs that share S3F's pass (default: 1, in training)"
    )
    parser.add_argument("--cpus", type=int, default=4, metavar="N", help="CPUs of a job (default: 4)")
    parser.add_argument("--minutes", type=int, default=1440, metavar="N", help="time limit of a job (default: 1440)")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="NAME=VALUE", help="an option of sbatch, e.g. partition=gpu"
    )
    parser.set_defaults(run=_submit)


def _submit(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.cluster import Resources, Training, submit

    training = Training(
        trainer=None if args.labels_only else args.trainer,
        configuration=args.configuration,
        fold=args.fold,
        plans=args.plans,
        plan_arguments=tuple(shlex.split(args.plan_args)),
        train_arguments=tuple(shlex.split(args.train_args)),
        gpus=args.train_gpus,
        relabel_parts=args.relabel_parts,
    )
    resources = Resources(cpus=args.cpus, minutes=args.minutes, sbatch=tuple(args.sbatch))
    print(submit(_labelling_options(args), args.num_parts, training, resources))
    return 0


# ---------------------------------------------------------------------------------------------------------- evaluation


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="volume DSC, HD95 and more of predictions against masks")
    parser.add_argument("--pred", type=Path, required=True, metavar="DIR")
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="folder for tables, cases.csv and plots")
    _add_metric_settings(parser)
    parser.set_defaults(run=_evaluate)


def _add_metric_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hd95",
        choices=("pooled", "larger"),
        default="pooled",
        help="percentile of both directions pooled, as medpy (default), or the larger of the two, as MONAI",
    )
    parser.add_argument(
        "--empty-policy",
        choices=("nan", "worst", "public-code"),
        default="nan",
        help="an empty mask's HD95: left out and counted (default), the BraTS penalty, or 0 as in CLISC's public code",
    )


def _evaluate(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.metrics import MetricSettings
    from nnunetv2_clisc.scoring import evaluate

    settings = MetricSettings(hd95=args.hd95, empty_policy=args.empty_policy)
    print(evaluate(args.pred, args.gt, settings=settings, json_file=args.json, output=args.output))
    return 0


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("compare", help="Table 1 of any set of predictions, with tests and plots")
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks; may hold further cases")
    parser.add_argument(
        "--method", action="extend", nargs="+", default=[], metavar="NAME=DIR", help="predictions; two or more"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    _add_metric_settings(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals (default: 0)")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.metrics import MetricSettings
    from nnunetv2_clisc.scoring import compare

    settings = MetricSettings(hd95=args.hd95, empty_policy=args.empty_policy)
    print(compare(args.method, args.gt, args.output, settings=settings, seed=args.seed))
    print(f"tables, plots and numbers: {args.output}")
    return 0


def _add_stages(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("stages", help="which stage earns what: every stage against masks (evaluation only)")
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID")
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR", help="masks CASE.nii.gz of the cases to score")
    parser.add_argument(
        "--pred", action="append", default=[], metavar="NAME=DIR", help="predictions to add as further rows"
    )
    parser.set_defaults(run=_stages)


def _stages(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.stages import stage_table

    print(stage_table(args.dataset_id, args.gt, args.pred))
    return 0


def _add_sam_prompted(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("sam_prompted", help="SAM prompted from given masks, in the scans' geometry")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prompts-from", type=Path, required=True, metavar="MASKS", help="folder of masks")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--weights", metavar="embedded|paper|FILE", help="SAM's (default: paper where present)")
    parser.add_argument("--margin", type=_pixels, default=0, metavar="N", help="pixels around the box (default: 0)")
    parser.add_argument("--prompts", choices=("box", "points", "both"), default="both", help="(default: both)")
    parser.add_argument("--blank-image", action="store_true", help="control: SAM sees black instead of the scan")
    parser.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.set_defaults(run=_sam_prompted)


def _pixels(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of pixels; give 0 or more")
    return int(text)


def _sam_prompted(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.sam_prompted import sam_prompted
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


# ----------------------------------------------------------------------------------------------------------- baselines


def _add_baseline(commands: argparse._SubParsersAction) -> None:
    baseline = commands.add_parser("baseline", help="what users would pick instead, as predictions of any scans")
    methods = baseline.add_subparsers(dest="method", required=True, metavar="METHOD")
    pseudo = methods.add_parser("pseudo_label", help="CLIP, stored classifier, CAM, SAM of new cases; trains nothing")
    pseudo.add_argument("--prompts", choices=("box", "points", "both"), help="(default: the dataset's)")
    pseudo.set_defaults(run=_baseline_pseudo_label)
    cam = methods.add_parser("cam", help="the CAM's ROI as a segmentation of new cases")
    cam.add_argument("--which", choices=("raw", "amda"), default="amda", help="classifier (default: amda)")
    cam.set_defaults(run=_baseline_cam)
    for method in (pseudo, cam):
        method.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID", help="pseudo-labelled dataset")
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
        "--points-per-side", type=_up_to_128, default=16, metavar="N", help="grid of prompts on a slice (default: 16)"
    )
    salip.set_defaults(run=_baseline_salip)
    for method in (pseudo, cam, salip):
        method.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")
    for method in (pseudo, cam, classical, salip):
        method.add_argument("--images", type=Path, required=True, metavar="DIR", help="scans, e.g. imagesTs")
        method.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")


def _classes(text: str) -> int:
    if text not in ("2", "3", "4", "5"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of classes; give 2 to 5")
    return int(text)


def _up_to_128(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 128:
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number from 1 to 128")
    return int(text)


def _baseline_classical(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.baselines import classical_baseline

    masks = classical_baseline(args.images, args.output, classes=args.classes)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _baseline_salip(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.baselines import salip_baseline

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


def _baseline_pseudo_label(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.first_pass_baseline import pseudo_label_baseline

    masks = pseudo_label_baseline(args.dataset_id, args.images, args.output, prompts=args.prompts, device=args.device)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _baseline_cam(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.first_pass_baseline import cam_baseline

    masks = cam_baseline(args.dataset_id, args.images, args.output, which=args.which, device=args.device)
    print(f"{len(masks)} masks in {args.output}")
    return 0


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("ablate", help="Table 2 and Fig. 3 of the paper on a dataset of yours; resumes")
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument(
        "--only", action="extend", nargs="+", default=[], metavar="NAME", help="table2, alpha, beta, or a run's name"
    )
    parser.add_argument("-tr", "--trainer", default="CLISCTrainer", help="(default: CLISCTrainer)")
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="(default: nnUNetPlans)")
    parser.add_argument("-f", "--fold", type=int, default=0)
    parser.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--seeds", type=_up_to_128, default=1, metavar="N", help="repeat every training (default: 1)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="scans to score on (default: imagesTs)")
    parser.add_argument(
        "--gt", type=Path, metavar="DIR", help="their masks, and perhaps the training cases' (default: labelsTs)"
    )
    parser.set_defaults(run=_ablate)


def _ablate(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.ablation import ablate

    print(
        ablate(
            args.dataset_id,
            args.output,
            only=args.only,
            trainer=args.trainer,
            plans=args.plans,
            fold=args.fold,
            device=args.device,
            seeds=args.seeds,
            images=args.images,
            gt=args.gt,
        )
    )
    print(f"tables, curves and predictions: {args.output}")
    return 0


def _add_sanity(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("sanity", help="do CLIP and the CAM heed what they are asked? controls of both")
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID", help="pseudo-labelled dataset")
    parser.add_argument("--gt", type=Path, metavar="DIR", help="masks of training cases, for evaluation only")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="(default: clisc/sanity in the raw dataset)")
    parser.add_argument("--cases", type=_up_to_128, default=12, metavar="N", help="how many cases (default: 12)")
    parser.add_argument("-device", default=None, help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of the randomised weights (default: 0)")
    parser.set_defaults(run=_sanity)


def _sanity(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.sanity import sanity

    print(
        sanity(
            args.dataset_id,
            gt=args.gt,
            output=args.output,
            cases=args.cases,
            device=args.device,
            seed=args.seed,
        )
    )
    return 0


# ------------------------------------------------------------------------------------------------------------- weights


def _add_weights(commands: argparse._SubParsersAction) -> None:
    weights = commands.add_parser("weights", help="published weights: download, list, verify")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    download = actions.add_parser("download", help="fetch weights into the cache (CLISC_WEIGHTS)")
    download.add_argument("names", nargs="*", help="see `list` (default: those of `--weights paper`)")
    download.set_defaults(run=_weights_download)
    actions.add_parser("list", help="what is known, and what is in the cache").set_defaults(run=_weights_list)
    actions.add_parser("verify", help="check the SHA-256 of what is in the cache").set_defaults(run=_weights_verify)


def _weights_download(args: argparse.Namespace) -> int:
    from pseudo_labeling.weights import download

    for path in download(args.names or ["paper"]):
        print(path)
    return 0


def _weights_list(args: argparse.Namespace) -> int:
    from pseudo_labeling.weights import list_weights

    for row in list_weights():
        print(row)
    return 0


def _weights_verify(args: argparse.Namespace) -> int:
    from pseudo_labeling.weights import verify

    rows = verify()
    for row in rows:
        print(row)
    return 0 if all(row.ok for row in rows) else 1


# -------------------------------------------------------------------------------------------------------------- report


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("report", help="one HTML file that shows labels, training, S3F and predictions")
    parser.add_argument("-d", "--dataset-id", type=int, required=True, metavar="ID")
    parser.add_argument("-tr", "--trainer", metavar="TRAINER", help="(default: CLISCTrainer)")
    parser.add_argument("-p", "--plans", metavar="PLANS", help="(default: nnUNetPlans)")
    parser.add_argument("-c", "--configuration", metavar="CONFIGURATION", help="(default: 3d_fullres)")
    parser.add_argument("-f", "--fold", metavar="FOLD", help="(default: 0)")
    parser.add_argument("--pred", type=Path, metavar="DIR", help="predictions CASE.nii.gz to show")
    parser.add_argument("--gt", type=Path, metavar="DIR", help="masks CASE.nii.gz of any of the cases, to score with")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(default: DatasetNNN_NAME_report.html in this folder)"
    )
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.report import write_report
    from nnunetv2_clisc.report.sources import Model

    model = Model(args.trainer, args.plans, args.configuration, args.fold)
    print(write_report(args.dataset_id, model=model, pred=args.pred, gt=args.gt, output=args.output))
    return 0


# -------------------------------------------------------------------------------------------------------------- others


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export_stock", help="a trained model for machines with nnU-Net and without this package"
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="nnUNet_results/DATASET/TRAINER__...")
    parser.add_argument("-f", "--fold", default="0")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.plans import export_stock

    print(export_stock(args.model / f"fold_{args.fold}", args.output))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.demo import run_demo

    run_demo(args.output, device=args.device, seed=args.seed)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from nnunetv2_clisc.doctor import checks

    rows = checks()
    for row in rows:
        print(row)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    main()
