"""Dataset 501 pseudo-labelled by one uninterrupted run of the installed command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.commands import convert, label_arguments, program


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """nnU-Net's folders with the dataset, and masks for its test cases; never written to by a test."""
    return label_scans(tmp_path_factory.mktemp("labelled"), scans, "--labels", scans / "labels").parents[1]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """The raw folder of the dataset, converted without any mask; two folders up what the command printed: `stdout`."""
    return label_scans(tmp_path_factory.mktemp("reference"), scans)


def label_scans(parent: Path, scans: Path, *more: object) -> Path:
    """Convert scans and label them in nnU-Net's folders below `parent`; returns the raw folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (parent / name).mkdir()
            patch.setenv(name, str(parent / name))

        def run(*arguments: object) -> subprocess.CompletedProcess[str]:
            done = subprocess.run([program("nnUNetv2_clisc"), *map(str, arguments)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            return done

        dataset = convert(run, scans, *more)
        (parent / "stdout").write_text(run(*label_arguments()).stdout)
    return dataset
