"""A small dose of `make kill-test`: the last stages of labelling and of the chain, which no other test kills."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks.reliability.chain import Stage
from benchmarks.reliability.kill_test import KillTest
from benchmarks.reliability.outputs import Reader
from tests.helpers.commands import label_arguments

MODEL = "{root}/nnUNet_results/Dataset611_Tiny/QuickTrainer__nnUNetPlans__3d_fullres"
STAGES = (
    Stage("finish", ("nnUNetv2_clisc", *map(str, label_arguments(more=["--stage", "finish"])))),
    Stage("export", ("nnUNetv2_clisc", "export_stock", "--model", MODEL, "-o", "{root}/export")),
)


class Bar:
    """Counts what a progress bar would show."""

    shown = 0

    def update(self) -> None:
        self.shown += 1


def test_killed_finish_and_export_end_as_if_not_killed(labelled: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled, tmp_path / "template", symlinks=True)
    shutil.copytree(trained, tmp_path / "template" / "nnUNet_results", symlinks=True, dirs_exist_ok=True)
    test = KillTest(tmp_path, np.random.default_rng(3), STAGES)
    test.uninterrupted(again=False)
    bar = Bar()
    for number in (1, 2, 3):
        test.killed_chain(number, {"finish": 1, "export": 2}, bar)
        if bar.shown >= 2:  # of three: on a busy machine a stage may end before it is hit
            break
    assert not test.faults
    assert len(test.hits) == bar.shown >= 2
    # what was compared is there to be compared
    assert any("labelsTr" in name for name in test.reference["finish"])
    assert any(name.startswith("export/fold_0") for name in test.reference["export"])


def test_cut_files_are_noticed(labelled: Path, trained: Path, tmp_path: Path) -> None:
    """Of every kind that a chain writes, one file cut in half."""
    reader = Reader()
    files = [path for root in (labelled, trained) for path in sorted(root.rglob("*")) if path.is_file()]
    endings = (".nii.gz", ".json", ".npz", ".pt", ".pth", ".b2nd", ".pkl", ".png")
    for ending in endings:
        source = next(path for path in files if path.name.endswith(ending))
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        assert reader.fault(path) is None, path
        whole = reader.digest(path)
        assert whole
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert reader.fault(path) is not None, path
