"""UM-SAM on made-up scans, through the installed commands: no label of a slice, a 2D network that learns from SAM."""

from __future__ import annotations

import time
from pathlib import Path

from nnunetv2_clisc.demo import begin_demo, make_phantoms, run_step
from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.tables import Table, mean_sd, to_markdown

TRAINING, VALIDATION, TEST = 14, 2, 8  # scans
DATASET, FULLSUP, NAME = 921, 922, "PhantomSegments"
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
    start = time.monotonic()
    folders = begin_demo(output)
    here = output.resolve()
    scans = here / "scans"
    make_phantoms(scans, seed, training=TRAINING, validation=VALIDATION, test=TEST)
    times = [("phantoms", time.monotonic() - start)]
    raw = folders["nnUNet_raw"] / f"Dataset{DATASET}_{NAME}"
    first_pass, predicted = here / "first_pass_imagesTs", here / "predictions_imagesTs"
    steps = [
        ["nnUNetv2_clisc", "convert", "folder", "--images", str(scans / "images"), "--labels", str(scans / "labels"),
         "--split", str(scans / "split.json"), "-d", str(DATASET), "-n", NAME, "--fullsup-d", str(FULLSUP)],
        ["nnUNetv2_clisc", "pseudo_label", "-d", str(DATASET), "-device", device, "--weights", "embedded",
         "--preset", "um-sam", "--seed", str(seed), "--set", f"segments.points_per_side={POINTS}"],
        ["nnUNetv2_clisc", "sanity", "-d", str(DATASET), "--gt", str(scans / "labels"), "--cases", "128"],
        ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "-np", "2", "-npfp", "2"],
        ["nnUNetv2_train", str(DATASET), "2d", "0", "-tr", TRAINER, "-device", device],
        ["nnUNetv2_clisc", "baseline", "pseudo_label", "-d", str(DATASET), "--images", str(raw / "imagesTs"),
         "-o", str(first_pass), "-device", device],
        ["nnUNetv2_predict", "-d", str(DATASET), "-c", "2d", "-f", "0", "-tr", TRAINER, "-device", device,
         "--disable_tta", "-npp", "1", "-nps", "1", "-i", str(raw / "imagesTs"), "-o", str(predicted)],
    ]  # fmt: skip
    for step in steps:
        words = 3 if step[1] == "baseline" else 2 if step[0] == "nnUNetv2_clisc" else 1
        times.append((" ".join(step[:words]), run_step(step)))
    rows = [
        _row("pseudo-labels (segments)", raw / "labelsTr", scans / "labels"),
        _row("new scans, segments", first_pass, raw / "labelsTs"),
        _row("new scans, network", predicted, raw / "labelsTs"),
    ]
    header = ["", *(METRICS[metric].heading for metric in SHOWN), "cases"]
    print("\n" + to_markdown([Table("against the true masks (mean ± sd)", header, rows)]))
    print(f"\nclusters, the chosen one marked: {raw / 'clisc' / 'clusters' / 'contact_sheet.png'}")
    print(f"segments and labels: {raw / 'clisc' / 'overlays'}")
    print("\n" + "\n".join(f"{seconds:6.0f} s  {name}" for name, seconds in times))
    print(f"{time.monotonic() - start:6.0f} s  in all")


def _row(title: str, masks: Path, truth: Path) -> list[str]:
    found = evaluate_folders(masks, truth, name=title)
    scores = found.summary()
    cells = [mean_sd(scores[name], scale=METRICS[name].scale, digits=METRICS[name].digits) for name in SHOWN]
    return [title, *cells, str(len(found.cases))]
