"""Scans as other people's bug reports have them: oblong pixels in the slice, and values that are no signal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc.training.s3f import Agreement, compare_case, read_case
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.run.inputs import RunInputs
from pseudo_labeling.run.slice_label_pass import SliceLabelPass
from pseudo_labeling.run.workspace import key_of
from pseudo_labeling.settings import Settings, WindowSettings
from pseudo_labeling.slices import read_scan, read_slices, window_volume
from pseudo_labeling.weights.files import WeightSpecs
from tests.helpers.volume_files import write_upright

Volumes = tuple[np.ndarray, np.ndarray, np.ndarray]
Spoil = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blocks(array: np.ndarray, edge: tuple[int, int, int]) -> np.ndarray:
    """Means over blocks: what a coarser acquisition measures."""
    z, y, x = (n // e for n, e in zip(array.shape, edge, strict=True))
    means: np.ndarray = array.reshape(z, edge[0], y, edge[1], x, edge[2]).mean(axis=(1, 3, 5))
    return means.astype(np.float32)


@pytest.fixture(scope="module")
def phantom() -> Volumes:
    """Scan, head (an ellipse within it in every slice) and lesion, `(z, y, x)`."""
    volume, lesion = phantom_volume(np.random.default_rng(5), (16, 96, 96))
    head = np.zeros(volume.shape, dtype=bool)
    y, x = np.indices(volume.shape[1:])
    for z, each in enumerate(window_volume(volume.astype(np.float32)) > 20):
        rows, columns = np.flatnonzero(each.mean(1) > 0.1), np.flatnonzero(each.mean(0) > 0.1)
        if len(rows) and len(columns):
            centre = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
            radius = max((rows[-1] - rows[0]) / 2, 1), max((columns[-1] - columns[0]) / 2, 1)
            head[z] = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
    return volume.astype(np.float32), head, lesion


# ---- fault 12: oblong pixels


@pytest.mark.parametrize(("edge", "order"), [((1, 1, 4), "PIR"), ((1, 4, 1), "RIP"), ((1, 1, 2), "LPS")])
def test_networks_see_the_head_undistorted(
    tmp_path: Path, phantom: Volumes, edge: tuple[int, int, int], order: str
) -> None:
    """The slices of a sagittal or coronal acquisition look like those of the axial one."""
    coarse = blocks(phantom[0], edge)
    spacing = (2.0 * edge[2], 2.0 * edge[1], 5.0)
    _, images = read_slices(write_upright(tmp_path / "scan.nii.gz", coarse, order, spacing))
    _, fine = read_slices(write_upright(tmp_path / "fine.nii.gz", phantom[0], spacing=(2.0, 2.0, 5.0)))
    assert images.shape == fine.shape
    assert np.corrcoef(images.ravel(), fine.ravel())[0, 1] > 0.85


def test_s3f_shows_sam_square_pixels_and_compares_on_the_scans_own(tmp_path: Path, phantom: Volumes) -> None:
    volume, lesion = blocks(phantom[0], (1, 1, 4)), phantom[2][:, :, ::4]
    spacing = (8.0, 2.0, 5.0)
    scan = write_upright(tmp_path / "scan.nii.gz", volume, "PIR", spacing)
    prediction = write_upright(tmp_path / "prediction.nii.gz", lesion.astype(np.uint8), "PIR", spacing)
    seen = []

    def segment(images: np.ndarray, roi: np.ndarray, *_: float) -> np.ndarray:
        seen.append((images.shape, roi.shape))
        return roi

    found = compare_case("c", read_case([scan], prediction, WindowSettings()), tmp_path / "sam.nii.gz", segment)
    assert seen == [(phantom[0].shape,) * 2]
    assert found == Agreement("c", int(lesion.sum()), int(lesion.sum()), 1.0)
    stored, given = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (tmp_path / "sam.nii.gz", prediction))
    np.testing.assert_array_equal(stored, given)


# ---- fault 13: values that are no signal


def outside(value: float) -> Spoil:
    """One value outside the head, in brightest voxels."""
    return lambda volume, head: np.where(head, volume, np.float32(value) * volume.max())


def one_voxel(value: float) -> Spoil:
    def spoil(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
        volume[8, 20, 20] = value
        return volume

    return spoil


def noisy_ends(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
    volume[[0, -1]] = np.random.default_rng(0).uniform(0, 10 * volume.max(), volume[[0, -1]].shape)
    return volume


def filled_ends(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
    volume[[0, -1]] = -1024
    return volume


def text(brightness: float) -> Spoil:
    def spoil(volume: np.ndarray, _: np.ndarray) -> np.ndarray:
        strokes, brightest = np.random.default_rng(0).random((10, 20)) < 0.5, volume.max()
        volume[:, 3:13, 3:23][:, strokes] = brightness * brightest
        return volume

    return spoil


def scored(volume: np.ndarray, head: np.ndarray) -> np.ndarray:
    return np.where(head, (volume - volume[head].mean()) / volume[head].std(), 0).astype(np.float32)


FAULTS: dict[str, Spoil] = {
    "a fill value far below": outside(-5),
    "a fill value below": outside(-0.4),
    "a bright background": outside(1.05),
    "a much brighter background": outside(3),
    "a voxel of 1e9": one_voxel(1e9),
    "a voxel of 1e36": one_voxel(1e36),
    "a voxel of the largest float": one_voxel(float(np.finfo(np.float32).max)),
    "a voxel of -1e9": one_voxel(-1e9),
    "text": text(1.6),
    "bright text": text(10),
    "z-scores with air 0": scored,
    "noise in the end slices": noisy_ends,
    "filled end slices": filled_ends,
    "two at once": lambda volume, head: one_voxel(1e9)(outside(-5)(volume, head), head),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_does_not_move_the_window(phantom: Volumes, fault: str) -> None:
    """The head looks as it does without the fault, and nothing around it is bright."""
    volume, head, _ = phantom
    clean = window_volume(np.where(head, volume, 0).astype(np.float32)).astype(int)
    windowed = window_volume(FAULTS[fault](volume.copy(), head).astype(np.float32)).astype(int)
    kept = head.copy()
    kept[[0, -1]] = False  # some faults replace these slices
    assert np.abs(windowed[kept] - clean[kept]).mean() < 12
    assert np.corrcoef(windowed[kept], clean[kept])[0, 1] > 0.99
    around = np.mean(window_volume(volume)[~head] > 40)  # the head's own rim
    assert np.mean(windowed[~head] > 40) < around + 0.01


def unmoved(volume: np.ndarray, lower: float = 0.5, upper: float = 99.5) -> np.ndarray:
    """The window of 1db0402, which heeds every voxel."""
    low = float(np.percentile(volume, lower))
    high = float(np.percentile(volume[volume > volume.mean()], upper))
    return np.clip(np.rint((volume - low) * (255.0 / max(high - low, 1e-6))), 0, 255).astype(np.uint8)


def test_without_a_fault_every_voxel_is_heeded(phantom: Volumes) -> None:
    volume, head, _ = phantom
    stripped = np.where(head, volume + 0.5 * volume.max(), 0).astype(np.float32)
    fewer = np.zeros((200, 96, 96), dtype=np.float32)
    fewer[90:106] = volume
    for scan in (volume, stripped, fewer, volume * 37 + 500, -np.float32(3) + volume / volume.max(), volume[:3]):
        np.testing.assert_array_equal(window_volume(scan), unmoved(scan))


@pytest.mark.skipif("CLISC_REAL_DATA" not in os.environ, reason="CLISC_REAL_DATA names no folder of real scans")
def test_real_scans_have_no_fault() -> None:
    data = Path(os.environ["CLISC_REAL_DATA"])
    cases = json.loads((data / "lgg" / "split.json").read_text())["val"]
    files = [data / "lgg" / "images" / f"{case}.nii.gz" for case in cases]
    for file in [*files, *sorted((data / "brats2015" / "images").glob("*.nii.gz"))]:
        volume = read_scan(file).volume
        np.testing.assert_array_equal(window_volume(volume), unmoved(volume))


# ---- what is said of it, and what a rerun does


@pytest.fixture
def dataset(tmp_path: Path, phantom: Volumes) -> Path:
    """Three scans: one without a fault, one with a fill value, one with oblong pixels."""
    volume, head, _ = phantom
    for case, array, spacing in (
        ("clean", volume, (1.0, 1.0, 5.0)),
        ("filled", outside(-5)(volume, head).astype(np.float32), (1.0, 1.0, 5.0)),
        ("oblong", blocks(volume, (1, 1, 4)), (4.0, 1.0, 5.0)),
    ):
        write_upright(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", array, "LPS", spacing)
    return tmp_path


def slice_label_pass(dataset: Path) -> SliceLabelPass:
    labels = dataset / "labels.csv"
    return SliceLabelPass(RunInputs(dataset, Settings(), WeightSpecs("embedded", "embedded", "none"), "cpu", labels))


def test_what_is_ignored_is_logged_and_recorded(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = slice_label_pass(dataset)
    for case in ("clean", "filled", "oblong"):
        stage.make(case)()
    ignored = {case: stage.run.ignored(case) for case in ("clean", "filled", "oblong")}
    assert (ignored["clean"], ignored["oblong"]) == ([], [])
    (words,) = ignored["filled"]
    assert "the one value -" in words
    (line,) = [record.getMessage() for record in caplog.records]
    assert "filled_0000.nii.gz" in line
    assert words in line


def test_a_rerun_over_older_work_redoes_only_what_would_differ(dataset: Path) -> None:
    """Records of before the window left anything out, and of before the pixels were square."""
    stage = slice_label_pass(dataset)
    for case in ("clean", "filled", "oblong"):
        stage.make(case)()
        path = dataset / "clisc" / "image_labels" / f"{case}.json"
        record = json.loads(path.read_text())
        del record["ignored"]
        record["key"] = key_of(stage.run.images[case], "image_labels", WindowSettings(), "slice_mm")  # as on 1db0402
        path.write_text(json.dumps(record))
    again = slice_label_pass(dataset)
    assert [case for case in ("clean", "filled", "oblong") if again.record(case) is None] == ["filled", "oblong"]
    assert again.run.ignored("clean") == []
