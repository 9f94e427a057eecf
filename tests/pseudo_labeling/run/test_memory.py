"""A very large scan goes through the whole labelling within 4 GiB."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pseudo_labeling.embedded.phantoms import phantom_volume
from tests.helpers.paths import PROJECT

GIB = 2**30
HEAD = slice(480, 504)  # slices of the large scan that show a head; the others are air

# VmHWM is this process's own peak; the one of getrusage survives an exec and may be the parent's
LABEL = """
import sys
from pathlib import Path
from pseudo_labeling.run.pipeline import PseudoLabeling, WeightSpecs
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.settings import Settings

settings = Settings().merged(PRESETS["embedded"]).merged({"classifier": {"epochs": 1, "image_size": 96}})
dataset = Path(sys.argv[1])
specs = WeightSpecs("embedded", "embedded", "none")
run = PseudoLabeling(dataset, settings, specs, image_labels=dataset / "labels.csv", overlay_every=1)
run.run()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print("PEAK", int(status["VmHWM"].split()[0]) * 1024)
"""


def write_case(dataset: Path, case: str, volume: np.ndarray) -> None:
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((0.45, 0.45, 1.0))
    sitk.WriteImage(image, str(dataset / "imagesTr" / f"{case}_0000.nii.gz"), useCompression=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A large scan between two small ones, and slice labels from the phantoms' masks."""
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    rows: list[tuple[str, int, int]] = []
    for number, case in enumerate(("a", "b", "c")):
        small, mask = phantom_volume(np.random.default_rng([31, number]), (HEAD.stop - HEAD.start, 128, 128))
        label = mask.any((1, 2)).astype(int).tolist()
        volume = small.astype(np.int16)
        if case == "b":
            volume = np.zeros((1000, 512, 512), dtype=np.int16)
            volume[HEAD] = small.astype(np.int16).repeat(4, axis=1).repeat(4, axis=2)
            label = [0] * HEAD.start + label + [0] * (1000 - HEAD.stop)
        write_case(tmp_path, case, volume)
        rows += [(case, z, each) for z, each in enumerate(label)]
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("case", "slice", "label"), *rows])
    content = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a Linux process's own peak")
def test_a_scan_of_262_million_voxels_needs_less_than_4_gib(dataset: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LABEL, str(dataset)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peak = int(done.stdout.split("PEAK")[1])
    label = sitk.ReadImage(str(dataset / "labelsTr" / "b.nii.gz"))
    assert label.GetSize() == (512, 512, 1000)
    assert sitk.GetArrayViewFromImage(label).any()
    assert peak < 4 * GIB, f"{peak / GIB:.2f} GiB"
    assert peak > GIB, "the volume alone takes a gibibyte as float32: this did not measure it"
