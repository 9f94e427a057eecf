"""A pool of phantom slices on disk, made by several processes, shared by both trainings.

Slice `i` of a pool depends on the seed, the stream and `i` only, so any number of processes makes the same pool.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pseudo_labeling.embedded.phantoms import phantom_slice

TRAINING_STREAM, HELD_OUT_STREAM = 0, 1
_SIZE = 256
_CHUNK = 64


@dataclass(frozen=True)
class Pool:
    """Memory-mapped phantoms.

    Attributes:
        images: `(n, 2, 256, 256)` uint8, each slice with its lesion and its twin without.
        masks: `(n, 256, 256)` bool; empty in every fifth slice, which has no lesion in either twin.
        facts: `(n, 2)` float32, level and whether skull-stripped.
    """

    images: np.ndarray
    masks: np.ndarray
    facts: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def pool_slice(seed: int, stream: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images `(2, 256, 256)`, mask `(256, 256)` and facts `(2,)` of one slice of a pool."""
    phantom = phantom_slice(np.random.default_rng([seed, stream, index]), size=_SIZE, lesion=index % 5 != 4)
    return (
        np.stack([phantom.image, phantom.twin]),
        phantom.mask,
        np.array([phantom.level, phantom.stripped], np.float32),
    )


def _make_chunk(seed: int, stream: int, start: int, stop: int) -> tuple[int, list[np.ndarray]]:
    made = [pool_slice(seed, stream, index) for index in range(start, stop)]
    return start, [np.stack(parts) for parts in zip(*made, strict=True)]


def load_pool(folder: str | Path) -> Pool:
    """Open a pool written by :func:`make_pool`."""
    folder = Path(folder)
    return Pool(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks", "facts")))


def make_pool(folder: str | Path, count: int, *, seed: int, stream: int = TRAINING_STREAM, workers: int = 2) -> Pool:
    """Make a pool, or open it when the folder already holds the same one.

    Args:
        folder: where the arrays go; about 200 KB a slice.
        count: slices.
        seed: of the whole run.
        stream: training or held-out.
        workers: processes.
    """
    folder = Path(folder)
    recipe = {"count": count, "seed": seed, "stream": stream}
    if (folder / "recipe.json").is_file() and json.loads((folder / "recipe.json").read_text()) == recipe:
        return load_pool(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((count, 2, _SIZE, _SIZE), np.uint8),
        "masks": ((count, _SIZE, _SIZE), bool),
    }
    shapes["facts"] = ((count, 2), np.float32)
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype=kind, shape=shape)
        for name, (shape, kind) in shapes.items()
    ]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers' numpy
    with ProcessPoolExecutor(workers) as executor, tqdm(total=count, desc="phantoms", unit="slice") as bar:
        starts = range(0, count, _CHUNK)
        jobs = [executor.submit(_make_chunk, seed, stream, start, min(start + _CHUNK, count)) for start in starts]
        for job in jobs:
            start, parts = job.result()
            for array, part in zip(arrays, parts, strict=True):
                array[start : start + len(part)] = part
            bar.update(len(parts[0]))
    for array in arrays:
        array.flush()
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return load_pool(folder)
