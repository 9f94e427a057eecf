"""The paper's schedule, the variants, and a model trained by the installed commands."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_clisc.training import trainer as trainers
from nnunetv2_clisc.training.checkpoints import export_stock, read_checkpoint
from nnunetv2_clisc.training.trainer import CLISCTrainer, CLISCTrainer_noSelfTraining, CLISCTrainer_small
from pseudo_labeling.precision import has_bfloat16
from tests.helpers.commands import program
from tests.helpers.tiny_nnunet import CASES, NAME, QuickTrainer, TinyDataset, lesion

VARIANTS = [name for name in dir(trainers) if name.startswith("CLISCTrainer")]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_keep_nnunets_signature(name: str) -> None:
    expected = [*inspect.signature(nnUNetTrainer.__init__).parameters]
    assert [*inspect.signature(getattr(trainers, name).__init__).parameters] == expected


def test_schedule_is_the_papers(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(CLISCTrainer_noSelfTraining)
    trainer.initialize()
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.01, 0.9, 1e-4, True)
    assert trainer.num_epochs == 400
    for epoch in (0, 123, 399):
        trainer.lr_scheduler.step(epoch)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - epoch / 400) ** 0.9)
    assert isinstance(trainer.loss.loss, DC_and_CE_loss)
    assert CLISCTrainer.rounds == 2
    assert CLISCTrainer.min_iterations == 1


def test_trainer_loss_and_transforms_pickle(tiny: TinyDataset) -> None:
    trainer = tiny.trainer()
    trainer.initialize()
    again = pickle.loads(pickle.dumps(trainer))
    assert type(again) is QuickTrainer
    assert again.plans_manager.plans == trainer.plans_manager.plans
    loss = pickle.loads(pickle.dumps(trainer.loss))
    torch.manual_seed(0)
    outputs = [torch.randn(2, 2, 16, 32, 32), torch.randn(2, 2, 8, 16, 16)]
    targets = [torch.randint(0, 2, (2, 1, 16, 32, 32)), torch.randint(0, 2, (2, 1, 8, 16, 16))]
    assert torch.equal(loss(outputs, targets), trainer.loss(outputs, targets))
    loaders = trainer.get_dataloaders()
    pickle.dumps(loaders[0].data_loader)


def test_small_variant_mirrors_in_training_only(tiny: TinyDataset) -> None:
    trainer = tiny.trainer(CLISCTrainer_small)
    *_, mirrored = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirrored == (0, 1, 2)
    assert trainer.inference_allowed_mirroring_axes is None
    full = tiny.trainer(CLISCTrainer)
    full.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert full.inference_allowed_mirroring_axes == (0, 1, 2)


@pytest.mark.parametrize("bfloat16", ["0", "1"])
def test_channels_are_last_on_a_cpu_and_the_network_computes_the_same(
    tiny: TinyDataset, bfloat16: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLISC_BFLOAT16", bfloat16)
    trainer = tiny.trainer(CLISCTrainer_small)
    trainer.initialize()
    convolutions = [module for module in trainer.network.modules() if isinstance(module, torch.nn.Conv3d)]
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last_3d) for c in convolutions)
    scans = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    contiguous = copy.deepcopy(trainer.network).to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        ours, plain = trainer.network(scans)[0], contiguous(scans)[0]
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_switch_keeps_a_training_in_float32(tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU without bfloat16 instructions does can be measured and tested on one that has them."""
    trainer = tiny.trainer(CLISCTrainer_small)
    assert torch.is_autocast_enabled("cpu") is False
    monkeypatch.setenv("CLISC_BFLOAT16", "1")  # the tests may be run with it off
    for value, fast in (("0", False), ("1", has_bfloat16(torch.device("cpu")))):
        monkeypatch.setenv("CLISC_BFLOAT16", value)
        with trainer.inference_settings():
            assert torch.is_autocast_enabled("cpu") is fast


def test_installed_commands_train_predict_and_export(tiny: TinyDataset, found_by_nnunet: None, tmp_path: Path) -> None:
    """`nnUNetv2_train` with a user's own trainer folder, `nnUNetv2_predict`, and the export for stock nnU-Net."""
    environment = os.environ | {"nnUNet_n_proc_DA": "1"}  # data loading in another process, as usual
    common = ["-device", "cpu"]

    def run(*command: str) -> str:
        result = subprocess.run(
            [program(command[0]), *command[1:], *common], capture_output=True, text=True, env=environment
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return result.stdout

    log = run("nnUNetv2_train", "611", "3d_fullres", "0", "-tr", "QuickTrainer")
    assert log.index("round 1 of 2") < log.index("prompting SAM") < log.index("round 2 of 2")
    assert log.count("compares with pseudo-labels") >= 3
    fold = tmp_path / "results" / NAME / "QuickTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    assert (fold / "validation" / f"{CASES[5]}.nii.gz").is_file()

    scans = tmp_path / "scans"
    scans.mkdir()
    for case in CASES[4:]:
        shutil.copyfile(tiny.raw / "imagesTr" / f"{case}_0000.nii.gz", scans / f"{case}_0000.nii.gz")
    arguments = ["-f", "0", "-i", str(scans), "-npp", "1", "-nps", "1"]
    model = ["-d", "611", "-c", "3d_fullres", "-tr", "QuickTrainer"]
    run("nnUNetv2_predict", *model, *arguments, "-o", str(tmp_path / "ours"))
    exported = export_stock(fold, tmp_path / "stock")
    assert read_checkpoint(exported)["trainer_name"] == "nnUNetTrainer"
    environment["nnUNet_extTrainer"] = ""
    run("nnUNetv2_predict_from_modelfolder", "-m", str(tmp_path / "stock"), *arguments, "-o", str(tmp_path / "theirs"))
    for case in CASES[4:]:
        ours, theirs = (sitk.ReadImage(str(tmp_path / n / f"{case}.nii.gz")) for n in ("ours", "theirs"))
        assert ours.GetSize() == (*lesion(0)[0].shape[::-1],)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
