"""The demo of AISCT-SAM: only the other hemisphere gives the lesion away, and the installed command converts it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_clisc.demos import symmetry
from tests.helpers.commands import in_process

SHAPE = (8, 96, 160)


def test_all_blobs_look_alike_and_one_has_no_partner() -> None:
    for seed in range(4):
        scan, mask = symmetry.symmetric_scan(np.random.default_rng(seed))
        head = ndimage.binary_erosion(ndimage.binary_fill_holes(scan > 50), iterations=3)
        dark, count = ndimage.label(ndimage.binary_opening((scan < 80) & head, np.ones((1, 5, 5))))
        sizes = ndimage.sum_labels(dark > 0, dark, range(1, count + 1))
        assert np.sum(sizes > 100) == 1 + 2 * symmetry.PAIRS
        lesion = ndimage.binary_erosion(mask, np.ones((1, 5, 5)))
        others = ndimage.binary_erosion((dark > 0) & ~mask, np.ones((1, 5, 5)))
        assert lesion.any()
        assert abs(scan[lesion].mean() - scan[others].mean()) < 3
        centre = [slice(int(c) - 1, int(c) + 2) for c in ndimage.center_of_mass(mask)]
        opposite = scan[centre[0], centre[1], ::-1][..., centre[2]]  # turned by 4 degrees, but so are its surroundings
        assert scan[tuple(centre)].mean() < 75
        assert opposite.mean() > 85


def test_scans_become_datasets_with_a_mirrored_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
        (tmp_path / name).mkdir()
    symmetry.make_scans(tmp_path / "made", 0, training=2, validation=1, test=2, shape=SHAPE)
    made = tmp_path / "made"
    command = ["convert", "folder", "--images", made / "images", "--labels", made / "labels",
               "--split", made / "split.json", "-d", "931", "-n", "Both", "--fullsup-d", "932"]  # fmt: skip
    done = in_process([*command, "--mirrored"])
    assert done.returncode == 0, done.stderr
    raw, twin = tmp_path / "raw" / "Dataset931_Both", tmp_path / "raw" / "Dataset932_Both_fullsup"
    for dataset in (raw, twin):
        assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "FLAIR", "1": "mirrored"}
        assert len(list((dataset / "imagesTr").glob("*_0001.nii.gz"))) == 3
    assert not any((raw / "labelsTr").iterdir())
    assert len(list((twin / "labelsTr").iterdir())) == 3
    assert len(list((raw / "mirrored").glob("*.png"))) == 3
    scan, mirrored = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "imagesTs" / f"symmetry_03_{channel:04d}.nii.gz")))
        for channel in (0, 1)
    )
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTs" / "symmetry_03.nii.gz"))) > 0
    inside = ndimage.binary_erosion(mask, np.ones((1, 3, 3)))
    assert (mirrored - scan)[inside].mean() > 25  # dark here, not there
    symmetry.exchange_mirrors(raw / "imagesTs", tmp_path / "exchanged")
    for other, case in (("04", "03"), ("03", "04")):
        files = (
            tmp_path / "exchanged" / f"symmetry_{case}_0001.nii.gz",
            raw / f"imagesTs/symmetry_{other}_0001.nii.gz",
        )
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files))
