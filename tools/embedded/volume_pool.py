"""A pool of 3D phantoms on disk with their true masks, for the start of the 3D network.

Volume `i` of a pool depends on the seed, the stream and `i` only, so any number of processes makes the same pool.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset_conversion.files import whole
from pseudo_labeling.embedded.phantoms import phantom_volume
from tools.embedded.pool import TRAINING_STREAM

HEALTHY_EVERY = 8  # one case in so many has no lesion


def volume(seed: int, stream: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Scan `(z, y, x)` float32 and true mask `(z, y, x)` bool of one case of a pool; slices 1 to 8 mm apart."""
    rng = np.random.default_rng([seed, stream, index])
    depth = round(float(np.exp(rng.uniform(np.log(16), np.log(80)))))
    return phantom_volume(rng, (depth, 128, 128), lesion=index % HEALTHY_EVERY != HEALTHY_EVERY - 1)


def _make(folder: Path, seed: int, stream: int, index: int) -> None:
    path = folder / f"{index:05d}.npz"
    if not path.is_file():
        scan, mask = volume(seed, stream, index)
        with whole(path) as temporary:
            np.savez(temporary, scan=scan.astype(np.float16), mask=np.packbits(mask))


def make_volume_pool(
    folder: str | Path, count: int, *, seed: int, stream: int = TRAINING_STREAM, workers: int = 2
) -> Sequence[Path]:
    """Make what is missing of a pool; the files hold `scan` `(z, y, x)` float16 and `mask`, packed bits of its voxels.

    Args:
        folder: where the files go; about 1 MB a case.
        count: cases.
        seed: of the whole run.
        stream: training or held-out.
        workers: processes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers' numpy
    with ProcessPoolExecutor(workers) as executor, tqdm(total=count, desc="phantoms", unit="case") as bar:
        for job in [executor.submit(_make, folder, seed, stream, index) for index in range(count)]:
            job.result()
            bar.update()
    return [folder / f"{index:05d}.npz" for index in range(count)]


def load_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scan `(z, y, x)` float32 and mask `(z, y, x)` bool of a file of the pool."""
    with np.load(path) as stored:
        scan = stored["scan"].astype(np.float32)
        return scan, np.unpackbits(stored["mask"], count=scan.size).reshape(scan.shape).astype(bool)
