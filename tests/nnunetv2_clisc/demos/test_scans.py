"""The demo's scans: what a user's folder would look like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc.demos import scans


def test_phantoms_are_scans_masks_and_a_split(tmp_path: Path) -> None:
    scans.make_phantoms(tmp_path, seed=0, training=2, validation=1, test=1)
    split = json.loads((tmp_path / "split.json").read_text())
    assert {name: len(cases) for name, cases in split.items()} == {"train": 2, "val": 1, "test": 1}
    for case in (*split["train"], *split["val"], *split["test"]):
        scan, mask = (sitk.ReadImage(str(tmp_path / kind / f"{case}.nii.gz")) for kind in ("images", "labels"))
        assert scan.GetSize() == mask.GetSize() == scans.SHAPE[::-1]
        assert scan.GetSpacing() == pytest.approx(scans.SPACING_MM)
        lesion = sitk.GetArrayFromImage(mask)
        assert set(np.unique(lesion)) == {0, 1}
        assert lesion.sum() * np.prod(scans.SPACING_MM) / 1000 >= scans.SMALLEST_ML


def test_second_pass_is_darker_and_moves_with_its_mask() -> None:
    """So that no embedded network knows these scans: without it the 3D start needs no stage after it."""
    scan = np.zeros((6, 40, 40), np.float32)
    scan[:, 15:25, 12:28] = np.random.default_rng(0).uniform(50, 100, (6, 10, 16))
    mask = scan > 75
    for seed in range(4):
        seen, seen_mask = scans.taken_in_two_passes(scan, mask, 1.0, np.random.default_rng(seed))
        kept = [bool((plane == before).all()) for plane, before in zip(seen, scan, strict=True)]
        assert kept in ([True, False] * 3, [False, True] * 3)
        assert (seen_mask[kept] == mask[kept]).all()
        for plane, where, before, lesion in zip(seen, seen_mask, scan, mask, strict=True):
            move = np.argwhere(plane > 0).min(0) - np.argwhere(before > 0).min(0)
            brightness = scans.SECOND_PASS_SIGNAL if move.any() else 1
            np.testing.assert_allclose(plane, np.roll(before, move, (0, 1)) * np.float32(brightness))
            assert (where == np.roll(lesion, move, (0, 1))).all()
            assert not move.any() or np.linalg.norm(move) == pytest.approx(scans.MOVED_MM, abs=0.8)
