"""The classical baseline on phantoms and on odd volumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_clisc.scoring.evaluation import evaluate_folders
from nnunetv2_clisc.scoring.metrics import dice
from nnunetv2_clisc.studies.baselines.rivals import classical_baseline
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.rivals.classical import classical_mask, head_mask
from pseudo_labeling.slices import window_volume
from tests.helpers.commands import Run, last_line


def bright_ball() -> tuple[np.ndarray, np.ndarray]:
    """A grey head `(z, y, x)` uint8 with a darker half and a bright ball, and the ball."""
    z, y, x = np.indices((12, 80, 80))
    head = (y - 40) ** 2 + (x - 40) ** 2 < 36**2
    ball = (z - 6) ** 2 * 4 + (y - 45) ** 2 + (x - 30) ** 2 < 100
    noise = np.random.default_rng(0).normal(0, 5, head.shape)
    image = np.where(head, np.where(x < 40, 90, 130) + noise, 0)
    return np.where(ball, 220, image).clip(0, 255).astype(np.uint8), ball


def test_a_bright_ball_is_found() -> None:
    image, ball = bright_ball()
    assert dice(classical_mask(image, (1.0, 1.0)), ball) > 0.85


def test_only_one_component_is_left_and_none_at_the_rim() -> None:
    image, _ = bright_ball()
    image[:, 4:12, 25:55] = 255  # fat below the skin, larger than the ball in every slice
    found = classical_mask(image, (1.0, 1.0))
    assert ndimage.label(found)[1] == 1
    assert not found[:, :12].any()


def test_head_has_no_holes() -> None:
    image, _ = bright_ball()
    image[:, 38:42, 50:60] = 0
    assert head_mask(image)[:, 38:42, 50:60].all()


@pytest.mark.parametrize("value", [0, 100])
def test_a_volume_of_one_grey_level_is_empty(value: int) -> None:
    assert not classical_mask(np.full((4, 20, 20), value, dtype=np.uint8), (1.0, 1.0)).any()


def test_phantoms_score_better_than_nothing(scans: Path, clisc: Run, tmp_path: Path) -> None:
    done = clisc("baseline", "classical", "--images", scans / "images", "-o", tmp_path / "out")
    assert "6 masks" in done.stdout
    scores = evaluate_folders(tmp_path / "out", scans / "labels").summary()
    assert scores["dsc"].mean > 0.3
    for path in (scans / "images").iterdir():
        found, scan = (sitk.ReadImage(str(folder / path.name)) for folder in (tmp_path / "out", scans / "images"))
        assert found.GetSpacing() == scan.GetSpacing()


def test_other_classes_redo_every_case(scans: Path, tmp_path: Path) -> None:
    first = {p: p.stat().st_mtime_ns for p in classical_baseline(scans / "images", tmp_path / "out")}
    again = classical_baseline(scans / "images", tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in again} == first
    changed = {p: p.stat().st_mtime_ns for p in classical_baseline(scans / "images", tmp_path / "out", classes=3)}
    assert all(changed[p] != first[p] for p in first)


def test_a_broken_scan_does_not_stop_the_others(scans: Path, clisc: Run, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(scans / "images", images)
    broken = images / "p02.nii.gz"
    whole = broken.read_bytes()
    classical_baseline(images, out)
    broken.write_bytes(whole[: len(whole) // 2])
    done = clisc("baseline", "classical", "--images", images, "-o", out, ok=False)
    assert done.returncode == 2
    assert "classical: 1 of 6 cases failed (p02), the others are done; mend and run again: " in last_line(done)
    assert str(broken) in last_line(done)
    assert "Traceback" not in done.stderr
    # nothing says that the folder is complete, and no mask of the former scan is left in it
    assert {path.name for path in out.glob("*.*")} == {f"p0{n}.nii.gz" for n in (0, 1, 3, 4, 5)}
    broken.write_bytes(whole)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert len(classical_baseline(images, out)) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((out / "baseline.json").read_text())["cases"] == 6


def test_window_of_a_phantom_keeps_the_lesion_bright() -> None:
    volume, mask = phantom_volume(np.random.default_rng(3), (16, 96, 96))
    found = classical_mask(window_volume(volume), (1.5, 1.5))
    assert found.shape == mask.shape


def test_odd_numbers_of_classes_are_refused(clisc: Run, tmp_path: Path) -> None:
    done = clisc("baseline", "classical", "--images", tmp_path, "-o", tmp_path / "o", "--classes", 9, ok=False)
    assert done.returncode == 2
    assert "give 2 to 5" in done.stderr
    assert "holds no" in last_line(clisc("baseline", "classical", "--images", tmp_path, "-o", tmp_path / "o", ok=False))
