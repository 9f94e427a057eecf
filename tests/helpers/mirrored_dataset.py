"""The tiny dataset with a mirrored channel, and AISCT-SAM's trainers that train on it in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

from dataset_conversion.scans.mirror import CHANNEL, mirrored
from nnunetv2_clisc.training.plans import NetworkSettings
from nnunetv2_clisc.training.s3f import Segment
from nnunetv2_clisc.training.sam_adapter_trainer import (
    AdapterPlans,
    CLISCTrainer_SamAdapter_small,
    SamAdapterTrainer_small,
    SamAdapterTrainer_small_noMirror,
    SamAdapterTrainer_small_random,
    SamAdapterTrainer_small_unet,
)
from tests.helpers.tiny_nnunet import CASES, ENVIRONMENT, TinyDataset, by_brightness, digest, make_raw, plan


class Quick:
    adapter_plans = AdapterPlans(patch=(8, 32, 32), widths=(4, 4, 6, 8, 8), adapter=4)
    epochs = 2
    min_iterations = 3
    cpu_bfloat16 = False

    def build_segmenter(self) -> Segment:
        return by_brightness


class QuickAdapter(Quick, SamAdapterTrainer_small):
    """AISCT-SAM in seconds."""


class QuickAdapter_noMirror(Quick, SamAdapterTrainer_small_noMirror):  # noqa: N801
    """Without the mirrored channel."""


class QuickAdapter_unet(SamAdapterTrainer_small_unet):  # noqa: N801
    """The U-Net that it is compared with."""

    network_settings = NetworkSettings(features=(4, 8, 8), patch=(16, 32, 32))
    epochs = 2
    min_iterations = 3
    cpu_bfloat16 = False


class QuickRandom(Quick, SamAdapterTrainer_small_random):
    """The frozen encoder is random."""


class QuickRounds(Quick, CLISCTrainer_SamAdapter_small):
    """CLISC's two rounds."""


@pytest.fixture(scope="session")
def planned_mirrored(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """The tiny dataset with its scans' mirror images as second channel, planned and preprocessed once."""
    root = tmp_path_factory.mktemp("mirrored")
    raw = root / "raw" / "Dataset611_Tiny"
    make_raw(raw)
    for case in CASES:
        scan = sitk.ReadImage(str(raw / "imagesTr" / f"{case}_0000.nii.gz"))
        sitk.WriteImage(mirrored(scan).image, str(raw / "imagesTr" / f"{case}_0001.nii.gz"))
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "FLAIR", "1": CHANNEL}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(root / "raw"))
        patch.setenv("nnUNet_preprocessed", str(root / "preprocessed"))
        plan(611, ["3d_fullres"])
    return TinyDataset(root)


@pytest.fixture
def both(planned_mirrored: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyDataset]:
    """That dataset with a results folder of the test's own."""
    for name in ("raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{name}", str(planned_mirrored.root / name))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    before = digest(planned_mirrored.preprocessed)
    yield planned_mirrored
    assert digest(planned_mirrored.preprocessed) == before, "training wrote into nnUNet_preprocessed"
