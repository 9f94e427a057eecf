"""Predictions of round 1: cleaned up before they become labels and prompts, and written whole."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training import relabel
from nnunetv2_clisc.training.fold import FoldFolder
from nnunetv2_clisc.training.fold_data import FoldData
from nnunetv2_clisc.training.relabel import Relabelling, read_preprocessed, remove_islands
from tests.helpers.commands import full_disk
from tests.helpers.tiny_nnunet import CASES, TinyDataset, by_brightness, digest
from tests.helpers.trained_fold import TRAIN, back_to, s3f_again

SOON = 60.0  # seconds


def logits_of(mask: np.ndarray) -> torch.Tensor:
    """Two-class logits that say `mask`, in half precision as nnU-Net's predictor returns them."""
    rng = np.random.default_rng(0)
    margin = torch.from_numpy(np.where(mask, 1.0, -1.0) * rng.uniform(0.1, 8, mask.shape))
    return torch.stack([-margin, margin]).half()


def test_islands_go_and_nothing_else_changes() -> None:
    mask = np.zeros((6, 30, 30), dtype=bool)
    mask[1:5, 2:12, 2:12] = True  # 400 voxels
    mask[1:5, 20:27, 2:9] = True  # 196: more than a third
    island = np.zeros_like(mask)
    island[2:4, 20:25, 20:25] = True  # 50
    logits = logits_of(mask | island)
    cleaned = logits.clone()
    remove_islands(cleaned, 1 / 3)
    np.testing.assert_array_equal((cleaned[1] > cleaned[0]).numpy(), mask)
    assert torch.equal(cleaned[:, torch.from_numpy(~island)], logits[:, torch.from_numpy(~island)])


def test_paper_settings_keep_every_island_and_empty_predictions_stay_empty() -> None:
    mask = np.zeros((4, 8, 8), dtype=bool)
    for fraction in (0.0, 1 / 3):
        logits = logits_of(mask)
        remove_islands(logits, fraction)
        assert not (logits[1] > logits[0]).any()
    mask[1, 1, 1] = mask[2, 4:7, 4:7] = True
    logits = logits_of(mask)
    remove_islands(logits, 0.0)
    assert torch.equal(logits, logits_of(mask))


def test_full_disk_while_a_prediction_is_written(tiny: TinyDataset, tmp_path: Path) -> None:
    """ITK says nothing; the cut mask must not get the name of a whole one."""
    path = tmp_path / "predictions" / f"{CASES[0]}.nii.gz"
    with tiny.trainer().between_rounds() as relabelling:
        logits, properties = relabelling._predict(CASES[0], read_preprocessed(CASES[0], relabelling.data.cases_folder))
        with (
            full_disk(100),
            pytest.raises(UserError, match=r"case_0\.nii\.gz: could not be written whole .*make room"),
        ):
            relabelling._write_prediction(path, logits, properties)
        assert not list(path.parent.iterdir())
        relabelling._write_prediction(path, logits, properties)
    assert sitk.ReadImage(str(path)).GetSize() == (44, 40, 18)


@pytest.mark.parametrize(("labellers", "voxels", "most"), [(1, 2**26, 2), (3, 2**26, 4), (3, 18 * 40 * 44 * 3 - 1, 0)])
def test_same_files_however_many_cases_are_in_work(
    labellers: int, voxels: int, most: int, fold: FoldFolder, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, on a GPU, and where cases are too large to lie beside each other; never more than are said."""
    expected = digest(fold.s3f), digest(fold.training_files)
    unfinished: list[int] = []
    predict = Relabelling._predict

    def counted(self: Relabelling, case: str, given: Any) -> Any:
        unfinished.append(len(unfinished) - len(list(self.folder.finished_cases.glob("*.json"))))
        return predict(self, case, given)

    monkeypatch.setattr(Relabelling, "_predict", counted)
    monkeypatch.setattr(Relabelling, "_labellers", labellers)
    monkeypatch.setattr(relabel, "AHEAD_VOXELS", voxels)
    assert s3f_again(fold, tiny) == expected
    assert (len(unfinished), max(unfinished)) == (5, most)


def test_next_case_is_predicted_while_one_is_labelled(
    fold: FoldFolder, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network and SAM stay in the caller's thread: autocast and CUDA's device are a thread's own."""
    back_to(fold, "s3f", forget=["s3f", "round_2"])
    predicted = {case: threading.Event() for case in TRAIN}
    threads: dict[str, set[int]] = {"predict": set(), "label": set(), "segment": set()}
    predict, label = Relabelling._predict, Relabelling._label

    def noted_predict(self: Relabelling, case: str, given: Any) -> Any:
        threads["predict"].add(threading.get_ident())
        predicted[case].set()
        return predict(self, case, given)

    def noted_label(self: Relabelling, case: str, given: Any) -> Any:
        threads["label"].add(threading.get_ident())
        following = TRAIN[min(TRAIN.index(case) + 1, 4)]
        assert predicted[following].wait(SOON), "the network waits for the labels"
        return label(self, case, given)

    def segment(images: np.ndarray, roi: np.ndarray, pixel_mm: float) -> np.ndarray:
        threads["segment"].add(threading.get_ident())
        return by_brightness(images, roi, pixel_mm)

    monkeypatch.setattr(Relabelling, "_predict", noted_predict)
    monkeypatch.setattr(Relabelling, "_label", noted_label)
    with tiny.trainer().between_rounds() as relabelling:
        relabelling.segment = segment
        relabelling.run(TRAIN)
    assert threads["predict"] == threads["segment"] == {threading.get_ident()}
    assert threading.get_ident() not in threads["label"]


def test_mistake_in_a_case_ends_in_one_line_and_the_next_run_goes_on(
    fold: FoldFolder, tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(fold.s3f), digest(fold.training_files)
    back_to(fold, "s3f", forget=["s3f", "round_2", "checkpoint_final.pth"])
    shown = FoldData.shown
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    with monkeypatch.context() as patch:
        patch.setattr(FoldData, "shown", lambda data, case: [broken] if case == TRAIN[2] else shown(data, case))
        with pytest.raises(SystemExit, match=r"^error: .*broken\.nii\.gz"):
            tiny.trainer().run_training()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert sorted(path.stem for path in fold.finished_cases.iterdir()) == TRAIN[:2]
    tiny.trainer()._relabel()
    assert (digest(fold.s3f), digest(fold.training_files)) == expected
