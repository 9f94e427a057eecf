"""A tiny fold trained through both rounds, and what tests read in it or undo."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from nnunetv2_clisc.training.fold import FoldFolder
from nnunetv2_clisc.training.rounds import SelfTraining
from tests.helpers.tiny_nnunet import CASES, TinyDataset, digest

TRAIN, VAL = CASES[:5], CASES[5:]


def fold_of(trainer: SelfTraining) -> FoldFolder:
    return trainer.folder


def rows(folder: FoldFolder) -> list[dict[str, str]]:
    with (folder.s3f / "similarities.csv").open() as file:
        return list(csv.DictReader(file))


def seg_of(folder: Path, case: str) -> np.ndarray:
    return np.asarray(blosc2.open(str(folder / f"{case}_seg.b2nd"))[:])


def properties_of(folder: Path, case: str) -> dict[str, Any]:
    with (folder / f"{case}.pkl").open("rb") as file:
        return dict(pickle.load(file))


@pytest.fixture(scope="session")
def trained(planned: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of one uninterrupted run; tests copy it."""
    results = tmp_path_factory.mktemp("trained") / "results"
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("raw", "raw"), ("preprocessed", "preprocessed")):
            patch.setenv(f"nnUNet_{name}", str(planned.root / folder))
        patch.setenv("nnUNet_results", str(results))
        patch.setenv("nnUNet_n_proc_DA", "0")
        trainer = planned.trainer()
        trainer.run_training()
    return results


@pytest.fixture
def fold(trained: Path, tiny: TinyDataset) -> FoldFolder:
    """That run, copied into the test's own results folder."""
    shutil.copytree(trained, os.environ["nnUNet_results"], symlinks=True)
    return fold_of(tiny.trainer())


def back_to(folder: FoldFolder, stage: str, forget: Sequence[str] = ()) -> None:
    """Rewind a finished fold to a stage, as if it had been killed there."""
    state = json.loads((folder.path / "clisc_state.json").read_text())
    (folder.path / "clisc_state.json").write_text(json.dumps(state | {"stage": stage}))
    for name in forget:
        shutil.rmtree(folder.path / name, ignore_errors=True)
        (folder.path / name).unlink(missing_ok=True)


def s3f_again(folder: FoldFolder, tiny: TinyDataset, change: Callable[[SelfTraining], None] | None = None) -> Any:
    back_to(folder, "s3f", forget=["s3f", "round_2"])
    trainer = tiny.trainer()
    trainer._split = (list(TRAIN), list(VAL))
    if change:
        change(trainer)
    trainer._relabel()
    return digest(folder.s3f), digest(folder.training_files)
