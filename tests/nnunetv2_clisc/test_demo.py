"""The demo's scans: what a user's folder would look like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_clisc import demo


def test_phantoms_are_scans_masks_and_a_split(tmp_path: Path) -> None:
    demo.make_phantoms(tmp_path, seed=0, training=2, validation=1, test=1)
    split = json.loads((tmp_path / "split.json").read_text())
    assert {name: len(cases) for name, cases in split.items()} == {"train": 2, "val": 1, "test": 1}
    for case in (*split["train"], *split["val"], *split["test"]):
        scan, mask = (sitk.ReadImage(str(tmp_path / kind / f"{case}.nii.gz")) for kind in ("images", "labels"))
        assert scan.GetSize() == mask.GetSize() == demo.SHAPE[::-1]
        assert scan.GetSpacing() == pytest.approx(demo.SPACING_MM)
        lesion = sitk.GetArrayFromImage(mask)
        assert set(np.unique(lesion)) == {0, 1}
        assert lesion.sum() * np.prod(demo.SPACING_MM) / 1000 >= demo.SMALLEST_ML
