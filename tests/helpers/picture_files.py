"""Pictures, masks and tables of labels on disk, as users of `convert pictures` have them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_labeling.embedded.phantoms import phantom_picture

ORIENTATION = 274  # EXIF


def colours(seed: int = 0, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    """`(y, x, 3)` uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def save(path: Path, array: np.ndarray, *, turned: int | None = None, **options: object) -> Path:
    """Write an array as a picture, with an EXIF orientation if one is given; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if turned is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = turned
        options["exif"] = exif
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def table(path: Path, labels: Mapping[str, object], header: tuple[str, str] = ("case", "label")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *labels.items()])
    return path


def make_pictures(folder: Path, count: int, size: int = 64, test: int = 2) -> Path:
    """Phantom pictures, masks with 0 and 255, labels and a split; every second picture has the sign."""
    labels = {}
    for number in range(count):
        name = f"p{number:02d}"
        picture, mask = phantom_picture(np.random.default_rng([3, number]), size=size, sign=number % 2 == 1)
        save(folder / "images" / f"{name}.png", picture)
        save(folder / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
        labels[name] = number % 2
    table(folder / "labels.csv", labels)
    names = list(labels)
    kept = count - test
    split = {"train": names[: kept - 2], "val": names[kept - 2 : kept], "test": names[kept:]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder
