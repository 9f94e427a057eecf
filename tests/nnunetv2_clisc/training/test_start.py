"""Where the small trainers begin: the embedded network fits their plans, knows lesions, and gives way to others."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from dataset_conversion.errors import UserError
from nnunetv2_clisc.scoring.metrics import dice
from nnunetv2_clisc.studies.baselines.simulated import simulated_mask
from nnunetv2_clisc.training.checkpoints import read_checkpoint
from nnunetv2_clisc.training.plans import NetworkSettings, architecture
from nnunetv2_clisc.training.start import NETWORK, fill_with_start, fitted, start_weights
from nnunetv2_clisc.training.trainer import CLISCTrainer_small, CLISCTrainer_small_scratch
from pseudo_labeling.embedded.phantoms import phantom_volume
from pseudo_labeling.slices import window_volume
from tests.helpers.tiny_nnunet import TinyDataset

PATCHES = ((16, 96, 96), (32, 96, 96))


class Begun(Exception):  # noqa: N818
    """Raised where the first epoch would begin."""


class Watched:
    """Stops before the first epoch of a round and keeps what it would have begun with."""

    epochs = 1
    begun: dict[str, torch.Tensor]

    def on_train_start(self) -> None:
        self.begun = {name: tensor.detach().clone() for name, tensor in self.network.named_parameters()}  # type: ignore[attr-defined]
        raise Begun


class Small(Watched, CLISCTrainer_small):
    pass


class Scratch(Watched, CLISCTrainer_small_scratch):
    epochs = 1


def network_for(
    patch: tuple[int, ...], channels: int = 1, classes: int = 2, settings: NetworkSettings = NETWORK
) -> nn.Module:
    made = architecture(settings, patch)
    arguments = made["network_class_name"], made["arch_kwargs"], made["_kw_requires_import"], channels, classes
    return get_network_from_plans(*arguments, deep_supervision=True)  # type: ignore[no-any-return]


def begins_with(trainer: Any) -> dict[str, torch.Tensor]:
    with pytest.raises(Begun):
        trainer.run_training()
    begun: dict[str, torch.Tensor] = trainer.begun
    return begun


def is_start(weights: dict[str, torch.Tensor]) -> bool:
    own = fitted(start_weights(), weights)
    return all(torch.equal(own[name], tensor) for name, tensor in weights.items())


def test_weights_fit_both_forms() -> None:
    """Doubling every axis is the whole form; where an axis stays as it is, a kernel's two planes become their mean."""
    whole = dict(network_for((128, 128, 128)).named_parameters())
    for patch in PATCHES:
        form = network_for(patch)
        own = fitted(whole, dict(form.named_parameters()))
        changed = {name for name, tensor in own.items() if tensor.shape != whole[name].shape}
        assert changed
        assert all("transpconv" in name for name in changed)
        for name in changed:
            torch.testing.assert_close(own[name][:, :, 0], whole[name].mean(2))
        outputs = torch.func.functional_call(form, own, (torch.zeros(1, 1, *patch),))
        assert outputs[0].shape == (1, 2, *patch)
        assert fill_with_start(form)
        assert is_start(dict(form.named_parameters()))
    with pytest.raises(ValueError, match=r"instead of"):
        fitted({name: tensor[:1] for name, tensor in whole.items()}, whole)
    with pytest.raises(ValueError, match="no such tensor"):
        fitted(whole, {name: tensor for name, tensor in whole.items() if "seg_layers.0" not in name})


def test_of_several_channels_only_flair_counts_at_first() -> None:
    one, several = network_for(PATCHES[0]), network_for(PATCHES[0], channels=3)
    assert fill_with_start(one)
    assert fill_with_start(several, channel=1)
    scans = torch.randn(1, 3, *PATCHES[0])
    with torch.no_grad():
        torch.testing.assert_close(several(scans)[0], one(scans[:, 1:2])[0])
    several(scans)[0].mean().backward()
    first = several.get_parameter("encoder.stages.0.0.convs.0.conv.weight")
    assert first.grad is not None
    assert (first.grad.abs().amax((0, 2, 3, 4)) > 0).all()  # the others can learn


def test_more_classes_keep_their_own_output_layers() -> None:
    network = network_for(PATCHES[0], classes=4)
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    assert fill_with_start(network)
    for name, tensor in network.named_parameters():
        if "norm" not in name and "bias" not in name:
            assert torch.equal(before[name], tensor) == ("seg_layers" in name)


