"""A dataset of six tiny scans, planned and preprocessed by nnU-Net, and a trainer that trains on it in seconds."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

from nnunetv2_clisc.training.distillation_trainer import DistillationTrainer_small
from nnunetv2_clisc.training.plans import NetworkSettings
from nnunetv2_clisc.training.s3f import Segment
from nnunetv2_clisc.training.trainer import CLISCTrainer, CLISCTrainer_small
from pseudo_labeling.run.workspace import key_of
from tests.helpers.paths import PROJECT

NAME = "Dataset611_Tiny"
CASES = [f"case_{number}" for number in range(6)]
SHAPE = (18, 40, 44)  # (z, y, x)
CLISC_ENTRY = {"settings": {"s3f": {"beta": 30.0}}, "weights": {"sam": {"spec": "embedded", "sha256": "0"}}, "seed": 0}
ENVIRONMENT = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}


def lesion(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan `(z, y, x)` float32 with a bright lesion, and the lesion."""
    rng = np.random.default_rng(number)
    z, y, x = np.indices(SHAPE)
    head = ((y - 20) / 18) ** 2 + ((x - 22) / 17) ** 2 < 1
    centre = rng.uniform(15, 27, 2)
    radius = rng.uniform(5, 8)
    mask = ((z - 9) / 5) ** 2 + ((y - centre[0]) / radius) ** 2 + ((x - centre[1]) / radius) ** 2 < 1
    scan = head * 300 + (mask & head) * 300 + rng.normal(0, 20, SHAPE) * head
    return scan.astype(np.float32), mask & head


def by_brightness(images: np.ndarray, roi: np.ndarray, pixel_mm: float = 1.0) -> np.ndarray:
    """Stands in for SAM: the bright pixels inside the box of each slice's ROI."""
    masks = np.zeros(roi.shape, dtype=bool)
    for z in np.flatnonzero(roi.any(axis=(1, 2))):
        rows, columns = np.flatnonzero(roi[z].any(axis=1)), np.flatnonzero(roi[z].any(axis=0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        masks[z][box] = images[z][box] > 150
    return masks


class Quick:
    """Two epochs of a network with a few channels; SAM is replaced, everything else is the real thing."""

    network_settings = NetworkSettings(features=(4, 8, 8), patch=(16, 32, 32))
    start_from_phantoms = False
    epochs = 2
    min_iterations = 3
    cpu_bfloat16 = False

    def build_segmenter(self) -> Segment:
        return by_brightness


class QuickTrainer(Quick, CLISCTrainer_small):
    """CLISC in seconds."""


class QuickDistillation(DistillationTrainer_small):
    """UM-SAM in seconds, from the embedded SAM."""

    network_settings = NetworkSettings(features=(4, 8, 128), patch_2d=(32, 32), batch_size_2d=4)
    epochs = 1
    min_iterations = 2
    cpu_bfloat16 = False


class QuickDistillation_plain(QuickDistillation):  # noqa: N801
    """The same without SAM."""

    use_feature_loss = use_contrast_loss = False


@dataclass(frozen=True)
class TinyDataset:
    """nnU-Net's folders with the dataset in them."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw" / NAME

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / NAME

    def trainer(
        self,
        kind: type[CLISCTrainer] = QuickTrainer,
        fold: Any = 0,
        continued: bool = False,
        configuration: str = "3d_fullres",
        **changes: Any,
    ) -> CLISCTrainer:
        """A trainer as `nnUNetv2_train` makes it; `changes` go into dataset.json, None removes an entry."""
        plans = json.loads((self.preprocessed / "nnUNetPlans.json").read_text())
        dataset = json.loads((self.preprocessed / "dataset.json").read_text())
        if changes.get("clisc"):  # other settings, the same labels
            changes["clisc"] = {"digests": dataset["clisc"]["digests"]} | changes["clisc"]
        dataset |= changes
        dataset = {key: value for key, value in dataset.items() if value is not None}
        plans["continue_training"] = continued
        return kind(plans, configuration, fold, dataset, torch.device("cpu"))


def write_image(path: Path, array: np.ndarray, orientation: str = "LPS") -> None:
    """Write `(z, y, x)` in LPS order as an image stored in another orientation, with 1 x 1 x 3 mm voxels."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 3.0))
    sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path), useCompression=True)


