"""The paper's network, patch and schedule, and a model trained by the installed commands."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training import trainer as trainers
from nnunetv2_clisc.training.plans import (
    NetworkSettings,
    clipped_to_median,
    clisc_plans,
    export_stock,
    pooling_strides,
    read_checkpoint,
)
from nnunetv2_clisc.training.trainer import CLISCTrainer, CLISCTrainer_noSelfTraining, CLISCTrainer_small
from tests.helpers.commands import full_disk, program
from tests.helpers.paths import PROJECT
from tests.helpers.tiny_nnunet import CASES, NAME, QuickTrainer, TinyDataset, lesion

VARIANTS = [name for name in dir(trainers) if name.startswith("CLISCTrainer")]


def plans_of(tiny: TinyDataset) -> dict[str, Any]:
    return dict(json.loads((tiny.preprocessed / "nnUNetPlans.json").read_text()))


def build(plans: dict[str, Any]) -> torch.nn.Module:
    """The network as nnU-Net's predictor builds it, from the plans alone."""
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    return nnUNetTrainer.build_network_architecture(manager, configuration, 1, 2, enable_deep_supervision=False)


@pytest.mark.parametrize(
    ("median", "patch"),
    [
        ([138.0, 170.0, 138.0], (128, 128, 128)),  # BraTS after cropping
        ([57.0, 256.0, 256.0], (64, 128, 128)),
        ([22.0, 64.5, 112.0], (32, 80, 112)),
        ([5.0, 300.0, 128.0], (16, 128, 128)),
    ],
)
def test_patch_is_clipped_to_the_median_shape(median: list[float], patch: tuple[int, ...]) -> None:
    assert clipped_to_median((128, 128, 128), median) == patch


def test_every_axis_of_the_papers_patch_is_halved_four_times() -> None:
    assert np.prod(pooling_strides((128, 128, 128), 5), axis=0).tolist() == [16, 16, 16]


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 128, 128), (32, 96, 48), (80, 112, 128)])
def test_thin_axes_keep_four_voxels_and_divide_evenly(patch: tuple[int, ...]) -> None:
    total = np.prod(pooling_strides(patch, 5), axis=0)
    assert (np.array(patch) % total == 0).all()
    assert (np.array(patch) // total >= 4).all()


def test_network_is_the_papers(tiny: TinyDataset) -> None:
    plans = clisc_plans(plans_of(tiny), "3d_fullres", NetworkSettings())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [32, 48, 48]  # 18 x 40 x 44 cropped to the head, at most
    assert configuration["batch_size"] == 2
    network = build(plans)
    assert isinstance(network, PlainConvUNet)
    convolutions = [m for m in network.encoder.modules() if isinstance(m, torch.nn.Conv3d)]
    assert [m.out_channels for m in convolutions] == [16, 16, 32, 32, 64, 64, 128, 128, 256, 256]
    assert {m.kernel_size for m in convolutions} == {(3, 3, 3)}
    kinds = {type(m).__name__ for m in network.modules()}
    assert {"InstanceNorm3d", "LeakyReLU"} <= kinds
    assert not {"Dropout", "Dropout3d"} & kinds
    image = torch.zeros(1, 1, *configuration["patch_size"])
    assert network(image).shape == (1, 2, *configuration["patch_size"])


def test_plans_given_are_not_changed(tiny: TinyDataset) -> None:
    plans = plans_of(tiny)
    clisc_plans(plans, "3d_fullres", NetworkSettings())
    assert plans == plans_of(tiny)


def test_changes_reach_a_configuration_that_inherits(tiny: TinyDataset) -> None:
    plans = plans_of(tiny)
    plans["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    changed = PlansManager(clisc_plans(plans, "mine", NetworkSettings())).get_configuration("mine")
    assert (changed.batch_size, changed.network_arch_init_kwargs["n_stages"]) == (2, 5)


@pytest.mark.parametrize("configuration", ["2d", "missing", "3d_cascade_fullres"])
def test_other_configurations_are_refused(tiny: TinyDataset, configuration: str) -> None:
    plans = plans_of(tiny)
    plans["configurations"]["2d"] = plans["configurations"]["3d_fullres"] | {"patch_size": [64, 64]}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    with pytest.raises(UserError, match=f"'{configuration}'.*use 3d_fullres"):
        clisc_plans(plans, configuration, NetworkSettings())


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


def test_installed_commands_train_predict_and_export(tiny: TinyDataset, tmp_path: Path) -> None:
    """`nnUNetv2_train` with a user's own trainer folder, `nnUNetv2_predict`, and the export for stock nnU-Net."""
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "mine.py").write_text("from tests.helpers.tiny_nnunet import QuickTrainer\n")
    environment = os.environ | {
        "nnUNet_extTrainer": str(extension),
        "PYTHONPATH": str(PROJECT),
        "nnUNet_n_proc_DA": "1",  # data loading in another process, as usual
    }
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
