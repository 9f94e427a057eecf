"""Checkpoints of a trainer: whole or not there, and never with code in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.checkpoints import read_checkpoint
from tests.helpers.commands import full_disk
from tests.helpers.tiny_nnunet import QuickTrainer, TinyDataset


class _Evil:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


def test_checkpoint_round_trip_and_no_leftovers(tiny: TinyDataset, tmp_path: Path) -> None:
    trainer = tiny.trainer()
    trainer.initialize()
    trainer.logger.log("train_losses", np.float32(0.5), 0)
    trainer._best_ema = np.float64(0.25)
    path = tmp_path / "out" / "checkpoint.pth"
    path.parent.mkdir()
    trainer.save_checkpoint(str(path))
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pth"]
    again = tiny.trainer()
    again.load_checkpoint(str(path))
    assert (again._best_ema, again.current_epoch) == (0.25, 1)
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)


@pytest.mark.parametrize("damage", ["truncated", "pickled code", "another trainer", "not a checkpoint"])
def test_bad_checkpoint_is_refused_in_one_line(tiny: TinyDataset, tmp_path: Path, damage: str) -> None:
    trainer = tiny.trainer()
    trainer.initialize()
    path = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(path))
    ran = tmp_path / "ran"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif damage == "pickled code":
        torch.save({"network_weights": _Evil(str(ran)), "trainer_name": "QuickTrainer", "init_args": {}}, path)
    elif damage == "another trainer":
        torch.save(torch.load(path, weights_only=True) | {"trainer_name": "Other"}, path)
    else:
        torch.save([1, 2], path)
    with pytest.raises(SystemExit, match=r"error: .*checkpoint\.pth"):
        trainer.load_checkpoint(str(path))
    assert not ran.exists()


def test_checkpoint_is_opened_once_and_never_with_code_in_it(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced by one with code right after it was checked."""
    trainer = tiny.trainer()
    trainer.initialize()
    path, ran = tmp_path / "checkpoint.pth", tmp_path / "ran"
    trainer.save_checkpoint(str(path))
    load = torch.load

    def load_then_swap(*arguments: Any, **more: Any) -> Any:
        content = load(*arguments, **more)
        torch.save({"network_weights": _Evil(str(ran)), "trainer_name": "QuickTrainer", "init_args": {}}, path)
        return content

    monkeypatch.setattr(torch, "load", load_then_swap)
    again = tiny.trainer()
    again.load_checkpoint(str(path))
    assert not ran.exists()
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)


@pytest.mark.parametrize("keyword", ["checkpoint", "filename_or_checkpoint", None])
@pytest.mark.parametrize("renamed", [True, False])
def test_loads_under_either_name_of_nnunets_parameter(
    tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyword: str | None, renamed: bool
) -> None:
    """nnU-Net's main branch calls the parameter `checkpoint` and takes content too (its pull request 3047)."""
    given: list[Any] = []

    def of_the_main_branch(self: nnUNetTrainer, checkpoint: dict[str, Any] | str) -> None:
        given.append(checkpoint)
        if not self.was_initialized:
            self.initialize()
        assert isinstance(checkpoint, dict)
        self.network.load_state_dict(checkpoint["network_weights"])

    trainer = tiny.trainer()
    trainer.initialize()
    path = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(path))
    if renamed:
        monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", of_the_main_branch)
    for source in (str(path), read_checkpoint(path)):
        again = tiny.trainer()
        if keyword is None:
            again.load_checkpoint(source)
        else:
            again.load_checkpoint(**{keyword: source})
        assert all(torch.equal(again.network.state_dict()[n], t) for n, t in trainer.network.state_dict().items())
    assert len(given) == (2 if renamed else 0)


def test_checkpoint_of_another_network_is_said_in_one_line(tiny: TinyDataset, tmp_path: Path) -> None:
    trainer = tiny.trainer()
    trainer.initialize()
    path = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(path))
    content = torch.load(path, weights_only=True)
    name, tensor = next((n, t) for n, t in content["network_weights"].items() if t.ndim == 5)
    content["network_weights"][name] = torch.cat([tensor, tensor])
    torch.save(content, path)
    with pytest.raises(SystemExit, match=r"error: .*checkpoint\.pth: its network is not the one.*without --c"):
        tiny.trainer().load_checkpoint(str(path))


def test_full_disk_while_a_checkpoint_is_written(tiny: TinyDataset, tmp_path: Path) -> None:
    """One line with the cure, the checkpoint before it stays, and nothing half-written does."""
    trainer = tiny.trainer()
    trainer.initialize()
    path = tmp_path / "out" / "checkpoint_latest.pth"
    path.parent.mkdir()
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()
    with (
        full_disk(10_000),
        pytest.raises(UserError, match=r"latest\.pth: could not be written whole .*make room and run"),
    ):
        trainer.save_checkpoint(str(path))
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint_latest.pth"]
    assert path.read_bytes() == before
    trainer.save_checkpoint(str(path))


def test_the_best_network_is_saved_before_its_epoch_counts_as_done(tiny: TinyDataset) -> None:
    """A kill right after checkpoint_latest.pth: training goes on with the next epoch and never looks back."""

    class Dies(QuickTrainer):
        def __init__(self, plans: Any, configuration: str, fold: int, dataset_json: Any, device: Any = None) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.save_every = 1

        def save_checkpoint(self, filename: str) -> None:
            super().save_checkpoint(filename)
            if filename.endswith("checkpoint_latest.pth"):
                raise KeyboardInterrupt

    trainer = tiny.trainer(Dies)
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    saved = {path.name: torch.load(path, weights_only=True) for path in trainer.folder.round(1).glob("*.pth")}
    assert saved.keys() == {"checkpoint_best.pth", "checkpoint_latest.pth"}
    best, latest = saved["checkpoint_best.pth"], saved["checkpoint_latest.pth"]
    assert best["current_epoch"] == latest["current_epoch"] == 1
    assert best["_best_ema"] == latest["_best_ema"] == latest["logging"]["ema_fg_dice"][0]