def make_raw(raw: Path) -> None:
    """Scans in two orientations, labels, dataset.json and a split, as `convert` and `pseudo_label` leave them."""
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    for number, case in enumerate(CASES):
        scan, mask = lesion(number)
        orientation = "RAS" if number % 2 else "LPS"
        write_image(raw / "imagesTr" / f"{case}_0000.nii.gz", scan, orientation)
        write_image(raw / "labelsTr" / f"{case}.nii.gz", mask.astype(np.uint8), orientation)
    content = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii.gz",
        "numTraining": len(CASES),
        "clisc": CLISC_ENTRY,
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    finish(raw)
    (raw / "splits_final.json").write_text(json.dumps([{"train": CASES[:5], "val": CASES[5:]}]))


def finish(raw: Path) -> None:
    """Record the digests of labels and scans, as `pseudo_label --stage finish` does."""

    def digest_of(folder: str, ending: str) -> str:
        files = sorted((raw / folder).glob(f"*{ending}"))
        return key_of({p.name.removesuffix(ending): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})

    content = json.loads((raw / "dataset.json").read_text())
    digests = {"labels": digest_of("labelsTr", ".nii.gz"), "scans": digest_of("imagesTr", "_0000.nii.gz")}
    content["clisc"] = content["clisc"] | {"digests": digests}
    (raw / "dataset.json").write_text(json.dumps(content))


def plan(dataset_id: int, configurations: list[str]) -> None:
    """What `nnUNetv2_plan_and_preprocess` does, in threads: its processes take many seconds to start."""
    threads = SimpleNamespace(Pool=ThreadPool)
    with mock.patch.object(multiprocessing, "get_context", return_value=threads):
        extract_fingerprints([dataset_id], num_processes=1)
        identifier = plan_experiments([dataset_id])
        preprocess([dataset_id], identifier, configurations, num_processes=[1] * len(configurations))


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """The dataset, planned and preprocessed once; never written to by a test."""
    root = tmp_path_factory.mktemp("tiny")
    make_raw(root / "raw" / NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(root / "raw"))
        patch.setenv("nnUNet_preprocessed", str(root / "preprocessed"))
        plan(611, ["3d_fullres", "2d"])
    return TinyDataset(root)


@pytest.fixture
def tiny(planned: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyDataset]:
    """The dataset with a results folder of the test's own."""
    for name, folder in (("raw", planned.root / "raw"), ("preprocessed", planned.root / "preprocessed")):
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    before = digest(planned.preprocessed)
    yield planned
    assert digest(planned.preprocessed) == before, "training wrote into nnUNet_preprocessed"


@pytest.fixture
def found_by_nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net and its commands find `QuickTrainer` in a trainer folder of the user's own."""
    folder = tmp_path / "trainers"
    folder.mkdir()
    (folder / "quick.py").write_text("from tests.helpers.tiny_nnunet import QuickTrainer\n")
    # with our own folder, as in a process that starts with this one set
    known = os.environ.get("nnUNet_extTrainer", "")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(folder), *([known] if known else [])]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter at the project's root."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT | environment,
        cwd=PROJECT,
    )


class DyingTrainer(QuickTrainer):
    """Dies as by `kill -9` where the environment variable `DIE` says, e.g. `round_1 0`: after the first epoch."""

    epochs = 3

    def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: Any = None) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.save_every = 1

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        maybe_die(f"round_{self.round} {self.current_epoch - 1}")

    def build_segmenter(self) -> Segment:
        seen: list[int] = []

        def segment(images: np.ndarray, roi: np.ndarray, pixel_mm: float) -> np.ndarray:
            seen.append(1)
            maybe_die(f"s3f {len(seen)}")
            return by_brightness(images, roi, pixel_mm)

        return segment


def maybe_die(place: str) -> None:
    """Kill this process if it was told to die here."""
    if os.environ.get("DIE") == place:
        os.kill(os.getpid(), signal.SIGKILL)
