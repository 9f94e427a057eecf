"""AISCT-SAM on made-up scans, through the installed commands: a lesion that only the other hemisphere gives away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from dataset_conversion.scans.mirror import exchange_mirrors
from nnunetv2_clisc.demos.steps import Demo, write_case, write_split
from nnunetv2_clisc.scoring.evaluation import Evaluation, evaluate_folders
from nnunetv2_clisc.scoring.metrics import METRICS
from nnunetv2_clisc.scoring.tables import Table, mean_sd, to_markdown

TRAINING, VALIDATION, TEST = 24, 2, 10  # scans
SHAPE, SPACING_MM = (16, 128, 192), (1.0, 1.0, 4.0)  # (z, y, x) voxels; x, y, z
PAIRS = 2  # of blobs, each at the same place in both hemispheres
TISSUE, BLOB, NOISE = 100.0, 60.0, 6.0
FROM_MIDLINE, FRONT_BACK = (36, 64), (-30, 30)  # px: a pair lies 72 to 128 px apart, where a patch has 96
RADII = (6, 9)  # px, of a blob; all have the same contrast
LARGEST_TURN_DEG, LARGEST_SHIFT_PX = 4.0, 5.0
DATASET, NAME = 931, "SymmetryPhantoms"
TRAINER = "SamAdapterTrainer_small"
SHOWN = ("dsc", "hd95_mm")


def symmetric_scan(rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A scan with pairs of dark blobs, and one blob without a partner.

    Args:
        rng: of all chance.
        shape: `(z, y, x)`.

    Returns:
        The scan `(z, y, x)` float32, slightly turned and shifted, and the mask of the blob alone, bool.
    """
    z, y, x = np.indices(shape).astype(np.float32)
    middle = (np.array(shape) - 1) / 2
    turn = np.deg2rad(rng.uniform(-1, 1) * LARGEST_TURN_DEG)
    shift = rng.uniform(-1, 1, 2) * LARGEST_SHIFT_PX
    dy, dx = y - middle[1] - shift[0], x - middle[2] - shift[1]
    along, across = np.cos(turn) * dy - np.sin(turn) * dx, np.sin(turn) * dy + np.cos(turn) * dx
    up = z - middle[0]
    head = (along / 56) ** 2 + (across / 86) ** 2 < 1
    scan = np.where(head, TISSUE, 0.0)
    mask = np.zeros(shape, bool)
    places: list[tuple[float, float]] = []
    for number in range(PAIRS + 1):
        while True:  # blobs do not touch, nor do mirror images
            place = rng.uniform(*FRONT_BACK), rng.uniform(*FROM_MIDLINE)
            if all(np.hypot(place[0] - a, place[1] - b) > 2 * RADII[1] + 2 for a, b in places):
                break
        places.append(place)
        radius, height = rng.uniform(*RADII), rng.uniform(2.5, 5.0)
        level = rng.uniform(-4, 4)
        side = rng.choice([-1, 1])
        for hemisphere in (side, -side) if number else (side,):
            distance = ((along - place[0]) / radius) ** 2 + ((across - hemisphere * place[1]) / radius) ** 2
            blob = (distance + ((up - level) / height) ** 2 < 1) & head
            scan[blob] = BLOB
            if not number:
                mask = blob
    scan = ndimage.gaussian_filter(scan, (0, 0.7, 0.7)) + rng.normal(0, NOISE, shape) * head
    return np.clip(scan, 0, None).astype(np.float32), mask


def make_scans(
    folder: Path,
    seed: int,
    *,
    training: int = TRAINING,
    validation: int = VALIDATION,
    test: int = TEST,
    shape: tuple[int, int, int] = SHAPE,
) -> None:
    """Write scans, true masks and a split, as a user's folder would look.

    Args:
        folder: gets `images/`, `labels/` and `split.json`.
        seed: of all chance.
        training, validation, test: numbers of cases.
        shape: `(z, y, x)` of a scan, in voxels.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    cases = [f"symmetry_{number:02d}" for number in range(training + validation + test)]
    for number, case in enumerate(tqdm(cases, desc="scans", unit="case")):
        scan, mask = symmetric_scan(np.random.default_rng([seed, number]), shape)
        write_case(folder, case, scan, mask, SPACING_MM)
    write_split(folder, cases, training, validation)


def run_demo_aisct(output: Path, *, device: str = "cpu", seed: int = 0) -> None:
    """Scans, convert with mirrored channel, plan, train with and without it, predict; each step what a user types.

    Args:
        output: folder for everything; must not exist or hold an earlier demo, which is replaced.
        device: `cpu` or `cuda`.
        seed: of the scans.

    Raises:
        UserError: the folder holds something else, or a step failed.
    """
    demo = Demo(output, DATASET, NAME, device)
    made = demo.here / "scans"
    with demo.timed("scans"):
        make_scans(made, seed)
    demo.run([demo.convert("folder", made, "labels", "--mirrored")])
    supervised = demo.supervised()
    exchanged = demo.here / "imagesTs_mirrors_of_others"
    exchange_mirrors(demo.raw / "imagesTs", exchanged)
    without = f"{TRAINER}_noMirror"
    runs = {
        "scan and mirror image": (TRAINER, "imagesTs", demo.here / "predictions"),
        "the mirror image of another scan": (TRAINER, str(exchanged), demo.here / "predictions_exchanged"),
        "scan alone": (without, "imagesTs", demo.here / "predictions_noMirror"),
    }
    demo.run(
        [
            supervised.plan("3d_fullres"),
            supervised.train("3d_fullres", TRAINER),
            supervised.train("3d_fullres", without),
            *(supervised.predict("3d_fullres", trainer, images, to) for trainer, images, to in runs.values()),
        ]
    )
    rows = [_row(evaluate_folders(to, demo.raw / "labelsTs", name=title)) for title, (_, _, to) in runs.items()]
    header = ["", *(METRICS[metric].heading for metric in SHOWN), "cases"]
    print("\n" + to_markdown([Table("new scans against the true masks (mean ± sd)", header, rows)]))
    print(f"\nscan, mirror image, difference: {demo.raw / 'mirrored'}")
    demo.report_times()


def _row(found: Evaluation) -> list[str]:
    scores = found.summary()
    cells = [mean_sd(scores[name], scale=METRICS[name].scale, digits=METRICS[name].digits) for name in SHOWN]
    return [found.name, *cells, str(len(found.cases))]
