"""Classification-to-Segmentation on made-up pictures, through the installed commands, with a table and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset_conversion.files import whole, write_table
from nnunetv2_clisc.demos.steps import CLISC, Demo, write_split
from nnunetv2_clisc.scoring.evaluation import Evaluation, evaluate_folders
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.tables import Table, mean_sd, to_markdown
from pseudo_labeling.embedded.phantoms import phantom_picture

TRAINING, VALIDATION, TEST = 160, 24, 24  # pictures
SIZE = 160  # pixels along an edge
DATASET, NAME = 911, "PhantomPictures"
TRAINER = "CLISCTrainer_small"
SHOWN = ("precision", "recall", "dsc", "iou")  # what C2S reports; its F1 is the DSC
SHEET_ROWS = 6


def make_pictures(
    folder: Path, seed: int, *, training: int = TRAINING, validation: int = VALIDATION, test: int = TEST
) -> None:
    """Write coloured phantom pictures, their true masks, labels and a split, as a user's folder would look.

    Every picture shows a lesion; half of them have the sign that their label is about.

    Args:
        folder: gets `images/`, `masks/`, `labels.csv` and `split.json`.
        seed: of all chance.
        training, validation, test: numbers of pictures.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    cases = [f"picture_{number:03d}" for number in range(training + validation + test)]
    rows = []
    for number, case in enumerate(tqdm(cases, desc="pictures", unit="picture")):
        sign = number // 4 % 2 == 1  # overlays are of every fourth: so the contact sheet has both
        picture, mask = phantom_picture(np.random.default_rng([seed, number]), size=SIZE, sign=sign)
        for kind, array in (("images", picture), ("masks", mask.astype(np.uint8) * 255)):
            with whole(folder / kind / f"{case}.png") as temporary:
                Image.fromarray(array).save(temporary, format="PNG")
        rows.append({"case": case, "label": int(sign)})
    write_table(folder / "labels.csv", ["case", "label"], rows)
    write_split(folder, cases, training, validation)


def run_demo_c2s(output: Path, *, device: str = "cpu", seed: int = 0) -> None:
    """Pictures, convert, pseudo_label, plan, train in 2D, predict, PNG masks; each step the command a user types.

    Args:
        output: folder for everything; must not exist or hold an earlier demo, which is replaced.
        device: `cpu` or `cuda`.
        seed: of pictures and labelling.

    Raises:
        UserError: the folder holds something else, or a step failed.
    """
    demo = Demo(output, DATASET, NAME, device)
    made = demo.here / "pictures"
    with demo.timed("pictures"):
        make_pictures(made, seed)
    predicted = {images: demo.here / f"predictions_{images}" for images in ("imagesTr", "imagesTs")}
    first_pass = demo.here / "first_pass_imagesTs"
    demo.run(
        [
            demo.convert("pictures", made, "masks", "--image-labels", str(made / "labels.csv")),
            demo.pseudo_label(seed, "--preset", "c2s"),
            demo.plan("2d"),
            demo.train("2d", TRAINER),
            *(demo.predict("2d", TRAINER, images, folder) for images, folder in predicted.items()),
            demo.first_pass(first_pass),
            [CLISC, "masks_to_png", "--masks", str(predicted["imagesTs"]), "--images", str(made / "images"),
             "-o", str(demo.here / "masks_png")],
        ]
    )  # fmt: skip
    rows = [
        _scored("CAM", demo.raw / "clisc" / "roi_raw", demo.truth),
        _scored("pseudo-labels (SAM)", demo.raw / "labelsTr", demo.truth),
        _scored("network", predicted["imagesTr"], demo.truth),
        _scored("new pictures, SAM", first_pass, demo.raw / "labelsTs"),
        _scored("new pictures, network", predicted["imagesTs"], demo.raw / "labelsTs"),
    ]
    print("\n" + to_markdown([_table(rows)]))
    sheet = contact_sheet(demo.raw / "clisc" / "overlays", demo.here / "contact.png")
    print(f"\nmap, box, points, candidates and choice: {sheet}")
    print(f"masks as PNG: {demo.here / 'masks_png'}")
    demo.report_times()


def contact_sheet(overlays: Path, path: Path) -> Path:
    """Some overlays of a labelled dataset below each other, in one PNG."""
    shown = [Image.open(file).convert("RGB") for file in sorted(overlays.glob("*.png"))[:SHEET_ROWS]]
    sheet = Image.new("RGB", (max(each.width for each in shown), sum(each.height for each in shown)), "white")
    top = 0
    for each in shown:
        sheet.paste(each, (0, top))
        top += each.height
    with whole(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _scored(title: str, masks: Path, truth: Path) -> Evaluation:
    return evaluate_folders(masks, truth, name=title)


def _table(rows: list[Evaluation]) -> Table:
    header = ["", *("F1 (%)" if metric == "dsc" else METRICS[metric].heading for metric in SHOWN), "pictures"]
    lines = []
    for row in rows:
        found = row.summary()
        cells = [mean_sd(found[metric], scale=METRICS[metric].scale, digits=1) for metric in SHOWN]
        lines.append([row.name, *cells, str(len(row.cases))])
    return Table("against the true masks (mean ± sd over pictures)", header, lines)
