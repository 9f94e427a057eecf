"""A start for small networks: weights trained on phantoms with their true masks, and on no scan (docs/method.md).

The idea is that of Sim2Real, which the paper compares with ([9]); here its network is where round 1 begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nnunetv2_clisc.training.plans import NetworkSettings
from pseudo_labeling.weights.files import WeightRecord, locate

# fewer convolutions than the paper's where they cost most, at full resolution and on the way up: two thirds of a step's
# time, and a higher Dice on phantoms in equal time
NETWORK = NetworkSettings(
    features=(8, 16, 32, 64, 128),
    first_convolutions=1,
    decoder_convolutions=1,
    patch=(32, 96, 96),
    patch_2d=(160, 160),
)


def start_record() -> WeightRecord:
    """The embedded weights, for logs and records.

    Raises:
        UserError: the package's file is damaged.
    """
    return locate("unet", "embedded")[1]


@lru_cache(maxsize=1)
def start_weights() -> dict[str, Tensor]:
    """The embedded weights by name, float32, of the network that upsamples by two on every axis.

    Raises:
        UserError: the package's file is damaged.
    """
    return {name: tensor.float() for name, tensor in load_file(locate("unet", "embedded")[0]).items()}


def fill_with_start(network: nn.Module, channel: int = 0) -> bool:
    """Give a U-Net of :data:`NETWORK`, with the strides that its patch asks for, the embedded weights.

    Args:
        network: another one stays as it is.
        channel: number of its FLAIR channel.

    Returns:
        Whether it was of that kind.
    """
    parameters = dict(network.named_parameters())
    try:
        values = fitted(start_weights(), parameters, channel)
    except (KeyError, ValueError):
        return False
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    return True


def fitted(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], channel: int = 0) -> dict[str, Tensor]:
    """Weights of the network that upsamples by two on every axis, for one whose plans leave an axis as it is.

    Where an upsampling kernel has one plane instead of two, it gets their mean: a step that no longer doubles an axis
    then gives the mean of the two planes it would have made. Of several channels all but one count for nothing at
    first. Output layers for another number of classes stay as they are, as with nnU-Net's `-pretrained_weights`.

    Args:
        weights: by name; of the shapes in `wanted`, but for upsampling kernels with two planes on each axis.
        wanted: the other network's.
        channel: of the other network's input that is the only one of this.

    Returns:
        One tensor for each name in `wanted`.

    Raises:
        KeyError, ValueError: another network: a name is missing or left over, or a shape differs elsewhere.
    """
    if left := weights.keys() - wanted.keys():
        raise ValueError(f"{min(left)}: the other network has no such tensor")
    result = {}
    for name, like in wanted.items():
        tensor = weights[name]
        for axis in range(2, tensor.ndim):
            if like.shape[axis] == 1 and tensor.shape[axis] == 2:
                tensor = tensor.mean(axis, keepdim=True)
        if tensor.ndim == 5 and tensor.shape[1] == 1 < like.shape[1]:
            tensor = torch.zeros(like.shape).index_copy_(1, torch.tensor([channel]), tensor)
        if ".seg_layers." in name and tensor.shape[0] != like.shape[0]:
            tensor = like.detach()
        if tensor.shape != like.shape:
            raise ValueError(f"{name}: {tuple(tensor.shape)} instead of {tuple(like.shape)}")
        result[name] = tensor
    return result
