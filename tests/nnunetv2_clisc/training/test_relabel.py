"""Predictions of round 1: cleaned up before they become labels and prompts, and written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.relabel import without_islands
from tests.helpers.commands import full_disk
from tests.helpers.tiny_nnunet import CASES, TinyDataset


def logits_of(mask: np.ndarray) -> torch.Tensor:
    """Two-class logits that say `mask`, in half precision as nnU-Net's predictor returns them."""
    rng = np.random.default_rng(0)
    margin = torch.from_numpy(np.where(mask, 1.0, -1.0) * rng.uniform(0.1, 8, mask.shape))
    return torch.stack([-margin, margin]).half()


def test_islands_go_and_nothing_else_changes() -> None:
    mask = np.zeros((6, 30, 30), dtype=bool)
    mask[1:5, 2:12, 2:12] = True  # 400 voxels
    mask[1:5, 20:27, 2:9] = True  # 196: more than a third
    island = np.zeros_like(mask)
    island[2:4, 20:25, 20:25] = True  # 50
    logits = logits_of(mask | island)
    cleaned = without_islands(logits, 1 / 3)
    np.testing.assert_array_equal((cleaned[1] > cleaned[0]).numpy(), mask)
    assert torch.equal(cleaned[:, torch.from_numpy(~island)], logits[:, torch.from_numpy(~island)])


def test_paper_settings_keep_every_island_and_empty_predictions_stay_empty() -> None:
    mask = np.zeros((4, 8, 8), dtype=bool)
    for fraction in (0.0, 1 / 3):
        logits = logits_of(mask)
        logits = without_islands(logits, fraction)
        assert not (logits[1] > logits[0]).any()
    mask[1, 1, 1] = mask[2, 4:7, 4:7] = True
    logits = logits_of(mask)
    assert torch.equal(without_islands(logits, 0.0), logits)


def test_full_disk_while_a_prediction_is_written(tiny: TinyDataset, tmp_path: Path) -> None:
    """ITK says nothing; the cut mask must not get the name of a whole one."""
    path = tmp_path / "predictions" / f"{CASES[0]}.nii.gz"
    with tiny.trainer().between_rounds() as relabelling:
        logits, properties = relabelling._predict(CASES[0])
        with (
            full_disk(100),
            pytest.raises(UserError, match=r"case_0\.nii\.gz: could not be written whole .*make room"),
        ):
            relabelling._write_prediction(path, logits, properties)
        assert not list(path.parent.iterdir())
        relabelling._write_prediction(path, logits, properties)
    assert sitk.ReadImage(str(path)).GetSize() == (44, 40, 18)
