"""The export for nnU-Net without this package; with nnU-Net's own commands in `test_trainer.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.checkpoints import export_stock
from tests.helpers.commands import full_disk
from tests.helpers.tiny_nnunet import TinyDataset


def test_export_needs_a_trained_fold_and_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint_final\.pth: no such checkpoint"):
        export_stock(tmp_path, tmp_path / "new")
    with pytest.raises(UserError, match="exists already"):
        export_stock(tmp_path, tmp_path)


def test_export_is_there_whole_or_not_at_all(tiny: TinyDataset, tmp_path: Path) -> None:
    trainer = tiny.trainer()
    trainer.initialize()
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    trainer.save_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))
    for name in ("plans.json", "dataset.json"):
        (model / name).write_text("{}")
    out = tmp_path / "out"
    with full_disk(10_000), pytest.raises(UserError, match=r"stock: could not be written whole .*make room"):
        export_stock(model / "fold_0", out / "stock")
    assert not [path for path in out.rglob("*") if path.is_file()]
    (out / ".partial-0a1b-stock" / "fold_0").mkdir(parents=True)  # of an export that was killed
    export_stock(model / "fold_0", out / "stock")
    assert [path.name for path in out.iterdir()] == ["stock"]
