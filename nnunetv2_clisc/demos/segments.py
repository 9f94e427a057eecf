"""UM-SAM on made-up scans, through the installed commands: no label of a slice, a 2D network that learns from SAM."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_clisc.demos.scans import make_phantoms
from nnunetv2_clisc.demos.steps import CLISC, Demo
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.tables import Table, mean_sd, to_markdown

TRAINING, VALIDATION, TEST = 14, 2, 8  # scans
DATASET, NAME = 921, "PhantomSegments"
TRAINER = "DistillationTrainer_small"
POINTS = 10  # along a side of SAM's grid: 19 mm apart, which the lesions of these phantoms are larger than
SHOWN = ("dsc", "hd95_mm", "assd_mm")


def run_demo_um_sam(output: Path, *, device: str = "cpu", seed: int = 0) -> None:
    """Phantoms, convert, pseudo_label, sanity, plan, train in 2D, predict; each step the command a user types.

    Args:
        output: folder for everything; must not exist or hold an earlier demo, which is replaced.
        device: `cpu` or `cuda`.
        seed: of phantoms and labelling.

    Raises:
        UserError: the folder holds something else, or a step failed.
    """
    demo = Demo(output, DATASET, NAME, device)
    scans = demo.here / "scans"
    with demo.timed("phantoms"):
        make_phantoms(scans, seed, training=TRAINING, validation=VALIDATION, test=TEST)
    first_pass, predicted = demo.here / "first_pass_imagesTs", demo.here / "predictions_imagesTs"
    demo.run(
        [
            demo.convert("folder", scans, "labels"),
            demo.pseudo_label(seed, "--preset", "um-sam", "--set", f"segments.points_per_side={POINTS}"),
            [CLISC, "sanity", "-d", str(DATASET), "--gt", str(scans / "labels"), "--cases", "128"],
            demo.plan("2d"),
            demo.train("2d", TRAINER),
            demo.first_pass(first_pass),
            demo.predict("2d", TRAINER, "imagesTs", predicted),
        ]
    )
    rows = [
        _row("pseudo-labels (segments)", demo.raw / "labelsTr", scans / "labels"),
        _row("new scans, segments", first_pass, demo.raw / "labelsTs"),
        _row("new scans, network", predicted, demo.raw / "labelsTs"),
    ]
    header = ["", *(METRICS[metric].heading for metric in SHOWN), "cases"]
    print("\n" + to_markdown([Table("against the true masks (mean ± sd)", header, rows)]))
    print(f"\nclusters, the chosen one marked: {demo.raw / 'clisc' / 'clusters' / 'contact_sheet.png'}")
    print(f"segments and labels: {demo.raw / 'clisc' / 'overlays'}")
    demo.report_times()


def _row(title: str, masks: Path, truth: Path) -> list[str]:
    found = evaluate_folders(masks, truth, name=title)
    scores = found.summary()
    cells = [mean_sd(scores[name], scale=METRICS[name].scale, digits=METRICS[name].digits) for name in SHOWN]
    return [title, *cells, str(len(found.cases))]