def test_another_network_stays_as_it_is() -> None:
    network = network_for(PATCHES[0], settings=replace(NETWORK, features=(8, 16, 32, 64, 96)))
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    assert not fill_with_start(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_parameters())


@pytest.mark.parametrize("depth", [16, 40])
def test_it_finds_lesions_of_phantoms_it_has_not_seen(depth: int) -> None:
    found = []
    for seed in (101, 102):
        volume, mask = phantom_volume(np.random.default_rng(seed), (depth, 128, 128))
        slices = window_volume(volume)
        assert not np.array_equal(slices, window_volume(volume[:, ::-1]))
        mine = simulated_mask(slices, 120 / depth, 1.8, torch.device("cpu"))
        assert mine.shape == mask.shape
        found.append((dice(mine, mask, both_empty=1), dice(mine[::-1], mask, both_empty=1)))
    right, upside_down = np.mean(found, axis=0)
    assert right > max(0.4, 2 * upside_down)


def test_the_small_trainer_begins_with_it_and_its_control_does_not(tiny: TinyDataset) -> None:
    assert is_start(begins_with(tiny.trainer(Small)))
    assert not is_start(begins_with(tiny.trainer(Scratch)))


def test_a_round_that_was_begun_goes_on_with_its_own(tiny: TinyDataset) -> None:
    class Killed(Small):
        epochs, min_iterations, killed = 2, 1, True

        def on_train_start(self) -> None:
            if self.killed:
                CLISCTrainer_small.on_train_start(self)
            else:
                super().on_train_start()

        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            raise Begun

    trainer = tiny.trainer(Killed)
    trainer.save_every = 1
    with pytest.raises(Begun):
        trainer.run_training()
    kept = read_checkpoint(trainer.folder.round(1) / "checkpoint_latest.pth")["network_weights"]
    Killed.killed = False
    begun = begins_with(tiny.trainer(Killed, continued=True))
    assert not is_start(begun)
    assert all(torch.equal(kept[name], tensor) for name, tensor in begun.items())


def test_pretrained_weights_mean_what_they_mean(tiny: TinyDataset, tmp_path: Path) -> None:
    given = tiny.trainer(Scratch)
    given.initialize()
    given.save_checkpoint(str(tmp_path / "given.pth"))
    trainer = tiny.trainer(Small)
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "given.pth"))
    begun = begins_with(trainer)
    theirs = dict(given.network.named_parameters())
    assert all(torch.equal(theirs[name], t) for name, t in begun.items() if "seg_layers" not in name)
    assert not is_start(begun)


def test_a_variant_it_does_not_fit_is_told(tiny: TinyDataset) -> None:
    class Wider(Small):
        network_settings = replace(NETWORK, features=(8, 16, 24))

    with pytest.raises((UserError, SystemExit)) as told:
        tiny.trainer(Wider).run_training()
    assert "Wider" in str(told.value)
    assert "start_from_phantoms = False" in str(told.value)


def test_a_model_of_the_first_version_goes_on_as_it_began(tiny: TinyDataset) -> None:
    """One network stands for all folds of a model, so a fold that is begun later has it too."""

    class Earlier(CLISCTrainer_small):
        pass

    now = tiny.trainer(Earlier)
    plans = copy.deepcopy(now.plans_manager.plans)
    two = replace(NETWORK, first_convolutions=2, decoder_convolutions=2)
    plans["configurations"]["3d_fullres"]["architecture"] = architecture(two, PATCHES[0])
    plans["configurations"]["3d_fullres"]["patch_size"] = list(PATCHES[0])
    base = Path(str(now.output_folder_base))
    base.mkdir(parents=True, exist_ok=True)
    (base / "plans.json").write_text(json.dumps(plans))
    for fold in (0, 1):
        trainer = tiny.trainer(Earlier, fold=fold)
        assert (trainer.num_epochs, trainer.initial_lr, trainer.start_from_phantoms) == (30, 0.05, False)
        kwargs = trainer.configuration_manager.network_arch_init_kwargs
        assert kwargs["n_conv_per_stage_decoder"] == [2, 2, 2, 2]
        assert f"move {base} away" in Path(trainer.log_file).read_text()
    shutil.move(base, base.parent / "away")
    trainer = tiny.trainer(Earlier)
    assert trainer.start_from_phantoms
    assert trainer.configuration_manager.network_arch_init_kwargs["n_conv_per_stage_decoder"] == [1, 1, 1, 1]
