"""A disk that is full: a conversion ends in one line and leaves nothing, and a mask stays as it was.

ITK's NIfTI writer prints a warning and raises nothing. A limit on the size of files makes it fail alike everywhere; a
real small disk is used where mounting one is permitted.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.errors import UserError
from dataset_conversion.sources.folder import convert_folder
from pseudo_labeling.slices import read_scan, write_mask
from tests.helpers.commands import Run
from tests.helpers.volume_files import read, tree, unmade_nnunet_folders, voxels, write

SHAPE = (20, 64, 64)  # 160 kB of noise, which hardly shrinks
SMALL = "400k"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond so many bytes fails, as on a full disk; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("no mount command here")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def scans(folder: Path, ending: str) -> Path:
    for seed in range(5):
        write(folder / f"c{seed}{ending}", voxels(seed, SHAPE if seed else (4, 16, 16)))
    return folder


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_convert_leaves_nothing_where_a_scan_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    nnunet = unmade_nnunet_folders(tmp_path, monkeypatch)
    images = scans(tmp_path / "images", ending)
    with files_of_at_most(30_000), pytest.raises(UserError) as caught:
        convert_folder(images, dataset_id=1, name="A")
    message = str(caught.value)
    assert str(nnunet / "raw/Dataset001_A/imagesTr/c") in message
    assert ".partial" not in message
    assert "\n" not in message
    assert [*nnunet.glob("*/*"), *nnunet.glob("*/.*")] == []
    assert convert_folder(images, dataset_id=1, name="A").train == 4


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_convert_on_a_full_disk_names_file_and_free_space(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clisc: Run, ending: str
) -> None:
    images = scans(tmp_path / "images", ending)
    for name in ("raw", "preprocessed"):
        (small_disk / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(small_disk / name))
    monkeypatch.delenv("nnUNet_results", raising=False)
    result = clisc("convert", "folder", "--images", images, "-d", 1, "-n", "A", ok=None)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert f"error: {small_disk}/raw/Dataset001_A/imagesTr/c" in last
    assert "MB free" in last
    assert "Traceback" not in result.stderr
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    assert [*small_disk.glob("*/*"), *small_disk.glob("*/.*")] == []


@pytest.mark.parametrize("how", ["limit", "disk"])
def test_a_mask_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, request: pytest.FixtureRequest, how: str
) -> None:
    scan = read_scan(write(tmp_path / "scan.nii.gz", voxels(0, SHAPE)))
    folder = request.getfixturevalue("small_disk") if how == "disk" else tmp_path / "labels"
    old = np.zeros(scan.square_shape, bool)
    old[3:5, 3:5, 3:5] = True
    write_mask(scan, old, folder / "a.nii.gz")
    if how == "disk":
        with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(1024)):
                pass
    before = tree(folder)
    noise = np.random.default_rng(0).random(scan.square_shape) > 0.5
    limit = 2_000 if how == "limit" else 1 << 40
    with files_of_at_most(limit), pytest.raises(UserError, match=r"[MG]B free") as caught:
        write_mask(scan, noise, folder / "a.nii.gz")
    assert str(caught.value).startswith(f"{folder / 'a.nii.gz'}: ")
    assert tree(folder) == before
    assert read(folder / "a.nii.gz").sum() == scan.from_squares(old).sum() > 0
