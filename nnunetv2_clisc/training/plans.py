"""The paper's U-Net as nnU-Net plans: 3D, and for pictures the same in 2D."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from dataset_conversion.errors import UserError
from dataset_conversion.files import read_json

MULTIPLE = 16  # four halvings
SMALLEST_EDGE = 4  # voxels an axis keeps at the bottleneck, nnU-Net's own limit


@dataclass(frozen=True)
class NetworkSettings:
    """Network and patch (paper 3.1); the patch is an upper limit, in voxels of the resampled scans."""

    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    first_convolutions: int = 2  # of the first stage, at full resolution; the others on the way down have two
    decoder_convolutions: int = 2  # of each stage on the way up
    patch: tuple[int, int, int] = (128, 128, 128)
    batch_size: int = 2
    patch_2d: tuple[int, int] = (512, 512)  # of pictures, which have more pixels than slices
    batch_size_2d: int = 8


def clisc_plans(
    plans: dict[str, Any], configuration: str, settings: NetworkSettings, *, slices: bool = False
) -> dict[str, Any]:
    """Copy `plans` with the paper's network, patch and batch size in one configuration.

    Saved beside the checkpoint, such plans let stock nnU-Net build and feed the same network.

    Args:
        plans: as written by `nnUNetv2_plan_and_preprocess`.
        configuration: `3d_fullres`, another 3D configuration without a previous stage, or `2d` for pictures.
        slices: the trainer learns slice by slice: `2d`, of volumes too, and nothing else.

    Raises:
        UserError: the configuration is unknown, a cascade's second stage, or not of the kind that the trainer takes.
    """
    plans = deepcopy(plans)
    if configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        fitting = "2d" if slices else "3d_fullres"
        raise UserError(f"configuration '{configuration}': not in the plans, which have {known}; use {fitting}")
    planned = PlansManager(deepcopy(plans)).get_configuration(configuration)
    flat = len(planned.patch_size) == 2
    if slices and not flat:
        raise UserError(f"configuration '{configuration}': this trainer learns slice by slice; use 2d")
    sliced = flat and plans["original_median_shape_after_transp"][0] > 1
    if (sliced and not slices) or planned.previous_stage_name is not None:
        raise UserError(f"configuration '{configuration}': CLISC trains one 3D network; use 3d_fullres")
    patch = clipped_to_median(settings.patch_2d if flat else settings.patch, planned.median_image_size_in_voxels)
    changed = plans["configurations"][configuration]
    changed["patch_size"] = list(patch)
    changed["batch_size"] = settings.batch_size_2d if flat else settings.batch_size
    changed["architecture"] = architecture(settings, patch)
    return plans


def begun_with(settings: NetworkSettings, trainer: str, plans: dict[str, Any], configuration: str) -> bool:
    """Whether the results folder holds a model with this network: nnU-Net keeps one for all folds of a model.

    Args:
        settings: of the network; the patch may be any.
        trainer: its name.
        plans: of the dataset, as written by `nnUNetv2_plan_and_preprocess`.
        configuration: `3d_fullres` or another.
    """
    if not nnUNet_results.is_set():
        return False
    model = f"{trainer}__{plans['plans_name']}__{configuration}"
    path = Path(nnUNet_results, plans["dataset_name"], model, "plans.json")
    if not path.is_file():
        return False
    found = read_json(path)["configurations"][configuration]
    return bool(found["architecture"] == architecture(settings, tuple(found["patch_size"])))


def clipped_to_median(patch: tuple[int, ...], median: list[float]) -> tuple[int, ...]:
    """Shrink a patch to the data's median shape rounded up to a multiple of 16, so thin stacks are not mostly padding.

    Args:
        patch: `(z, y, x)` voxels.
        median: median shape of the resampled scans, `(z, y, x)` voxels.
    """
    return tuple(min(p, MULTIPLE * int(np.ceil(m / MULTIPLE))) for p, m in zip(patch, median, strict=True))


def pooling_strides(patch: tuple[int, ...], stages: int) -> list[list[int]]:
    """Strides of each stage: 2 on every axis, 1 on an axis that would fall below four voxels."""
    edges = list(patch)
    strides = [[1] * len(patch)]
    for _ in range(stages - 1):
        step = [2 if edge // 2 >= SMALLEST_EDGE else 1 for edge in edges]
        edges = [edge // s for edge, s in zip(edges, step, strict=True)]
        strides.append(step)
    return strides


def architecture(settings: NetworkSettings, patch: tuple[int, ...]) -> dict[str, Any]:
    """The network's entry in the plans.

    Args:
        settings: of a plain U-Net.
        patch: `(z, y, x)` voxels, or `(y, x)` pixels; no axis is pooled below four.
    """
    stages, axes = len(settings.features), len(patch)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(settings.features),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * stages,
            "strides": pooling_strides(patch, stages),
            "n_conv_per_stage": [settings.first_convolutions, *[2] * (stages - 1)],
            "n_conv_per_stage_decoder": [settings.decoder_convolutions] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
