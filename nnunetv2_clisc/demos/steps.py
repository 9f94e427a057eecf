"""What the demos share: a folder of their own, steps that a user could type, and the time of each."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.errors import UserError
from dataset_conversion.files import write_json
from dataset_conversion.scans.volumes import write_image

CLISC = "nnUNetv2_clisc"
TWO_WORDS = ("baseline", "convert")  # commands of ours whose next word says what they do


class Demo:
    """A demo under way: its folders, its dataset, and how long each step took.

    Args:
        output: folder for everything; must not exist or hold an earlier demo, which is replaced.
        number, name: of the dataset that is labelled.
        device: `cpu` or `cuda`.

    Attributes:
        here: the folder.
        raw, results: the dataset's folders, which nnU-Net's variables in the environment lead to.
        truth: the true masks of its training cases, in a supervised dataset of the next number.

    Raises:
        UserError: the folder holds something that is no earlier demo.
    """

    def __init__(self, output: Path, number: int, name: str, device: str) -> None:
        marker = output / "clisc_demo"
        if output.exists() and any(output.iterdir()) and not marker.exists():
            raise UserError(f"-o {output}: the folder is not empty and no earlier demo; name another")
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        marker.touch()
        self.here = output.resolve()
        self.number, self.name, self.device = number, name, device
        folders = {key: self.here / key for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for key, folder in folders.items():
            folder.mkdir()
            os.environ[key] = str(folder)
        dataset = f"Dataset{number}_{name}"
        self.raw, self.results = folders["nnUNet_raw"] / dataset, folders["nnUNet_results"] / dataset
        self.truth = folders["nnUNet_raw"] / f"Dataset{number + 1}_{name}_fullsup" / "labelsTr"
        self._start = time.monotonic()
        self._times: list[tuple[str, float]] = []

    def supervised(self) -> Demo:
        """The same demo on the supervised dataset: for the commands of training and prediction."""
        twin = copy(self)
        twin.number = self.number + 1
        twin.raw = self.truth.parent
        twin.results = self.results.with_name(twin.raw.name)
        return twin

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """What is done inside is a step of this name."""
        start = time.monotonic()
        yield
        self._times.append((name, time.monotonic() - start))

    def convert(self, kind: str, made: Path, masks: str, *more: str) -> list[str]:
        """`convert KIND` of made-up data, with a supervised dataset beside it."""
        return [CLISC, "convert", kind, "--images", str(made / "images"), "--labels", str(made / masks),
                "--split", str(made / "split.json"), "-d", str(self.number), "-n", self.name,
                "--fullsup-d", str(self.number + 1), *more]  # fmt: skip

    def pseudo_label(self, seed: int, *more: str) -> list[str]:
        """`pseudo_label` with the embedded weights."""
        return [CLISC, "pseudo_label", "-d", str(self.number), "-device", self.device, "--weights", "embedded",
                "--seed", str(seed), *more]  # fmt: skip

    def plan(self, configuration: str, *more: str) -> list[str]:
        """nnU-Net's planning and preprocessing."""
        return ["nnUNetv2_plan_and_preprocess", "-d", str(self.number), "-c", configuration, "-np", "2",
                "-npfp", "2", *more]  # fmt: skip

    def train(self, configuration: str, trainer: str, *more: str) -> list[str]:
        """nnU-Net's training of fold 0."""
        return ["nnUNetv2_train", str(self.number), configuration, "0", "-tr", trainer, "-device", self.device, *more]

    def predict(self, configuration: str, trainer: str, images: str, output: Path, *more: str) -> list[str]:
        """nnU-Net's prediction of the dataset's `imagesTr` or `imagesTs`."""
        return ["nnUNetv2_predict", "-d", str(self.number), "-c", configuration, "-f", "0", "-tr", trainer,
                "-device", self.device, "--disable_tta", "-npp", "1", "-nps", "1", "-i", str(self.raw / images),
                "-o", str(output), *more]  # fmt: skip

    def first_pass(self, output: Path) -> list[str]:
        """The test cases through the stages of the labelling, without a network of their own."""
        return [CLISC, "baseline", "pseudo_label", "-d", str(self.number), "--images", str(self.raw / "imagesTs"),
                "-o", str(output), "-device", self.device]  # fmt: skip

    def run(self, steps: Sequence[Sequence[str]]) -> None:
        """Run installed commands of this environment, each shown as a user would type it.

        Raises:
            UserError: a command failed.
        """
        for step in steps:
            words = 1 if step[0] != CLISC else 3 if step[1] in TWO_WORDS else 2
            with self.timed(" ".join(step[:words])):
                self._run(step)

    def report_times(self) -> None:
        """Print how long each step took."""
        print("\n" + "\n".join(f"{seconds:6.0f} s  {name}" for name, seconds in self._times))
        print(f"{time.monotonic() - self._start:6.0f} s  in all")

    def _run(self, command: Sequence[str]) -> None:
        print(f"\n$ {shlex.join(command)}", flush=True)
        start = time.monotonic()
        result = subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            env=os.environ | {"nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2"},
        )
        if result.returncode != 0:
            raise UserError(f"{command[0]}: ended with code {result.returncode}; its own message is above")
        print(f"[{time.monotonic() - start:.0f} s]", flush=True)


def write_case(folder: Path, case: str, scan: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> None:
    """Write a made-up scan and its true mask, both `(z, y, x)`, to `images/` and `labels/`.

    Args:
        folder: that holds both.
        case: its name.
        scan, mask: any numbers.
        spacing_mm: edges of a voxel, x first.
    """
    for kind, array in (("images", scan.astype(np.float32)), ("labels", mask.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_mm)
        write_image(image, folder / kind / f"{case}.nii.gz")


def write_split(folder: Path, cases: Sequence[str], training: int, validation: int) -> None:
    """Write `split.json`: so many cases for training and validation in the order given, the others for testing."""
    trained = training + validation
    split = {"train": cases[:training], "val": cases[training:trained], "test": cases[trained:]}
    write_json(folder / "split.json", split)
