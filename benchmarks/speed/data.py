"""Phantom datasets to measure on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.files import write_json
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.presets import PRESETS
from pseudo_labeling.settings import Settings
from pseudo_labeling.weights.files import WeightSpecs

EMBEDDED = WeightSpecs("embedded", "embedded", "none")


def phantom(number: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The volume `(z, y, x)` int16 and the lesion `(z, y, x)` bool of a numbered phantom."""
    volume, mask = phantom_volume(np.random.default_rng([51, number]), shape)
    return volume.astype(np.int16), mask


def raw_dataset(folder: Path, cases: int, shape: tuple[int, int, int], masks: bool = False) -> Path:
    """A raw dataset of phantoms, with masks as labels on request."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(cases):
        volume, mask = phantom(number, shape)
        _write(volume, folder / "imagesTr" / f"case_{number:03d}_0000.nii.gz")
        if masks:
            _write(mask.astype(np.uint8), folder / "labelsTr" / f"case_{number:03d}.nii.gz")
    content = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", content)
    return folder


def embedded_settings(epochs: int | None = None) -> Settings:
    """The preset *embedded*; on request without early stopping, where times at several sizes are compared."""
    changes = {} if epochs is None else {"classifier": {"epochs": epochs, "patience": epochs}}
    return Settings().merged(PRESETS["embedded"]).merged(changes)


def _write(array: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(path), useCompression=True)
