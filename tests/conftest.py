"""Phantom datasets on disk and the installed command, for tests that go the way a user goes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch is imported, which counts the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # commands that take all cores must not spin on the other's

from tests.helpers.commands import Run, in_process, make_scans
from tests.helpers.labelled_dataset import labelled, reference  # noqa: F401  (fixtures)
from tests.helpers.mirrored_dataset import both, planned_mirrored  # noqa: F401  (fixtures)
from tests.helpers.tiny_nnunet import found_by_nnunet, planned, tiny  # noqa: F401  (fixtures)
from tests.helpers.trained_fold import fold, trained  # noqa: F401  (fixtures)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantom cases: four train, one val, one test."""
    return make_scans(tmp_path_factory.mktemp("scans") / "scans", 6, (10, 96, 96))


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh nnU-Net folders, set in the environment; returns their parent."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def clisc() -> Run:
    """Run the command `nnUNetv2_clisc` with arguments; `ok=False` for a run that must fail.

    In this process: starting another one takes seconds. The fixtures `labelled` and `reference`, whose files many tests
    compare with, come from the installed command, and what is killed or run by parts is one too.
    """

    def run(*arguments: object, ok: bool | None = True) -> subprocess.CompletedProcess[str]:
        result = in_process(arguments)
        if ok is not None:
            assert (result.returncode == 0) == ok, result.stderr[-3000:]
        return result

    return run
