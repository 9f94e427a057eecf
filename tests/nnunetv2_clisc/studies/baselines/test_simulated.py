"""`nnUNetv2_clisc baseline simulated`: the embedded 3D network on a folder of scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_clisc.scoring.metrics import dice
from nnunetv2_clisc.training.start import start_record
from pseudo_labeling.embedded.phantoms import phantom_volume
from tests.helpers.commands import Run, last_line


def test_masks_lie_on_the_scans_whatever_their_orientation(clisc: Run, tmp_path: Path) -> None:
    """A scan stored another way, with another spacing within a slice, gets the same mask in its own geometry."""
    volume, mask = phantom_volume(np.random.default_rng(101), (16, 128, 128))
    (tmp_path / "scans").mkdir()
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    image.SetSpacing((1.8, 1.8, 7.5))
    for name, orientation in (("a", "LPS"), ("b", "PIR")):
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(tmp_path / "scans" / f"{name}.nii.gz"))
    clisc("baseline", "simulated", "--images", tmp_path / "scans", "-o", tmp_path / "out", "-device", "cpu")
    found = [sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz")) for name in "ab"]
    assert found[1].GetDirection() == sitk.DICOMOrient(image, "PIR").GetDirection()
    first, second = (sitk.GetArrayFromImage(sitk.DICOMOrient(each, "LPS")) > 0 for each in found)
    assert np.array_equal(first, second)
    assert dice(first, mask) > 0.3
    facts = json.loads((tmp_path / "out" / "baseline.json").read_text())
    assert facts["weights"]["unet"]["sha256"] == start_record().sha256
    assert facts["cases"] == 2

    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    clisc("baseline", "simulated", "--images", tmp_path / "scans", "-o", tmp_path / "out", "-device", "cpu")
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == before
    done = clisc("baseline", "classical", "--images", tmp_path / "scans", "-o", tmp_path / "out", ok=False)
    assert "simulated" in last_line(done)
