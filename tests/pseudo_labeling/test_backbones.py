"""Backbones by name: two outputs, and the layer whose maps the answer is made from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.backbones import as_maps, build_backbone, has_channels_last, last_layer
from pseudo_labeling.cam import LayerCam
from pseudo_labeling.classifier import IMAGENET_MEAN, IMAGENET_STD, SliceClassifier

# name, edge of the input, last layer with maps, edge and channels of the maps
NETWORKS = [
    ("resnet18", 96, "backbone.layer4.1", 3, 512),
    ("mobilenet_v2", 96, "backbone.features.18", 3, 1280),
    ("efficientnet_b0", 96, "backbone.features.8", 3, 1280),
    ("vit_b_16", 96, "backbone.encoder.layers.encoder_layer_11.ln_1", 6, 768),
    ("swin_t", 96, "backbone.features.7.1.norm1", 3, 768),
    ("resnet10t", 96, "backbone.layer4", 3, 512),
    ("vit_tiny_patch16_224", 96, "backbone.blocks.11.norm1", 6, 192),
    ("swin_tiny_patch4_window7_224", 224, "backbone.layers.3", 7, 768),
]


@pytest.mark.parametrize(("name", "size", "layer", "edge", "channels"), NETWORKS)
def test_maps_of_the_last_layer_have_places(name: str, size: int, layer: str, edge: int, channels: int) -> None:
    torch.manual_seed(0)
    classifier = SliceClassifier(build_backbone(name, size)[0], IMAGENET_MEAN, IMAGENET_STD).eval()
    assert last_layer(classifier) == layer
    seen: list[torch.Tensor] = []
    classifier.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    inputs = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(1))
    assert classifier(inputs).shape == (2, 2)
    assert as_maps(seen[0], has_channels_last(classifier)).shape == (2, channels, edge, edge)
    maps = LayerCam(classifier, ["auto"])(inputs)
    assert maps.shape == (2, size, size)
    assert float(maps.amax()) == pytest.approx(1)  # a gradient reaches the layer


def test_tokens_and_channels_last_keep_their_places() -> None:
    maps = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    last = maps.permute(0, 2, 3, 1)
    tokens = torch.cat([torch.full((2, 1, 3), -1.0), last.reshape(2, 16, 3)], dim=1)  # a class token in front
    assert torch.equal(as_maps(maps, False), maps)
    assert torch.equal(as_maps(last, True), maps)
    assert torch.equal(as_maps(tokens, False), maps)


def test_a_layer_without_places_is_refused_in_words() -> None:
    classifier = SliceClassifier(build_backbone("resnet18", 64)[0], IMAGENET_MEAN, IMAGENET_STD)
    with pytest.raises(UserError, match=r"settings\.cam\.layers: fc: gives \(1, 2\), which has no places"):
        LayerCam(classifier, ["fc"])(torch.rand(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet5000", 64, "neither torchvision nor timm has a model 'resnet5000'"),
        ("squeezenet1_0", 64, "'squeezenet1_0' ends in no linear layer"),
        ("vit_b_16", 100, "'vit_b_16' takes no 100 px"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(name, size)


def test_auto_knows_no_layer_of_an_unknown_network() -> None:
    with pytest.raises(UserError, match="name one"):
        last_layer(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.LazyLinear(2)))
