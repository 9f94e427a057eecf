"""A picture of the training data: ``python -m tools.embedded.contact_sheet -o FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_labeling.embedded.phantoms import phantom_slice, phantom_volume
from pseudo_labeling.slices import window_volume

_TILE = 128
_COLUMNS = 10


def contact_sheet(seed: int = 0) -> np.ndarray:
    """`(height, width, 3)` uint8: slices with and without skull, their twins, two volumes; masks outlined."""
    rows = []
    for stripped in (False, True):
        phantoms = [phantom_slice(np.random.default_rng([seed, 7, i]), stripped=stripped) for i in range(_COLUMNS)]
        rows.append([_outlined(p.image[::2, ::2], p.mask[::2, ::2]) for p in phantoms])
        rows.append([_outlined(p.twin[::2, ::2], np.zeros((_TILE, _TILE), bool)) for p in phantoms])
    for index, stripped in enumerate((False, True)):
        volume, mask = phantom_volume(np.random.default_rng([seed, 8, index]), (20, _TILE, _TILE), stripped=stripped)
        images = window_volume(volume)
        rows.append([_outlined(images[z], mask[z]) for z in range(0, 20, 20 // _COLUMNS)])
    return np.concatenate([np.concatenate(row, 1) for row in rows])


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        inner &= np.roll(mask, step, axis)
    colour = np.repeat(image[..., None], 3, 2)
    colour[mask & ~inner] = (255, 40, 40)
    return colour


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(options.seed)).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
