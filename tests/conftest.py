"""Phantom datasets on disk and the installed command, for tests that go the way a user goes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.commands import Run, convert, label_arguments, make_scans, program
from tests.helpers.tiny_nnunet import planned, tiny  # noqa: F401  (fixtures)
from tests.helpers.trained_fold import fold, trained  # noqa: F401  (fixtures)


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
