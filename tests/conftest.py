"""Phantom datasets on disk and the installed command, for tests that go the way a user goes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pseudo_labeling.embedded.phantoms import phantom_volume
from tests.helpers.tiny_nnunet import planned, tiny  # noqa: F401  (fixtures)
from tests.helpers.trained_fold import fold, trained  # noqa: F401  (fixtures)

# settings that make every stage run in seconds
QUICK = (
    "--set", "classifier.epochs=2", "--set", "classifier.image_size=64", "--set", "cam.layers=[\"layer2\",\"layer3\"]",
)  # fmt: skip
Run = Callable[..., subprocess.CompletedProcess[str]]


def program(name: str) -> str:
    """An installed command of this environment."""
    return str(Path(sys.executable).parent / name)


def make_scans(folder: Path, cases: int, shape: tuple[int, int, int] = (16, 96, 96), test: int = 1) -> Path:
    """A user's folder: phantom scans, masks and a split."""
    names = [f"p{number:02d}" for number in range(cases)]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, name in enumerate(names):
        volume, mask = phantom_volume(np.random.default_rng([11, number]), shape)
        for kind, array in (("images", volume.astype(np.float32)), ("labels", mask.astype(np.uint8))):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.5, 1.5, 6.0))
            sitk.WriteImage(image, str(folder / kind / f"{name}.nii.gz"), useCompression=True)
    training = names[: cases - test]
    split = {"train": training[:-1], "val": training[-1:], "test": names[cases - test :]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantom cases: four train, one val, one test."""
    return make_scans(tmp_path_factory.mktemp("scans") / "scans", 6)


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh nnU-Net folders, set in the environment; returns their parent."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def clisc() -> Run:
    """Run the installed `nnUNetv2_clisc` with arguments; `ok=False` for a run that must fail."""

    def run(*arguments: object, ok: bool | None = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [program("nnUNetv2_clisc"), *map(str, arguments)], capture_output=True, text=True, env=dict(os.environ)
        )
        if ok is not None:
            assert (result.returncode == 0) == ok, result.stderr[-3000:]
        return result

    return run


def convert(run: Run, scans: Path, *more: object) -> Path:
    """Dataset 501 of the scans; returns its raw folder."""
    run("convert", "folder", "--images", scans / "images", "--split", scans / "split.json", "-d", 501, "-n", "P", *more)
    return Path(os.environ["nnUNet_raw"]) / "Dataset501_P"


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what a writer meets on a disk that is full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of the files in a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def label_arguments(seed: int = 0, more: Sequence[object] = ()) -> list[object]:
    """Arguments of a quick `pseudo_label` of dataset 501."""
    return ["pseudo_label", "-d", 501, "-device", "cpu", "--weights", "embedded", "--seed", seed, *QUICK, *more]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """nnU-Net's folders with the pseudo-labelled dataset 501; never written to by a test."""
    parent = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (parent / name).mkdir()
            patch.setenv(name, str(parent / name))

        def run(*arguments: object) -> subprocess.CompletedProcess[str]:
            command = [program("nnUNetv2_clisc"), *map(str, arguments)]
            return subprocess.run(command, check=True, capture_output=True, text=True)

        convert(run, scans, "--labels", scans / "labels")
        run(*label_arguments())
    return parent
