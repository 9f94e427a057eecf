"""Classification-to-Segmentation on made-up pictures, through the installed commands, with a table and a picture."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset_conversion.files import whole, write_json, write_table
from nnunetv2_clisc.demo import begin_demo, run_step
from nnunetv2_clisc.scoring.evaluation import Evaluation, evaluate_folders
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.tables import Table, mean_sd, to_markdown
from pseudo_labeling.embedded.phantoms import phantom_picture

TRAINING, VALIDATION, TEST = 160, 24, 24  # pictures
SIZE = 160  # pixels along an edge
DATASET, FULLSUP, NAME = 911, 912, "PhantomPictures"
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
    split = {
        "train": cases[:training],
        "val": cases[training : training + validation],
        "test": cases[training + validation :],
    }
    write_json(folder / "split.json", split)


def run_demo_c2s(output: Path, *, device: str = "cpu", seed: int = 0) -> None:
    """Pictures, convert, pseudo_label, plan, train in 2D, predict, PNG masks; each step the command a user types.

    Args:
        output: folder for everything; must not exist or hold an earlier demo, which is replaced.
        device: `cpu` or `cuda`.
        seed: of pictures and labelling.

    Raises:
        UserError: the folder holds something else, or a step failed.
    """
    start = time.monotonic()
    folders = begin_demo(output)
    here = output.resolve()
    made = here / "pictures"
    make_pictures(made, seed)
    times = [("pictures", time.monotonic() - start)]
    dataset = f"Dataset{DATASET}_{NAME}"
    raw, truth = (
        folders["nnUNet_raw"] / dataset,
        folders["nnUNet_raw"] / f"Dataset{FULLSUP}_{NAME}_fullsup" / "labelsTr",
    )
    predicted = {images: here / f"predictions_{images}" for images in ("imagesTr", "imagesTs")}
    first_pass = here / "first_pass_imagesTs"
    predict = ["nnUNetv2_predict", "-d", str(DATASET), "-c", "2d", "-f", "0", "-tr", TRAINER, "-device", device,
               "--disable_tta", "-npp", "1", "-nps", "1"]  # fmt: skip
    steps = [
        ["nnUNetv2_clisc", "convert", "pictures", "--images", str(made / "images"), "--image-labels",
         str(made / "labels.csv"), "--labels", str(made / "masks"), "--split", str(made / "split.json"),
         "-d", str(DATASET), "-n", NAME, "--fullsup-d", str(FULLSUP)],
        ["nnUNetv2_clisc", "pseudo_label", "-d", str(DATASET), "-device", device, "--weights", "embedded",
         "--preset", "c2s", "--seed", str(seed)],
        ["nnUNetv2_plan_and_preprocess", "-d", str(DATASET), "-c", "2d", "-np", "2", "-npfp", "2"],
        ["nnUNetv2_train", str(DATASET), "2d", "0", "-tr", TRAINER, "-device", device],
        *([*predict, "-i", str(raw / images), "-o", str(folder)] for images, folder in predicted.items()),
        ["nnUNetv2_clisc", "baseline", "pseudo_label", "-d", str(DATASET), "--images", str(raw / "imagesTs"),
         "-o", str(first_pass), "-device", device],
        ["nnUNetv2_clisc", "masks_to_png", "--masks", str(predicted["imagesTs"]), "--images", str(made / "images"),
         "-o", str(here / "masks_png")],
    ]  # fmt: skip
    for step in steps:
        words = 3 if step[1] in ("baseline", "convert") else 2 if step[0] == "nnUNetv2_clisc" else 1
        times.append((" ".join(step[:words]), run_step(step)))
    rows = [
        _scored("CAM", raw / "clisc" / "roi_raw", truth),
        _scored("pseudo-labels (SAM)", raw / "labelsTr", truth),
        _scored("network", predicted["imagesTr"], truth),
        _scored("new pictures, SAM", first_pass, raw / "labelsTs"),
        _scored("new pictures, network", predicted["imagesTs"], raw / "labelsTs"),
    ]
    print("\n" + to_markdown([_table(rows)]))
    print(
        f"\nmap, box, points, candidates and choice: {contact_sheet(raw / 'clisc' / 'overlays', here / 'contact.png')}"
    )
    print(f"masks as PNG: {here / 'masks_png'}")
    print("\n" + "\n".join(f"{seconds:6.0f} s  {name}" for name, seconds in times))
    print(f"{time.monotonic() - start:6.0f} s  in all")


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
