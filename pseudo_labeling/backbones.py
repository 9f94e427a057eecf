"""Networks that classify slices: by name from torchvision or timm, with two outputs, and where their maps are."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

from dataset_conversion.errors import UserError


def build_backbone(name: str, image_size: int, weights: dict[str, torch.Tensor] | None = None) -> tuple[nn.Module, str]:
    """A network of three input channels and two outputs.

    Args:
        name: of torchvision (`resnet50`, `mobilenet_v2`, `efficientnet_b0`, `vit_b_16`, `swin_s`, …), or else of timm.
        image_size: edge of its input in pixels; a transformer has its tokens' places counted for it.
        weights: state dict of this network with ImageNet's 1000 outputs, as torchvision or timm names its tensors, or
            as the package `efficientnet_pytorch` does; random ones where none is given.

    Returns:
        The network, and what its weights come from, for the record.

    Raises:
        UserError: no library has it, it ends in no linear layer, or the weights are another network's.
    """
    if name in torchvision.models.list_models(module=torchvision.models):
        tokens = {"image_size": image_size} if name.startswith("vit_") else {}
        try:
            published = torchvision.models.get_model(name, weights=None, **tokens)
        except (AssertionError, ValueError):
            raise UserError(f"settings.classifier.image_size: '{name}' takes no {image_size} px; try 224") from None
        if weights is not None:
            _fill(published, weights, name)
        replace_head(published, name)
        return published, f"torchvision {name}, {_origin(weights)}"
    if timm.is_model(name):
        network: Any = timm.create_model(name, pretrained=False, num_classes=2 if weights is None else 1000)
        if weights is not None:
            _fill(network, weights, name)
            network.reset_classifier(2)
        if hasattr(network, "set_input_size"):
            network.set_input_size(img_size=image_size)
        return network, f"timm {name}, {_origin(weights)}"
    raise UserError(f"settings.classifier.backbone: neither torchvision nor timm has a model '{name}'")


def _origin(weights: dict[str, torch.Tensor] | None) -> str:
    return "random" if weights is None else "ImageNet"


def _fill(network: nn.Module, weights: dict[str, torch.Tensor], name: str) -> None:
    wanted = network.state_dict()
    if "_conv_stem.weight" in weights and len(weights) == len(wanted):
        # `efficientnet_pytorch`: other names for the same tensors in the same order, whose shapes are checked below
        weights = dict(zip(wanted, weights.values(), strict=True))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:160]
        raise UserError(f"--classifier-weights: not the weights of '{name}' ({words}); give that network's") from error


def replace_head(network: nn.Module, name: str) -> None:
    """Put a linear layer of two outputs where the last one is.

    Raises:
        UserError: there is none, or something follows it.
    """
    linear = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != 1000:
        raise UserError(f"settings.classifier.backbone: '{name}' ends in no linear layer; try resnet50")
    path, head = linear[-1]
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Linear(head.in_features, 2))


def last_layer(classifier: nn.Module) -> str:
    """Name of the last module whose output still has places, from which the classifier's answer is made.

    Behind the last attention of a vision transformer only the class token counts, so there it is that block's input.

    Raises:
        UserError: a network of another build.
    """
    for path, module in classifier.named_modules():
        below = f"{path}." if path else ""
        if isinstance(module, VisionTransformer):
            return f"{below}encoder.layers.encoder_layer_{len(module.encoder.layers) - 1}.ln_1"
        if isinstance(module, SwinTransformer):
            stage = len(module.features) - 1
            return f"{below}features.{stage}.{len(module.features[stage]) - 1}.norm1"
        if isinstance(module, timm.models.vision_transformer.VisionTransformer):
            return f"{below}blocks.{len(module.blocks) - 1}.norm1"
        if isinstance(module, torchvision.models.ResNet):
            return f"{below}layer4.{len(module.layer4) - 1}"
        if hasattr(module, "feature_info"):  # timm
            return f"{below}{module.feature_info[-1]['module']}"
        if isinstance(getattr(module, "features", None), nn.Sequential):
            return f"{below}features.{list(dict(module.features.named_children()))[-1]}"
    raise UserError("settings.cam.layers: 'auto' knows no layer with maps in this backbone; name one")


def has_channels_last(classifier: nn.Module) -> bool:
    """Whether the network's maps are `(n, h, w, c)`, as a Swin transformer's are; their shape alone does not tell."""
    return any(
        isinstance(module, SwinTransformer) or getattr(module, "output_fmt", None) in ("NHWC", timm.layers.Format.NHWC)
        for module in classifier.modules()
    )


def as_maps(output: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """A layer's output as `(n, c, h, w)`: as it is, `(n, h, w, c)`, or tokens `(n, t, c)` with class tokens in front.

    Raises:
        ValueError: no places in it, or tokens of a picture that is not square.
    """
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if channels_last else output
    if output.ndim != 3:
        raise ValueError(f"gives {tuple(output.shape)}, which has no places; name a layer before")
    side = math.isqrt(output.shape[1])
    tokens = output[:, output.shape[1] - side**2 :]
    return tokens.transpose(1, 2).reshape(len(output), output.shape[2], side, side)
