"""The demo of pictures: what a user's folder would look like, and a sheet to look at."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from nnunetv2_clisc.demos import pictures


def test_pictures_have_colours_masks_labels_and_a_split(tmp_path: Path) -> None:
    pictures.make_pictures(tmp_path, seed=0, training=12, validation=2, test=2)
    split = json.loads((tmp_path / "split.json").read_text())
    assert {name: len(cases) for name, cases in split.items()} == {"train": 12, "val": 2, "test": 2}
    with (tmp_path / "labels.csv").open() as file:
        labels = {row["case"]: int(row["label"]) for row in csv.DictReader(file)}
    darkest: dict[int, list[float]] = {0: [], 1: []}
    for case, label in labels.items():
        picture, mask = (np.asarray(Image.open(tmp_path / kind / f"{case}.png")) for kind in ("images", "masks"))
        assert picture.shape == (pictures.SIZE, pictures.SIZE, 3)
        assert set(np.unique(mask)) == {0, 255}  # every picture shows a lesion
        assert np.ptp(picture.astype(int), axis=2).max() > 20
        grey = picture.mean(2)[mask > 0]
        darkest[label].append(float(np.percentile(grey, 10) / np.median(grey)))
    assert np.median(darkest[1]) < np.median(darkest[0]) - 0.3  # the hole is what the label is about


def test_sheet_holds_the_first_overlays_below_each_other(tmp_path: Path) -> None:
    for number, height in enumerate((20, 30, 25)):
        Image.new("RGB", (40 + number, height), (number, 0, 0)).save(tmp_path / f"{number}.png")
    sheet = Image.open(pictures.contact_sheet(tmp_path, tmp_path / "out" / "sheet.png"))
    assert sheet.size == (42, 75)
    assert [sheet.getpixel((0, y)) for y in (0, 20, 50)] == [(number, 0, 0) for number in range(3)]
