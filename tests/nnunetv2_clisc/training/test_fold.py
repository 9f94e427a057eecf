"""The training files of round 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from dataset_conversion.errors import one_line_errors
from nnunetv2_clisc.training.fold import outside_mask, write_training_case
from tests.helpers.commands import full_disk
from tests.helpers.tiny_nnunet import CASES, TinyDataset, lesion
from tests.helpers.trained_fold import properties_of, seg_of


def test_training_case_links_the_image_and_samples_the_new_label(tiny: TinyDataset, tmp_path: Path) -> None:
    source = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    seg = np.zeros(seg_of(source, CASES[0]).shape, dtype=np.int16)
    seg[0, 2, 3:5, 4] = 1
    target = tmp_path / "round_2" / "preprocessed"
    for _ in range(2):  # again after a kill
        write_training_case(source, target, CASES[0], seg, [1], (16, 32, 32))
    assert (target / f"{CASES[0]}.b2nd").is_symlink()
    dataset = nnUNetDatasetBlosc2(str(target))
    data, loaded, _, properties = dataset.load_case(CASES[0])
    np.testing.assert_array_equal(loaded[:], seg)
    assert data.shape == seg.shape
    assert sorted(map(tuple, properties["class_locations"][1])) == [(0, 2, 3, 4), (0, 2, 4, 4)]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        f"{CASES[0]}.b2nd",
        f"{CASES[0]}.pkl",
        f"{CASES[0]}_seg.b2nd",
    ]


def test_outside_of_the_scan_is_found_as_preprocessing_finds_it(tiny: TinyDataset) -> None:
    """Against the -1 that nnU-Net wrote, on cases whose label lies inside the scan."""
    trainer = tiny.trainer()
    source = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    configuration = trainer.configuration_manager
    properties = properties_of(source, CASES[1])
    arguments = (trainer.fold_data.raw_scans(CASES[1]), properties, trainer.plans_manager, configuration)
    old = seg_of(source, CASES[1])
    configuration.configuration["use_mask_for_norm"] = [False]
    assert outside_mask(*arguments, old.shape[1:]) is None
    configuration.configuration["use_mask_for_norm"] = [True]
    outside = outside_mask(*arguments, old.shape[1:])
    assert outside is not None
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(outside, old == -1)
    assert lesion(1)[1].sum() == (old == 1).sum()


@pytest.mark.parametrize("free", [30, 120])
def test_full_disk_while_a_training_case_is_written(tiny: TinyDataset, tmp_path: Path, free: int) -> None:
    """Blosc's file, and nnU-Net's pickle: an error that names file and cure, and the next try is whole."""
    source = tiny.preprocessed / "nnUNetPlans_3d_fullres"
    seg = np.zeros(seg_of(source, CASES[0]).shape, dtype=np.int16)
    arguments = (source, tmp_path / "cases", CASES[0], seg, [1], (16, 32, 32))
    again = rf"error: .*{CASES[0]}\S*: .*run the same command again"
    with pytest.raises(SystemExit, match=again), one_line_errors(), full_disk(free):
        write_training_case(*arguments)
    assert not list(tmp_path.rglob(".*"))
    write_training_case(*arguments)
    np.testing.assert_array_equal(nnUNetDatasetBlosc2(str(tmp_path / "cases")).load_case(CASES[0])[1][:], seg)
