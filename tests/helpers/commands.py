"""The installed commands as a user types them, scans to give them, and a disk that is full."""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_clisc.cli import main
from pseudo_labeling.embedded.phantoms import phantom_volume

# settings that make every stage run in seconds
QUICK = (
    "--set", "classifier.epochs=2", "--set", "classifier.image_size=64", "--set", "cam.layers=[\"layer2\",\"layer3\"]",
)  # fmt: skip
Run = Callable[..., subprocess.CompletedProcess[str]]


def program(name: str) -> str:
    """An installed command of this environment."""
    return str(Path(sys.executable).parent / name)


def in_process(arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run `nnUNetv2_clisc` in this process; what it writes, and its exit code, are those of a process of its own."""
    words, code, threads = [str(argument) for argument in arguments], 0, torch.get_num_threads()
    out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # pytest's, beside which the command would not set up its own
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            try:
                main(words)
            except SystemExit as done:
                code = int(done.code or 0)
            except Exception:
                traceback.print_exc()
                code = 1
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        torch.set_num_threads(threads)  # `relabel` takes all there are
    return subprocess.CompletedProcess(["nnUNetv2_clisc", *words], code, out.getvalue(), err.getvalue())


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that the user can mend says last."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


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


def kill_when(arguments: Sequence[object], reached: Callable[[], bool]) -> None:
    """Start `nnUNetv2_clisc` and kill -9 it as soon as a condition on the disk holds."""
    process = subprocess.Popen(
        [program("nnUNetv2_clisc"), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def label_arguments(seed: int = 0, more: Sequence[object] = ()) -> list[object]:
    """Arguments of a quick `pseudo_label` of dataset 501."""
    return ["pseudo_label", "-d", 501, "-device", "cpu", "--weights", "embedded", "--seed", seed, *QUICK, *more]
