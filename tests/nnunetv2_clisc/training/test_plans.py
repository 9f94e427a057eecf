"""The paper's network and patch in nnU-Net's plans."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from dataset_conversion.errors import UserError
from nnunetv2_clisc.training.plans import NetworkSettings, clipped_to_median, clisc_plans, pooling_strides
from tests.helpers.tiny_nnunet import TinyDataset


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
