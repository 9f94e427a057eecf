"""A source archive from which the package can be built, and a wheel with what a user runs and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(what: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-W", "ignore", "-c", BUILD, what, str(target)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return target / result.stdout.split()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive of the project, and the wheel built from nothing but that archive."""
    folder = tmp_path_factory.mktemp("packaging")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "demo_output", "runs")
    shutil.copytree(PROJECT, folder / "project", ignore=ignored)
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"")  # that they are packed is what counts; their 27 MB only take time
    sdist = build("build_sdist", folder / "project", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    return sdist, build("build_wheel", next((folder / "unpacked").iterdir()), folder)


def test_source_archive_has_what_a_reader_and_a_builder_need(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    texts = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    assert texts | {"setup.py", "pyproject.toml", "nnunetv2_clisc_discovery.pth"} <= names


def test_wheel_has_every_file_of_the_packages_and_nothing_else(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    packages = ("dataset_conversion", "pseudo_labeling", "nnunetv2_clisc")
    files = {
        path.relative_to(PROJECT).as_posix()
        for package in packages
        for path in (PROJECT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files | {"nnunetv2_clisc_discovery.pth"}
    assert {f"{package}/py.typed" for package in packages} <= names
