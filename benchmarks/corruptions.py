"""What a fault in a scan costs the first pass: ``python -m benchmarks.corruptions DATASET [--cases CASE ...]``.

Real scans (`CLISC_REAL_DATA`) are spoilt as public bug reports tell; masks only score. DATASET is a raw dataset that
`pseudo_label` has been through. Prints the volume Dice of each case, plain and with each fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_clisc.training.s3f import similarity
from pseudo_labeling.rivals.classical import head_mask
from pseudo_labeling.run.new_cases import FinishedRun
from pseudo_labeling.run.workspace import Workspace
from pseudo_labeling.slices import axial_slices, read_scan, window_volume

Spoil = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Volume `(z, y, x)` float32 and its head, bool, to the spoilt volume."""


def filled(value: float) -> Spoil:
    """One value outside the head, in ranges of the scan above (1) or below (0) it, e.g. -0.5."""

    def spoil(volume: np.ndarray, head: np.ndarray) -> np.ndarray:
        return np.where(head, volume, volume.min() + value * np.ptp(volume)).astype(np.float32)

    return spoil


def noisy_background(volume: np.ndarray, head: np.ndarray) -> np.ndarray:
    """A background brighter than the head, with noise."""
    noise = np.random.default_rng(0).normal(1.3 * volume.max(), 0.03 * volume.max(), volume.shape)
    return np.where(head, volume, noise).astype(np.float32)


def wild(value: float) -> Spoil:
    """One voxel of a value."""

    def spoil(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
        volume = volume.copy()
        volume[len(volume) // 2, 40, 40] = value
        return volume

    return spoil


def marked(brightness: float) -> Spoil:
    """A block of text in a corner of every slice, and more over the top slice."""

    def spoil(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
        volume, brightest = volume.copy(), volume.max()
        strokes = np.random.default_rng(0).random((12, 50)) < 0.5
        for part in (volume[:, 4:16, 4:54], volume[-1:, 120:132, 100:150], volume[-1:, 150:162, 100:150]):
            part[:, strokes] = brightness * brightest
        return volume

    return spoil


def scored(air: float | None) -> Spoil:
    """z-scores over the head; the rest as it comes, or one value."""

    def spoil(volume: np.ndarray, head: np.ndarray) -> np.ndarray:
        scores = (volume - volume[head].mean()) / volume[head].std()
        return scores if air is None else np.where(head, scores, air).astype(np.float32)

    return spoil


def junk_ends(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Noise ten times as bright as the scan in two slices at each end."""
    volume = volume.copy()
    rng = np.random.default_rng(0)
    for z in (0, 1, -2, -1):
        volume[z] = rng.uniform(0, 10 * volume[3:-3].max(), volume[z].shape)
    return volume


def filled_ends(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Slices of -1024 at each end."""
    volume = volume.copy()
    volume[[0, 1, -2, -1]] = -1024
    return volume


FAULTS: dict[str, Spoil] = {
    "plain": lambda volume, head: volume,
    "-1024 outside the head": lambda volume, head: np.where(head, volume, -1024).astype(np.float32),
    "fill 0.25 ranges below": filled(-0.25),
    "fill 0.5 ranges below": filled(-0.5),
    "fill 1 range below": filled(-1),
    "one voxel of 1e9": wild(1e9),
    "one voxel of 1e36": wild(1e36),
    "one voxel of -1e9": wild(-1e9),
    "background 1.05 times the brightest": filled(1.05),
    "background 1.5 times the brightest": filled(1.5),
    "background brighter, with noise": noisy_background,
    "text as bright as the brightest": marked(1),
    "text 1.6 times as bright": marked(1.6),
    "text 2.5 times as bright": marked(2.5),
    "text 16 times as bright": marked(16),
    "z-scores, air as it comes": scored(None),
    "z-scores, air 0": scored(0),
    "z-scores, air -10": scored(-10),
    "end slices of bright noise": junk_ends,
    "end slices of -1024": filled_ends,
}
# step within the slice along y and x, repeated to square pixels or not, storage order
SHAPES: dict[str, tuple[int, int, bool, str]] = {
    "pixels 1 : 4": (1, 4, False, "PIR"),
    "the same, columns repeated": (1, 4, True, "LPS"),
    "pixels 4 : 1": (4, 1, False, "RIP"),
    "the same, rows repeated": (4, 1, True, "LPS"),
    "pixels 1 : 2": (1, 2, False, "PIR"),
    "the same, columns repeated (2)": (1, 2, True, "LPS"),
    "pixels 2 : 1": (2, 1, False, "RIP"),
    "the same, rows repeated (2)": (2, 1, True, "LPS"),
}


class Bench:
    """The first pass of one labelled dataset on spoilt scans."""

    def __init__(self, dataset: Path, data: Path) -> None:
        self.finished = FinishedRun(Workspace(dataset))
        self.data = data
        self._known: dict[str, float] = {}

    def case(self, case: str) -> dict[str, float]:
        """Dice by fault."""
        image, truth = (sitk.ReadImage(str(self.data / kind / f"{case}.nii.gz")) for kind in ("images", "labels"))
        volume, mask = sitk.GetArrayFromImage(image).astype(np.float32), sitk.GetArrayFromImage(truth) > 0
        head = ndimage.binary_erosion(head_mask(window_volume(volume)), np.ones((1, 3, 3)))
        found = {}
        for name, spoil in FAULTS.items():
            found[name] = self._dice(spoil(volume, head), mask, image.GetSpacing(), "LPS")
        for name, (dy, dx, repeated, order) in SHAPES.items():
            few, true = (array[:, ::dy, ::dx] for array in (volume, mask))
            x_mm, y_mm, z_mm = image.GetSpacing()
            if repeated:
                few, true = (array.repeat(dy, axis=1).repeat(dx, axis=2) for array in (few, true))
            spacing = (x_mm, y_mm, z_mm) if repeated else (x_mm * dx, y_mm * dy, z_mm)
            found[name] = self._dice(few, true, spacing, order)
        return found

    def _dice(self, volume: np.ndarray, mask: np.ndarray, spacing: tuple[float, ...], order: str) -> float:
        """Write a scan as a user would have it, read it, label it, compare on its own grid; NaN where that fails."""
        image = sitk.GetImageFromArray(volume)
        image.SetSpacing(spacing)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scan.nii.gz"
            sitk.WriteImage(sitk.DICOMOrient(image, order), str(path))
            scan = read_scan(path)
        try:
            slices = axial_slices(scan, self.finished.settings.window)
            key = hashlib.sha256(slices.tobytes() + str((slices.shape, scan.geometry[0])).encode()).hexdigest()
            if key not in self._known:
                label = self.finished.labels(slices, scan.slice_mm).label
                roi = self.finished.roi(self.finished.final, slices, label)
                called = scan.from_squares(self.finished.mask(slices, roi, scan.pixel_mm))
                self._known[key] = similarity(called, mask)
        except IndexError:
            return float("nan")
        return self._known[key]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cases", nargs="*", help="default: the first four of the split's val")
    options = parser.parse_args()
    data = Path(os.environ["CLISC_REAL_DATA"]) / "lgg"
    cases = options.cases or json.loads((data / "split.json").read_text())["val"][:4]
    bench = Bench(options.dataset, data)
    found = {}
    for case in cases:
        found[case] = bench.case(case)
        print(case, json.dumps(found[case]), flush=True)
    for name in (*FAULTS, *SHAPES):
        values = [found[case][name] for case in cases]
        print(f"{name:<40}" + "".join(f"{value:>8.3f}" for value in values) + f"{np.mean(values):>10.3f}")


if __name__ == "__main__":
    main()
